"""Labels of made data, some of them wrong, ranked."""

import numpy as np
import pytest

from violence_detection.evaluation.label_issues import rank_labels

LABELS = np.array([0] * 10 + [1] * 8)
VIOLENCE = np.array(
    [
        *(0.02, 0.05, 0.11, 0.08, 0.31, 0.93, 0.77, 0.55, 0.15, 0.88),
        *(0.97, 0.91, 0.62, 0.07, 0.84, 0.21, 0.99, 0.45),
    ]
)


def noisy(seed: int, share: float = 0.1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return labels of which a share is flipped, probabilities, and which labels are flipped."""
    random = np.random.default_rng(seed)
    right = np.arange(300) % 2
    logits = 2.5 * (2 * right - 1) + random.normal(0.5, 1.5, len(right))
    flipped = np.zeros(len(right), bool)
    flipped[random.permutation(len(right))[: round(share * len(right))]] = True
    return np.where(flipped, 1 - right, right), 1 / (1 + np.exp(-logits)), flipped


def test_suspects_and_their_order_are_those_of_cleanlab_2_9() -> None:
    ranked = rank_labels(LABELS, VIOLENCE)
    assert ranked.order[ranked.suspect[ranked.order]].tolist() == [5, 13, 9, 15, 6, 17]
    assert ranked.order[:6].tolist() == [5, 13, 9, 15, 6, 17]
    rest = ranked.order[6:]
    assert sorted(ranked.order) == list(range(18)) and (np.diff(ranked.quality[rest]) >= 0).all()
    assert ranked.quality[5] == pytest.approx(0.07) and ranked.quality[13] == pytest.approx(0.07)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("share", [0.02, 0.1, 0.3])
def test_cleanlab_finds_the_same(seed: int, share: float) -> None:
    pytest.importorskip("cleanlab")
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    labels, violence, _ = noisy(seed, share)
    both = np.stack([1 - violence, violence], axis=1)
    ranked = rank_labels(labels, violence)
    for score in ("self_confidence", "normalized_margin"):
        expected = get_label_quality_scores(labels, both, method=score)
        np.testing.assert_allclose(ranked.quality, expected)
        found = find_label_issues(labels, both, return_indices_ranked_by=score, n_jobs=1)
        assert ranked.order[: ranked.suspect.sum()].tolist() == found.tolist()


def test_most_flipped_labels_are_among_the_first_and_suspect() -> None:
    labels, violence, flipped = noisy(0)
    ranked = rank_labels(labels, violence)
    assert flipped[ranked.order[:60]].sum() >= 0.9 * flipped.sum()
    assert ranked.suspect[flipped].mean() > 0.8 and ranked.suspect[~flipped].mean() < 0.05


def test_labels_that_no_prediction_contradicts_are_not_suspect() -> None:
    labels = np.arange(40) % 2
    assert not rank_labels(labels, 0.1 + 0.8 * labels).suspect.any()
    assert not rank_labels(labels, np.full(40, 0.5)).suspect.any()


@pytest.mark.parametrize(
    ("labels", "violence"),
    [(np.ones(9, int), np.full(9, 0.01)), (np.arange(9) % 2, np.array([np.nan] + [0.9] * 8))],
    ids=["one class", "not a number"],
)
def test_one_class_or_no_numbers_make_no_label_suspect(
    labels: np.ndarray, violence: np.ndarray
) -> None:
    ranked = rank_labels(labels, violence)
    assert not ranked.suspect.any()
    assert sorted(ranked.order) == list(range(9))
    if np.isnan(violence[0]):
        assert ranked.order[-1] == 0


def test_a_clip_of_each_class_is_left() -> None:
    ranked = rank_labels(np.array([0, 0, 1, 1]), np.array([0.9, 0.95, 0.1, 0.05]))
    assert [ranked.suspect[:2].sum(), ranked.suspect[2:].sum()] == [1, 1]
