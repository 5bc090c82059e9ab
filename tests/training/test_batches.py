import time
from collections.abc import Callable, Iterator
from itertools import chain

import numpy as np
import pytest
from tensorflow.python.framework import config

from violence_detection.features.cache.rows import FeatureRows
from violence_detection.training.batches import (
    PREFETCHED_BATCHES,
    READERS,
    ClipFeatures,
    Supply,
    evaluation_batches,
    sample_features,
    steps_per_epoch,
    training_batches,
)
from violence_detection.training.order import ClipOrder

CLIPS, BATCH = 23, 8


@pytest.fixture
def clips(stored_features: Callable[[np.ndarray], FeatureRows]) -> ClipFeatures:
    """Return clips of which clip n's features are all n, in shuffled rows."""
    rows = np.random.default_rng(5).permutation(CLIPS)
    features = np.empty((CLIPS, 4, 3), np.float16)
    features[rows] = np.arange(CLIPS)[:, None, None]
    labels = np.arange(CLIPS) % 2
    return ClipFeatures([stored_features(features)], rows, labels, class_factors=(1.5, 0.5))


def numbers(batch: tuple) -> list[int]:
    """Check a batch; return the numbers of its clips, without padding."""
    features, labels, weights = (np.asarray(values) for values in batch)
    assert features.shape == (BATCH, 4, 3)
    assert features.dtype == np.float16
    real = weights > 0
    found = features[real, 0, 0].astype(int)
    np.testing.assert_array_equal(
        features[real], np.broadcast_to(found[:, None, None], (real.sum(), 4, 3))
    )
    np.testing.assert_array_equal(labels[real, 0], found % 2)
    np.testing.assert_array_equal(weights[real], np.where(found % 2, 0.5, 1.5))
    assert not features[~real].any()
    return found.tolist()


def epochs_of(clips: ClipFeatures, seed: int, first: int, end: int) -> list[list[int]]:
    order = ClipOrder(clips.labels, seed)
    batches = [numbers(batch) for batch in training_batches(clips, order, BATCH, first, end)]
    steps = steps_per_epoch(CLIPS, BATCH)
    assert len(batches) == steps * (end - first)
    return [list(chain(*batches[at : at + steps])) for at in range(0, len(batches), steps)]


def test_every_epoch_is_every_clip_once_in_another_order(clips: ClipFeatures) -> None:
    epochs = epochs_of(clips, 42, 0, 4)
    assert all(sorted(epoch) == list(range(CLIPS)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_order_is_a_function_of_seed_and_epoch(clips: ClipFeatures) -> None:
    assert epochs_of(clips, 42, 2, 4) == epochs_of(clips, 42, 0, 4)[2:]
    assert epochs_of(clips, 42, 0, 1) != epochs_of(clips, 43, 0, 1)


def test_shuffle_is_of_all_clips_not_of_a_window() -> None:
    order = ClipOrder(np.zeros(10_000), seed=0).of_epoch(0)
    assert abs(np.corrcoef(order, np.arange(10_000))[0, 1]) < 0.05


def test_evaluation_is_every_clip_once_in_order(clips: ClipFeatures) -> None:
    batches = evaluation_batches(clips, BATCH)
    assert len(list(batches)) == steps_per_epoch(CLIPS, BATCH)
    assert list(chain(*map(numbers, batches))) == list(range(CLIPS))


def test_clip_kept_as_zeros(clips: ClipFeatures) -> None:
    clips.rows[3] = -1
    features, labels, weights = clips.batch(np.array([2, 3, -1]))
    assert features[0].any()
    assert not features[1].any()
    assert (labels[1, 0], weights[1]) == (1, 0.5)
    assert weights[2] == 0


def test_streams_are_side_by_side_and_mirrored_clips_are_of_the_same_streams(
    stored_features: Callable[..., FeatureRows],
) -> None:
    """Clip n's features are n, n + 100 in the second stream, and negative where mirrored."""
    numbers = np.arange(CLIPS, dtype=np.float32)[:, None, None]
    views = {"rgb": numbers, "flow": numbers + 100}
    views |= {f"mirrored_{name}": -values for name, values in views.items()}
    stored = [
        stored_features(np.broadcast_to(values, (CLIPS, 4, size)).copy(), name)
        for (name, values), size in zip(views.items(), (3, 2, 3, 2), strict=True)
    ]
    rows = np.tile(np.arange(CLIPS)[:, None], 4)
    clips = ClipFeatures(stored, rows, np.arange(CLIPS) % 2, streams=2)
    plain, _, _ = clips.batch(np.array([5, 7, -1]))
    expected = np.array([[5, 5, 5, 105, 105], [7, 7, 7, 107, 107], [0] * 5])
    np.testing.assert_array_equal(plain, np.tile(expected[:, None], (1, 4, 1)))
    mirrored, _, _ = clips.batch(np.array([5, 7, -1]), np.array([False, True, True]))
    np.testing.assert_array_equal(mirrored[:, 0], expected * [[1], [-1], [1]])

    batches = training_batches(clips, ClipOrder(clips.labels, 0), BATCH, 0, 4, ["flip"])
    signs = {float(np.sign(clip[0, -1])) for x, _, _ in batches for clip in x.numpy()}
    assert signs == {-1.0, 0.0, 1.0}  # both ways, and padding


def test_frames_of_more_in_the_cache(
    stored_features: Callable[[np.ndarray], FeatureRows],
) -> None:
    """Evaluation takes those that are evenly spread; jitter others each time, in time order."""
    numbers = np.arange(8, dtype=np.float32)[None, :, None] + np.zeros((4, 1, 1), np.float32)
    rows = stored_features(numbers)
    few = ClipFeatures([rows], range(4), [0, 1, 0, 1], frames=4)
    ((features, _, _),) = evaluation_batches(few, 4).as_numpy_iterator()
    assert features[:, :, 0].tolist() == [[1, 3, 5, 7]] * 4
    order = ClipOrder(few.labels, seed=0)
    jittered = training_batches(few, order, 4, 0, 20, augmentations=["jitter"])
    drawn = np.concatenate([features[:, :, 0] for features, _, _ in jittered.as_numpy_iterator()])
    assert (np.diff(drawn, axis=1) >= 0).all()
    assert set(drawn.ravel()) == set(range(8))


def test_some_of_the_clips_with_other_factors(clips: ClipFeatures) -> None:
    some = clips.select([4, 9], (2.0, 3.0))
    for own, whole in zip(
        some.batch(np.arange(2))[:2], clips.batch(np.array([4, 9]))[:2], strict=True
    ):
        np.testing.assert_array_equal(own, whole)
    np.testing.assert_array_equal(some.weights, [2, 3])
    np.testing.assert_array_equal(clips.select(slice(2)).weights, [1.5, 0.5])


def test_sample_has_no_padding(clips: ClipFeatures) -> None:
    sample = [np.asarray(batch) for batch in sample_features(clips, BATCH, seed=1, limit=1000)]
    assert sorted(np.concatenate(sample)[:, 0, 0].astype(int)) == list(range(CLIPS))
    assert sum(map(len, sample_features(clips, BATCH, seed=1, limit=BATCH))) == BATCH


@pytest.fixture(params=["any order", "deterministic"])
def determinism(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run TensorFlow with and without `--deterministic`, independent of earlier tests."""

    def set_to(deterministic: bool) -> None:
        (config.enable_op_determinism if deterministic else config.disable_op_determinism)()

    was = config.is_op_determinism_enabled()
    set_to(request.param == "deterministic")
    yield
    set_to(was)


@pytest.mark.usefixtures("determinism")
@pytest.mark.parametrize(("slow", "starved"), [("reading", 1.0), ("training", 0.0)])
def test_supply_shows_whether_reading_or_training_is_slower(
    clips: ClipFeatures, monkeypatch: pytest.MonkeyPatch, slow: str, starved: float
) -> None:
    supply, read = Supply(), clips.batch

    def slow_read(*indices: np.ndarray) -> tuple:
        time.sleep(0.02)
        return read(*indices)

    if slow == "reading":
        monkeypatch.setattr(clips, "batch", slow_read)
    batches = training_batches(clips, ClipOrder(clips.labels, 0), BATCH, 0, 8, supply=supply)
    assert supply.batches == 8 * steps_per_epoch(CLIPS, BATCH)
    for used, _ in enumerate(batches, start=1):
        deadline = time.monotonic() + 1
        while slow == "training" and time.monotonic() < deadline:
            if supply.started >= min(used + READERS + PREFETCHED_BATCHES, supply.batches):
                break
            time.sleep(0.001)
        supply.observe(used)
    assert supply.starved_share == pytest.approx(starved, abs=0.2)
