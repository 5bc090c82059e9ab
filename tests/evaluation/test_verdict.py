"""The verdict on made data, whose truth is known."""

from typing import Any

import numpy as np
import pytest

from violence_detection.clips.clip import group_key
from violence_detection.evaluation.doubtful_labels import Predictions
from violence_detection.evaluation.metrics import evaluate
from violence_detection.evaluation.verdict import (
    Chance,
    EpochAccuracy,
    Verdict,
    Void,
    find_verdict,
    groups_for_width,
    perfect_by_chance,
    verdict_lines,
)

THRESHOLD = 0.5


def predicted(
    probabilities: np.ndarray, labels: np.ndarray, of_each: int = 1, split: str = "test"
) -> Predictions:
    """Return predictions of clips, `of_each` successive ones from one source; 0: no sources."""
    clips = [f"{split}/{number}.mp4" for number in range(len(labels))]
    groups = [
        group_key(clip, f"source {number // of_each}" if of_each else None)
        for number, clip in enumerate(clips)
    ]
    return Predictions(split, clips, groups, labels, probabilities)


def verdict_on(predictions: Predictions, **more: Any) -> Verdict:
    figures = evaluate(
        predictions.labels, predictions.probabilities, THRESHOLD, predictions.groups, seed=0
    )
    return find_verdict(predictions, figures, **more)


def alternating(clips: int) -> np.ndarray:
    return np.arange(clips) % 2


def separable(clips: int, of_each: int = 1, split: str = "test") -> Predictions:
    labels = alternating(clips)
    return predicted(0.05 + 0.9 * labels, labels, of_each, split)


def hopeless(clips: int, of_each: int = 1, split: str = "test") -> Predictions:
    random = np.random.default_rng(0)
    return predicted(random.random(clips), alternating(clips), of_each, split)


def test_separable_clips_of_many_sources_are_better_than_chance() -> None:
    first, second, third = verdict_on(separable(60, of_each=2)).sentences
    assert first == (
        "Better than chance: ROC-AUC 1.00, 95 % interval 1.00 to 1.00 over 30 sources."
    )
    assert "60 test clips of 30 sources" in second
    assert "100 % of 30 violent clips found, 0 % of 30 nonviolent clips reported" in second
    assert third.startswith("Next: ")


def test_hopeless_detector_is_not_called_better_and_accuses_no_label() -> None:
    predictions = hopeless(200, of_each=4)
    extreme = np.where(predictions.probabilities > 0.5, 0.999, 0.001)
    for probabilities in (predictions.probabilities, extreme):
        verdict = verdict_on(predicted(probabilities, predictions.labels, 4))
        assert verdict.chance is Chance.UNCERTAIN
        first, *_, last = verdict.sentences
        assert first.startswith("Not shown to be better than chance: ROC-AUC 0.")
        assert first.endswith("over 50 sources.")
        assert "check the labels" in last and len(verdict.sentences) == 3


def test_ranking_that_is_reversed_is_worse_than_chance() -> None:
    right = separable(60)
    first, _, third = verdict_on(predicted(1 - right.probabilities, right.labels)).sentences
    assert first.startswith("Worse than chance: ROC-AUC 0.00") and "swapped" in third


@pytest.mark.parametrize("clips", [2, 3, 6])
def test_few_clips_in_the_right_order_show_nothing(clips: int) -> None:
    first, second, third = verdict_on(separable(clips, of_each=0)).sentences
    assert first.startswith("Not shown to be better than chance: ROC-AUC 1.00")
    assert f"{clips} clips are too few" in first and "interval" not in first
    assert f"{clips // 2} of {clips // 2} violent clip" in second and "%" not in second
    assert "too few" in third


def test_small_numbers_are_counts_and_the_needed_number_of_sources_is_named() -> None:
    labels = alternating(12)
    probabilities = np.array([0.3, 0.8, 0.6, 0.2, 0.1, 0.7, 0.65, 0.9, 0.4, 0.55, 0.2, 0.35])
    verdict = verdict_on(predicted(probabilities, labels, of_each=2))
    first, second, third = verdict.sentences
    assert verdict.interval is not None
    low, high = verdict.interval
    assert f"95 % interval {low:.2f} to {high:.2f} over 6 sources" in first
    assert "12 test clips of 6 sources: 4 of 6 violent clips found, 2 of 6 nonviolent" in second
    assert "%" not in second
    wanted = groups_for_width(6, verdict.interval)
    assert wanted > 6 and f"about {wanted} sources" in third


def test_one_source_gives_no_interval() -> None:
    verdict = verdict_on(separable(12, of_each=12))
    first, second, third = verdict.sentences
    assert "one source, so no interval can be given" in first and "Better" not in first
    assert "12 test clips of 1 source:" in second and "other cameras" in third


@pytest.mark.parametrize(("label", "missing"), [(0, "violent"), (1, "nonviolent")])
def test_missing_class_gives_no_interval(label: int, missing: str) -> None:
    labels = np.full(12, label)
    first, second, third = verdict_on(predicted(np.linspace(0, 1, 12), labels)).sentences
    assert f"without {missing} clips, no interval" in first
    assert f"no {missing} clips" in second and "other class" in third


def test_wrong_labels_are_listed_the_most_contradicted_first_and_at_most_five() -> None:
    truth = alternating(200)
    wrong = [3, 50, 77, 120, 155, 190]
    labels, probabilities = truth.copy(), 0.04 + 0.92 * truth
    labels[wrong] = 1 - labels[wrong]
    probabilities[wrong] = 0.02 + 0.96 * truth[wrong]
    right = separable(40, split="val")
    validation_labels, validation_probabilities = right.labels.copy(), right.probabilities.copy()
    validation_labels[7], validation_probabilities[7] = 0, 0.997
    validation = predicted(validation_probabilities, validation_labels, split="val")
    verdict = verdict_on(predicted(probabilities, labels), others=[validation])
    names = [doubt.clip for doubt in verdict.doubtful]
    assert names[0] == "val/7.mp4"
    assert sorted(names[1:]) == sorted(f"test/{number}.mp4" for number in wrong)
    listed = verdict.sentences[3]
    assert listed.startswith("7 labels may be wrong")
    assert "val/7.mp4 (1.00), " in listed and "test/50.mp4 (0.02)" in listed
    assert listed.count(".mp4") == 5


def test_detector_that_is_often_sure_and_wrong_accuses_no_label() -> None:
    """Better than chance, but one in five of its sure predictions is a mistake."""
    labels = alternating(200)
    right = np.arange(200) % 10 > 1
    probabilities = np.where(right == (labels == 1), 0.97, 0.03)
    verdict = verdict_on(predicted(probabilities, labels))
    assert verdict.chance is Chance.BETTER
    assert not verdict.doubtful


@pytest.mark.parametrize(("weak", "fault"), [(0, "reported as violent"), (1, "missed")])
def test_class_that_fails_is_named_with_its_count(weak: int, fault: str) -> None:
    labels = alternating(40)
    probabilities = np.where(labels == 1, 0.9, 0.1)
    failing = np.flatnonzero(labels == weak)[:9]
    probabilities[failing] = np.where(weak == 1, 0.3, 0.7)
    verdict = verdict_on(predicted(probabilities, labels, of_each=2))
    assert verdict.weak_class == weak
    third = verdict.sentences[2]
    assert "9 of 20" in third and fault in third and "--threshold-for" in third
    chosen = verdict_on(predicted(probabilities, labels, of_each=2), chosen_for="recall=0.95")
    assert "9 of 20" in chosen.sentences[2] and "--threshold-for" not in chosen.sentences[2]


def test_overfitting_is_named_with_both_accuracies() -> None:
    best = EpochAccuracy(7, 0.99, 0.71, training_clips=400, validation_clips=100)
    third = verdict_on(separable(60, 2), best_epoch=best).sentences[2]
    assert "by heart" in third and "training accuracy 0.99, validation 0.71" in third
    few = EpochAccuracy(7, 1.0, 0.5, training_clips=12, validation_clips=20)
    third = verdict_on(separable(60, 2), best_epoch=few).sentences[2]
    assert "training accuracy 12 of 12, validation 10 of 20" in third


@pytest.mark.parametrize(
    ("training", "validation", "clips"), [(0.95, 0.9, 1000), (0.75, 0.55, 1000), (1.0, 0.75, 4)]
)
def test_gap_that_can_be_chance_is_no_overfitting(
    training: float, validation: float, clips: int
) -> None:
    assert not EpochAccuracy(1, training, validation, 100, clips).shows_overfitting


def test_validation_clips_in_the_place_of_a_test_are_called_that() -> None:
    first, second, third = verdict_on(separable(60, 2, split="val")).sentences
    assert first.startswith("Better than chance")
    assert "60 validation clips" in second and "epoch and threshold were chosen" in second
    assert "--cross-validate" in third


def test_unknown_sources_are_asked_for() -> None:
    first, second, third = verdict_on(separable(60, of_each=0)).sentences
    assert "over 60 clips" in first and "source" not in second and "groups.csv" in third


def test_random_weights_give_no_verdict() -> None:
    void = Void("VGG19 had random weights", "use others")
    sentences = verdict_on(separable(60), void=void).sentences
    assert sentences == ["No verdict: VGG19 had random weights.", "Next: use others."]
    assert not [text for text in sentences if "chance" in text or "found" in text]


def test_probabilities_that_are_no_numbers_give_no_verdict() -> None:
    predictions = separable(60)
    figures = evaluate(predictions.labels, predictions.probabilities, 0.5, predictions.groups, 0)
    nan = predicted(np.full(60, np.nan), predictions.labels)
    first, second = find_verdict(nan, figures).sentences
    assert "not numbers" in first and "--learning-rate" in second


@pytest.mark.parametrize(
    ("labels", "groups", "expected"),
    [
        ([0, 1, 0, 1], "aabb", 1 / 4),  # each of both groups leans the right way
        ([0, 0, 0, 1, 1, 1], "abcdef", 1 / 20),
        ([0, 1, 1, 0, 1, 1], "aabbcd", 1 / 4),  # groups of one class cannot be out of order
    ],
)
def test_how_often_chance_ranks_all_clips(labels: list[int], groups: str, expected: float) -> None:
    assert perfect_by_chance(np.array(labels), list(groups)) == pytest.approx(expected)


@pytest.mark.parametrize(("groups", "of_each"), [(3, 4), (5, 1), (10, 4), (30, 1)])
def test_random_ranking_is_seldom_called_better_than_chance(groups: int, of_each: int) -> None:
    random = np.random.default_rng(0)
    called = 0
    for _ in range(100):
        labels = np.arange(groups * of_each) % 2
        by_group = np.repeat(random.random(groups), of_each)
        probabilities = (by_group + random.random(len(labels))) / 2
        called += verdict_on(predicted(probabilities, labels, of_each)).chance is Chance.BETTER
    assert called <= 9


def test_number_of_sources_that_is_promised_gives_that_interval() -> None:
    random = np.random.default_rng(1)

    def interval(groups: int) -> tuple[float, float]:
        labels = alternating(4 * groups)
        scores = random.normal(size=4 * groups) + np.repeat(random.normal(size=groups), 4)
        predictions = predicted(1 / (1 + np.exp(-scores - labels)), labels, of_each=4)
        found = verdict_on(predictions).interval
        assert found is not None
        return found

    wanted = [groups_for_width(20, interval(20)) for _ in range(20)]
    low, high = interval(int(np.median(wanted)))
    assert (high - low) / 2 == pytest.approx(0.1, abs=0.025)


def test_lines_fit_the_console_and_no_name_is_broken() -> None:
    name = "val/violent/" + "a-very-long-name-" * 8 + ".mp4"
    lines = verdict_lines(["word " * 40, f"1 label may be wrong: {name} (0.02). Look at it."])
    assert name in "\n".join(lines)
    assert max(len(line) for line in lines if name not in line) <= 80
