"""Sizes of frames that grow from epoch to epoch."""

import pytest

from violence_detection.training.progressive import PictureSizes


def test_each_size_has_its_share_of_the_epochs() -> None:
    sizes = PictureSizes((64, 96, 112), epochs=6)
    assert [sizes.size(epoch) for epoch in range(6)] == [64, 64, 96, 96, 112, 112]
    assert [sizes.batches_at_once(epoch) for epoch in range(6)] == [3, 3, 1, 1, 1, 1]


@pytest.mark.parametrize("epochs", [1, 2, 3, 7])
def test_last_epoch_has_the_size_that_is_cached(epochs: int) -> None:
    assert PictureSizes((64, 96, 112), epochs).size(epochs - 1) == 112


def test_steps_are_counted_as_they_are_made() -> None:
    # 20 batches: 16 in one call, 4 in the next; three at once, or one.
    assert PictureSizes((64, 112), epochs=2).steps(2, batches=20, per_call=16) == 6 + 2 + 20
    assert PictureSizes().steps(3, batches=20, per_call=16) == 60
