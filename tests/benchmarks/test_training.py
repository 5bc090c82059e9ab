from pathlib import Path

import numpy as np

from benchmarks.training import FEATURES, FRAMES, matrix_product_operations, stored_clips
from violence_detection.models.classifier import classifier


def test_operations_of_the_matrix_products() -> None:
    """The projections twice, forward and for their kernels; the others also for their inputs."""
    model = classifier(FRAMES, FEATURES, dropout=0.5, l2=1e-4)
    projections = 2 * 4096 * 192
    others = (192 + 192) * 4 * 192 + 192 * 64 + 64
    expected = 2 * 16 * (2 * projections + 3 * others) + 2 * 3 * 192
    assert matrix_product_operations(model) == expected


def test_stored_clips_are_written_once(tmp_path: Path) -> None:
    first, again = (stored_clips(tmp_path, count=5, features=8) for _ in range(2))
    features, labels, _ = first.batch(np.arange(5))
    assert features.shape == (5, FRAMES, 8)
    assert set(labels.ravel()) <= {0, 1}
    np.testing.assert_array_equal(features, again.batch(np.arange(5))[0])
