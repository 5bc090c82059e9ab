import numpy as np
import pytest
from scipy.special import expit, logit
from sklearn.metrics import log_loss, roc_auc_score

from violence_detection.evaluation.fusion import fit_fusion


def drawn(
    clips: int, quality: tuple[float, ...], seed: int = 0
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return labels, and probabilities whose logits have normal noise around them."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 2, clips)
    signs = 2 * labels - 1
    return labels, [expit(each * signs + random.normal(size=clips)) for each in quality]


def test_better_classifier_counts_more_and_both_are_better_than_one() -> None:
    labels, known = drawn(2000, (1.0, 0.6))
    fusion = fit_fusion(labels, known)
    assert fusion.weights[0] > fusion.weights[1] > 0.1
    others, unseen = drawn(2000, (1.0, 0.6), seed=1)
    alone = [roc_auc_score(others, each) for each in unseen]
    assert roc_auc_score(others, fusion.apply(unseen)) > max(alone) + 0.01


@pytest.mark.parametrize("worse", [0.0, -1.0])
def test_one_that_knows_nothing_or_the_contrary_is_left_out(worse: float) -> None:
    labels, known = drawn(1000, (1.0, worse))
    weights = fit_fusion(labels, known).weights
    assert weights[0] > 0.8
    assert 0 <= weights[1] < 0.1


def test_one_that_is_shifted_and_too_certain_does_no_harm() -> None:
    labels, (good, other) = drawn(1000, (1.0, 1.0))
    certain = expit(8 * logit(np.clip(other, 1e-6, 1 - 1e-6)) + 6)
    fused = fit_fusion(labels, [good, certain]).apply([good, certain])
    assert log_loss(labels, fused) < log_loss(labels, good)
    assert abs(fused.mean() - labels.mean()) < 0.03


def test_few_clips_leave_the_weights_nearly_equal() -> None:
    weights, bias = fit_fusion(np.array([0, 1, 1]), [np.array([0.4, 0.6, 0.5]), np.full(3, 0.5)])
    np.testing.assert_allclose(weights, 0.5, atol=0.05)
    assert abs(bias) < 0.1


def test_hopeless_and_perfect_classifiers_give_finite_weights() -> None:
    labels = np.array([0, 1] * 20)
    fusion = fit_fusion(labels, [labels.astype(float), 1.0 - labels])
    assert np.isfinite([*fusion.weights, fusion.bias]).all()
    assert ((fusion.apply([labels.astype(float), 1.0 - labels]) > 0.5) == labels).all()
