import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from violence_detection.errors import UserError
from violence_detection.evaluation.comparison import (
    FEWEST_GROUPS,
    Comparison,
    RunPredictions,
    compare,
    setting_differences,
)
from violence_detection.evaluation.metrics import evaluate
from violence_detection.settings.schema import Settings


def run_that_is(
    right: np.ndarray, groups: list[str] | None = None, name: str = "run"
) -> RunPredictions:
    """Return a run that predicts these clips correctly; every second one is violent."""
    labels = np.arange(len(right)) % 2
    return RunPredictions(
        name=name,
        clips=[f"{number}.mp4" for number in range(len(right))],
        groups=groups or [""] * len(right),
        labels=labels,
        predicted=np.where(right, labels, 1 - labels),
    )


def sources(clips: int, of_each: int) -> list[str]:
    return [f"source {number // of_each}" for number in range(clips)]


def test_identical_runs_differ_by_nothing() -> None:
    run = run_that_is(np.arange(40) % 3 > 0)
    found = compare(run, run)
    assert found.difference == 0 and found.interval == (0, 0)
    assert found.mcnemar_p == 1
    assert found.larger_than_chance is False
    assert found.conclusion.startswith("not shown to be more than chance")


def test_right_wherever_the_other_is_wrong_is_significant() -> None:
    right = np.arange(40) % 2 == 0
    found = compare(run_that_is(right), run_that_is(np.ones(40, bool)))
    assert (found.first_accuracy, found.second_accuracy, found.difference) == (0.5, 1, 0.5)
    assert (found.only_first_right, found.only_second_right) == (0, 20)
    assert found.mcnemar_p == pytest.approx(2 / 2**20)
    assert found.interval is not None and 0.3 < found.interval[0] < 0.5 < found.interval[1] < 0.7
    assert found.larger_than_chance is True
    assert found.conclusion.startswith("larger than chance")


def test_clips_of_one_source_count_once() -> None:
    """Ten clips are gained, but all of one source: McNemar's test takes them for ten sources."""
    right = np.arange(100) >= 10
    groups = sources(100, 10)
    found = compare(run_that_is(right, groups), run_that_is(np.ones(100, bool), groups))
    assert found.mcnemar_p is not None and found.mcnemar_p < 0.01
    assert found.groups == 10 and found.larger_than_chance is False
    assert "tests disagree" in found.conclusion and "a few sources" in found.conclusion
    alone = compare(run_that_is(right), run_that_is(np.ones(100, bool)))
    assert alone.groups == 100 and alone.larger_than_chance is True


def test_difference_of_few_clips_has_to_convince_both_tests() -> None:
    """Four of eight clips are gained: the interval excludes 0, but that happens once in eight."""
    found = compare(run_that_is(np.arange(8) % 2 == 0), run_that_is(np.ones(8, bool)))
    assert found.interval is not None and found.interval[0] > 0
    assert found.mcnemar_p == pytest.approx(1 / 8)
    assert found.larger_than_chance is False
    assert "tests disagree" in found.conclusion and "more clips" in found.conclusion


def test_swapping_the_runs_changes_the_sign() -> None:
    random = np.random.default_rng(0)
    first, second = (run_that_is(random.random(60) < share, sources(60, 3)) for share in (0.6, 0.8))
    there, back = compare(first, second), compare(second, first)
    assert there.difference == -back.difference != 0
    assert there.interval == pytest.approx([-end for end in reversed(back.interval)])
    assert there.only_second_right == back.only_first_right
    assert there.mcnemar_p == back.mcnemar_p
    assert there.larger_than_chance == back.larger_than_chance


def test_only_clips_of_both_count_whatever_their_order() -> None:
    first = run_that_is(np.arange(30) % 2 == 0)
    whole = run_that_is(np.ones(40, bool), name="second")
    order = np.random.default_rng(0).permutation(np.arange(10, 40))
    second = RunPredictions(
        "second",
        [whole.clips[i] for i in order],
        [""] * 30,
        whole.labels[order],
        whole.predicted[order],
    )
    found = compare(first, second)
    assert (found.clips, found.only_in_first, found.only_in_second) == (20, 10, 10)
    assert (found.first_accuracy, found.second_accuracy) == (0.5, 1)


def test_a_group_that_only_one_run_knows_counts() -> None:
    right = np.arange(100) >= 10
    found = compare(run_that_is(right), run_that_is(np.ones(100, bool), sources(100, 10)))
    assert found.groups == 10 and found.larger_than_chance is False


def test_nothing_in_common_gives_no_conclusion() -> None:
    first = run_that_is(np.ones(10, bool))
    second = dataclasses.replace(first, clips=[f"other {name}" for name in first.clips])
    found = compare(first, second)
    assert (found.clips, found.only_in_first, found.only_in_second) == (0, 10, 10)
    assert found.difference is found.interval is found.mcnemar_p is None
    assert found.larger_than_chance is None
    assert "no test clip in common" in found.conclusion


@pytest.mark.parametrize("groups", [1, FEWEST_GROUPS - 1])
def test_few_groups_give_no_conclusion(groups: int) -> None:
    names = sources(10 * groups, 10)
    found = compare(
        run_that_is(np.zeros(len(names), bool), names),
        run_that_is(np.ones(len(names), bool), names),
    )
    assert found.difference == 1
    assert found.interval is None and found.larger_than_chance is None
    assert f"{groups} group" in found.conclusion and "at least 6" in found.conclusion


def test_different_labels_of_a_clip_are_refused() -> None:
    first = run_that_is(np.ones(10, bool), name="old")
    labels = first.labels.copy()
    labels[3] = 0
    second = dataclasses.replace(first, name="new", labels=labels)
    with pytest.raises(UserError, match=r"3\.mp4 is violent in old but nonviolent in new .*: 1\)"):
        compare(first, second)


def test_interval_is_that_of_the_accuracy_where_there_are_many_groups() -> None:
    """Against a run that is always wrong, the difference is the accuracy: so is its interval."""
    random = np.random.default_rng(0)
    groups = sources(600, 3)
    run = run_that_is(random.random(600) < 0.8, groups)
    found = compare(run_that_is(np.zeros(600, bool), groups), run)
    expected = evaluate(run.labels, run.predicted, 0.5, groups, 0)["intervals"]["accuracy"]
    assert found.interval == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize(
    ("groups", "of_each"), [(200, 1), (40, 5), (7, 15)], ids=["clips", "groups", "few groups"]
)
def test_runs_that_do_not_differ_are_seldom_called_different(groups: int, of_each: int) -> None:
    """Half of the groups are right or wrong as a whole, by chance."""
    random = np.random.default_rng(0)
    names = [f"source {number // of_each}" for number in range(groups * of_each)]
    called, mcnemar = 0, 0
    for seed in range(300):
        by_group = np.repeat(random.random((2, groups)), of_each, axis=1)
        alone = random.random((2, groups * of_each))
        together = np.repeat(random.random(groups) < 0.5, of_each)
        first, second = np.where(together, by_group, alone) < 0.7
        found = compare(run_that_is(first, names), run_that_is(second, names), seed)
        called += bool(found.larger_than_chance)
        mcnemar += found.mcnemar_p < 0.05
    assert called <= 0.08 * 300
    assert of_each == 1 or mcnemar > 0.1 * 300  # why it does not decide


def test_a_real_difference_is_found() -> None:
    random = np.random.default_rng(0)
    called = 0
    for seed in range(50):
        first, second = (run_that_is(random.random(400) < share) for share in (0.7, 0.85))
        called += bool(compare(first, second, seed).larger_than_chance)
    assert called >= 45


def test_hundred_thousand_clips_take_seconds() -> None:
    random = np.random.default_rng(0)
    first, second = (run_that_is(random.random(100_000) < share) for share in (0.80, 0.81))
    found = compare(first, second)
    assert found.groups == 100_000 and found.larger_than_chance is True


def test_a_comparison_can_be_written() -> None:
    run = run_that_is(np.arange(40) % 3 > 0, sources(40, 4))
    written = json.loads(json.dumps(dataclasses.asdict(compare(run, run))))
    assert Comparison(**written).larger_than_chance is False


def test_settings_that_differ_in_the_order_of_the_settings() -> None:
    first = Settings().replace(
        dataset_path=Path("clips"), checkpoint_dir=Path("a"), cache_dir=Path("b"), quiet=True
    )
    second = first.replace(
        checkpoint_dir=Path("c"),
        cache_dir=Path("d"),
        quiet=False,
        seed=7,
        streams=("rgb",),
        threshold_for="f1",
    )
    runs = [first.as_json(), second.as_json(), first.as_json()]
    runs = json.loads(json.dumps([dict(reversed(run.items())) for run in runs]))
    found = setting_differences(runs)
    assert list(found.items()) == [
        ("streams", [["difference", "flow"], ["rgb"], ["difference", "flow"]]),
        ("threshold_for", ["accuracy", "f1", "accuracy"]),
        ("seed", [42, 7, 42]),
    ]
    assert setting_differences(runs[::2]) == {}


def test_a_setting_of_another_version_is_listed() -> None:
    found = setting_differences([{"seed": 1, "old": 3}, {"seed": 1, "dropout": 0.5}])
    assert list(found.items()) == [("dropout", [None, 0.5]), ("old", [3, None])]
