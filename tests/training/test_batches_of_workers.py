"""What each of several workers reads of a batch."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from violence_detection.features.cache.rows import FeatureRows
from violence_detection.runtime.worker import Worker
from violence_detection.training.batches import (
    ClipFeatures,
    Share,
    evaluation_batches,
    training_batches,
)
from violence_detection.training.order import ClipOrder

CLIPS, BATCH = 21, 8


@pytest.fixture
def clips(stored_features: Callable[..., FeatureRows]) -> ClipFeatures:
    """Return clips with eight frames in the cache, and their mirrored twins."""
    random = np.random.default_rng(0)
    views = [
        stored_features(random.standard_normal((CLIPS, 8, 5)).astype(np.float32), name)
        for name in ("rgb", "mirrored")
    ]
    rows = np.tile(np.arange(CLIPS)[:, None], 2)
    return ClipFeatures(views, rows, np.arange(CLIPS) % 2, (1.5, 0.7), frames=4, streams=1)


def put_together(shares: list[Share], read: Callable[[Share], Iterator[tuple]]) -> list[tuple]:
    """Return the batches that the workers read, each put together from its parts."""
    streams = [read(share) for share in shares]
    batches: list[tuple] = []
    while True:
        whole: list[np.ndarray] | None = None
        for share, stream in zip(shares, streams, strict=True):
            for indices in share.indices(BATCH):
                part = next(stream, None)
                if part is None:
                    return batches
                assert len(part[0]) == BATCH // len(shares) // share.replicas
                whole = whole or [np.full((BATCH, *v.shape[1:]), np.nan, v.dtype) for v in part]
                for values, own in zip(whole, part, strict=True):
                    values[indices] = own
        assert whole is not None
        batches.append(tuple(whole))


@pytest.mark.parametrize(
    "kinds", [(), ("jitter", "speed", "drop", "reverse", "flip"), ("mixup", "cutmix", "noise")]
)
@pytest.mark.parametrize(("workers", "replicas", "parts"), [(2, 1, 1), (4, 1, 2), (2, 2, 2)])
def test_workers_read_the_batches_of_one_process(
    clips: ClipFeatures, kinds: tuple[str, ...], workers: int, replicas: int, parts: int
) -> None:
    def read(share: Share | None) -> Iterator[tuple]:
        order = ClipOrder(clips.labels, seed=3)
        batches = training_batches(clips, order, BATCH, 1, 3, kinds, share=share)
        return batches.as_numpy_iterator()

    shares = [Share(Worker(n, workers), replicas, parts) for n in range(workers)]
    together = put_together(shares, read)
    alone = list(read(None))
    assert len(together) == len(alone) == 6
    for theirs, ours in zip(together, alone, strict=True):
        for own, expected in zip(theirs, ours, strict=True):
            np.testing.assert_array_equal(own, expected)


def test_workers_read_only_their_share(clips: ClipFeatures) -> None:
    read = []
    clips.batch = lambda numbers, *mirrored: (  # type: ignore[method-assign]
        read.append(len(numbers)) or ClipFeatures.batch(clips, numbers, *mirrored)
    )
    list(evaluation_batches(clips, BATCH, Share(Worker(1, 4), 1)))
    assert read == [2, 2, 2]


def test_parts_of_a_batch_are_shared_out_each_by_itself() -> None:
    """So that the gradients are accumulated of the same clips in the same order."""
    second = Share(Worker(1, 2), replicas=1, parts=2)
    assert second.indices(8).tolist() == [[2, 3, 6, 7]]
