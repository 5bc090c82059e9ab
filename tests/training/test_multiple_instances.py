"""Learning from one label per video which of its windows are violent."""

from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf
from sklearn.metrics import roc_auc_score

from violence_detection.clips.clip import Clip
from violence_detection.features.cache.rows import FeatureRows
from violence_detection.features.windows import VideoWindows
from violence_detection.settings.parser import parse_settings
from violence_detection.training.bags import BagFeatures
from violence_detection.training.loop import fit
from violence_detection.training.multiple_instances import Bags
from violence_detection.training.predictions import violence_probabilities

VIDEOS, WINDOWS, FRAMES = 48, 8, 4


def test_probability_and_penalties_of_videos() -> None:
    windows = tf.constant([0.1, 0.9, 0.5, 0.2, 0.4, 0.4, 0.4, 0.4])[:, None]
    bags = Bags(windows=4, top_share=0.5, sparsity=0.1, smoothness=10.0)
    np.testing.assert_allclose(bags.pooled(windows), [[0.7], [0.4]], rtol=1e-6)
    # 0.1 x (0.1 + 0.9 + 0.5 + 0.2) + 10 x (0.8² + 0.4² + 0.3²)
    violent, other = tf.constant([[1.0], [1.0]]), tf.constant([[0.0], [1.0]])
    np.testing.assert_allclose(bags.penalties(windows, violent), [9.07, 0.16], rtol=1e-5)
    np.testing.assert_allclose(bags.penalties(windows, other), [0.0, 0.16], rtol=1e-5)


@pytest.mark.parametrize("flags", [(), ("--xla=all",)], ids=["plain", "xla"])
def test_violent_windows_are_found_without_their_labels(
    stored_features: Callable[..., FeatureRows], flags: tuple[str, ...]
) -> None:
    """One window of each violent video differs; which one, nothing says."""
    random = np.random.default_rng(0)
    features = random.random((VIDEOS * WINDOWS, FRAMES, 6)).astype(np.float32)
    labels = np.arange(VIDEOS) % 2
    truth = np.zeros((VIDEOS, WINDOWS), int)
    truth[labels == 1, random.integers(0, WINDOWS, (labels == 1).sum())] = 1
    features[truth.ravel() == 1, :, 0] += 2.0
    rows = np.arange(VIDEOS * WINDOWS).reshape(VIDEOS, WINDOWS, 1)
    windows = [VideoWindows([Clip("", "v", 0, "train")] * WINDOWS, own) for own in rows]
    videos = BagFeatures(
        [stored_features(features)], rows[:, 0], labels, windows, WINDOWS, top_share=0.125
    )
    known, held_out = videos.select(slice(0, 32)), videos.select(slice(32, None))
    settings = parse_settings(
        [
            *("--dataset-path", ".", "--vgg19-weights", "random", "--weak", "--frames", "4"),
            *("--units", "8", "--projection", "8", "--batch-size", "16", "--head", "mean"),
            *("--epochs", "40", "--warmup-epochs", "1", "--learning-rate", "0.01", *flags),
            *("--dropout", "0", "--l2", "0", "--no-use-focal-loss", "--label-smoothing", "0"),
        ]
    )
    classifier = fit(settings, known, "float32").classifier
    by_video = violence_probabilities(classifier, held_out, 16)
    by_window = violence_probabilities(classifier, held_out.predicted_alone(), 64)
    assert roc_auc_score(held_out.labels, by_video) > 0.95
    assert roc_auc_score(truth[32:].ravel(), by_window) > 0.95
