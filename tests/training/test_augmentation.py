import numpy as np
import pytest
import tensorflow as tf

from violence_detection.clips.frames import even_positions
from violence_detection.settings.constants import FEATURE_AUGMENTATIONS
from violence_detection.training.augmentation import augment

IN_TIME = ("jitter", "speed", "drop", "reverse")
MIXING = [("mixup",), ("cutmix",), ("mixup", "cutmix")]
# Flipping is for who reads the features.
KINDS = tuple(kind for kind in FEATURE_AUGMENTATIONS if kind != "flip")
EACH_AND_ALL = [*((kind,) for kind in KINDS), KINDS]
Batch = tuple[np.ndarray, np.ndarray, np.ndarray]


def augmented(
    features: np.ndarray,
    frames: int,
    kinds: tuple[str, ...],
    seed: tuple[int, int] = (1, 2),
    labels: np.ndarray | None = None,
    weights: np.ndarray | None = None,
) -> Batch:
    """Return an augmented batch; its labels and weights are 1 where they are not given."""
    clips = len(features)
    labels = np.ones((clips, 1), np.float32) if labels is None else labels
    weights = np.ones(clips, np.float32) if weights is None else weights
    batch = (tf.constant(values) for values in (features, labels, weights))
    result = augment(*batch, tf.constant(seed, tf.int64), frames, kinds)
    return tuple(values.numpy() for values in result)


def random_batch(dtype: str = "float32") -> Batch:
    """Return 12 clips of 8 frames of 10 values, of which the clips 3, 10 and 11 are padding."""
    random = np.random.default_rng(0)
    weights = random.uniform(0.5, 2, 12).astype(np.float32)
    weights[[3, 10, 11]] = 0
    features = random.normal(size=(12, 8, 10)).astype(dtype)
    return features, random.integers(0, 2, (12, 1)).astype(np.float32), weights


def taken(
    cached: int,
    frames: int,
    kinds: tuple[str, ...],
    seed: tuple[int, int] = (1, 2),
    clips: int = 300,
) -> np.ndarray:
    """Return `(clips, frames)`: which of the cached frames each frame is."""
    features = np.zeros((clips, cached, 64), np.float32) + np.arange(cached)[:, None]
    found, _, _ = augmented(features, frames, kinds, seed)
    return found.mean(axis=2).round().astype(int)  # a mean in which noise is lost


def one_hot(clips: int, frames: int) -> np.ndarray:
    """Return clips of which clip n has a 1 as its value n: a mixture shows what is in it."""
    return np.repeat(np.eye(clips, dtype=np.float32)[:, None], frames, axis=1)


@pytest.mark.parametrize(
    ("cached", "frames", "steps"),
    [(16, 16, {1}), (32, 16, {2}), (64, 16, {4}), (24, 16, {1, 2}), (8, 16, {0, 1})],
)
def test_even_positions_are_evenly_spread(cached: int, frames: int, steps: set[int]) -> None:
    positions = even_positions(cached, frames)
    assert positions.shape == (frames,)
    assert set(np.diff(positions).tolist()) == steps
    before, after = positions[0], cached - 1 - positions[-1]
    assert 0 <= after <= before <= max(steps)


def test_as_many_frames_as_cached_are_all_of_them() -> None:
    np.testing.assert_array_equal(even_positions(16, 16), np.arange(16))


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("frames", [4, 8])
def test_no_kinds_leave_the_batch_as_it_is(frames: int, dtype: str) -> None:
    features, labels, weights = random_batch(dtype)
    result = augmented(features, frames, (), labels=labels, weights=weights)
    expected = (features[:, even_positions(8, frames)], labels, weights)
    for found, values in zip(result, expected, strict=True):
        np.testing.assert_array_equal(found, values)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("kinds", EACH_AND_ALL)
def test_in_a_dataset_as_outside_one(kinds: tuple[str, ...], dtype: str) -> None:
    """Also with the kinds in another order."""
    batch = random_batch(dtype)
    dataset = tf.data.Dataset.range(7, 8).map(
        lambda step: augment(*map(tf.constant, batch), tf.stack([3, step]), 5, kinds[::-1])
    )
    assert [spec.shape for spec in dataset.element_spec] == [(12, 5, 10), (12, 1), (12,)]
    assert [spec.dtype for spec in dataset.element_spec] == [dtype, "float32", "float32"]
    outside = augmented(batch[0], 5, kinds, (3, 7), *batch[1:])
    for found, values in zip(next(iter(dataset)), outside, strict=True):
        np.testing.assert_array_equal(found, values)


@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_dtypes_of_seeds(dtype: str) -> None:
    batch = random_batch()
    result = augment(*map(tf.constant, batch), tf.constant([1, 2], dtype), 8, KINDS)
    for values, before in zip(result, batch, strict=True):
        assert (values.shape, values.dtype) == (before.shape, before.dtype)
    assert (result[0] != batch[0]).numpy().any()


@pytest.mark.parametrize("kinds", EACH_AND_ALL)
def test_seed_decides(kinds: tuple[str, ...]) -> None:
    features, labels, weights = random_batch()
    first, again, other_step, other_run = (
        augmented(features, 4, kinds, seed, labels, weights)
        for seed in [(5, 0), (5, 0), (5, 1), (6, 0)]
    )
    for values, expected in zip(again, first, strict=True):
        np.testing.assert_array_equal(values, expected)
    assert (other_step[0] != first[0]).any()
    assert (other_run[0] != first[0]).any()


@pytest.mark.parametrize("kinds", [("jitter",), ("speed",), ("drop",), IN_TIME[:3]])
@pytest.mark.parametrize(("cached", "frames"), [(16, 16), (32, 16), (40, 16), (8, 1)])
def test_time_order_is_kept(cached: int, frames: int, kinds: tuple[str, ...]) -> None:
    positions = taken(cached, frames, kinds)
    assert (np.diff(positions) >= 0).all()
    if frames > 1 or kinds != ("drop",):
        assert (positions != even_positions(cached, frames)).any()


@pytest.mark.parametrize(("cached", "reach"), [(16, 1), (32, 1), (64, 2)])
def test_jitter_moves_each_frame_around_its_position(cached: int, reach: int) -> None:
    moved = taken(cached, 16, ("jitter",)) - even_positions(cached, 16)
    assert set(np.unique(moved)) == set(range(-reach, reach + 1))
    assert abs(moved[:, 1:-1].mean()) < 0.05  # at its ends a clip has no more frames


def test_speed_spreads_a_part_of_the_clip() -> None:
    positions = taken(640, 16, ("speed",))
    steps = np.diff(positions)
    assert (np.ptp(steps, axis=1) <= 1).all()
    lengths = steps.mean(axis=1) * 16 / 640
    assert 0.49 < lengths.min() < 0.52
    assert 0.98 < lengths.max() < 1.01
    begins = positions[:, 0] - steps.mean(axis=1) / 2
    room = 640 * (1 - lengths)
    assert (begins > -2).all() and (begins < room + 2).all()
    assert np.corrcoef(begins, room)[0, 1] > 0.5
    assert 0.4 < (begins / room)[room > 50].mean() < 0.6


def test_speed_repeats_frames_where_there_are_no_more() -> None:
    kept = [len(set(clip)) for clip in taken(16, 16, ("speed",)).tolist()]
    assert 8 <= min(kept) < max(kept) <= 16


def test_dropped_frame_is_the_last_that_came() -> None:
    positions = taken(16, 16, ("drop",))
    lost = positions != np.arange(16)
    assert not lost[:, 0].any()
    assert 0.09 < lost[:, 1:].mean() < 0.11
    before = np.roll(positions, 1, axis=1)
    np.testing.assert_array_equal(positions[lost], before[lost])


def test_reverse_turns_about_half_of_the_clips() -> None:
    positions = taken(32, 16, ("reverse",))
    turned = positions[:, 0] > positions[:, -1]
    even = even_positions(32, 16)
    assert (positions == np.where(turned[:, None], even[::-1], even)).all()
    assert 0.4 < turned.mean() < 0.6


@pytest.mark.parametrize("kinds", EACH_AND_ALL)
def test_padding_counts_nowhere(kinds: tuple[str, ...]) -> None:
    features, labels, weights = random_batch()
    real = weights > 0
    loud_features, loud_labels = features.copy(), labels.copy()
    loud_features[~real], loud_labels[~real] = 1e6, 1e6
    for step in range(10):
        quiet = augmented(features, 4, kinds, (1, step), labels, weights)
        loud = augmented(loud_features, 4, kinds, (1, step), loud_labels, weights)
        for values, expected in zip(loud, quiet, strict=True):
            np.testing.assert_array_equal(values[real], expected[real])
        assert (loud[2][real] >= weights[real].min() - 1e-6).all()
        assert not loud[2][~real].any()


@pytest.mark.parametrize("others", [(), ("jitter", "speed", "drop", "reverse")])
@pytest.mark.parametrize("kinds", MIXING)
def test_labels_and_weights_are_mixed_as_the_features_are(
    kinds: tuple[str, ...], others: tuple[str, ...]
) -> None:
    clips = 300
    mixture, labels, weights = augmented(
        one_hot(clips, 16),
        16,
        kinds + others,
        labels=np.arange(clips, dtype=np.float32)[:, None],
        weights=np.arange(1, clips + 1, dtype=np.float32),
    )
    share = mixture.mean(axis=1)
    np.testing.assert_allclose(share.sum(axis=1), 1, rtol=1e-6)
    assert ((share > 0).sum(axis=1) <= 2).all()
    np.testing.assert_allclose(labels[:, 0], share @ np.arange(clips), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(weights, share @ np.arange(1, clips + 1), rtol=1e-5)
    partners = share - np.diag(np.diag(share))
    assert ((partners > 0).sum(axis=0) <= 1).all()
    # Of the half that is mixed, few have all but nothing of their partner.
    assert 0.35 < (partners.sum(axis=1) > 0).mean() < 0.6
    in_frames = ((mixture > 0) & (mixture < 1)).any(axis=(1, 2)).mean()
    in_time = (mixture != mixture[:, :1]).any(axis=(1, 2)).mean()
    least = {1: 0.35, 2: 0.15}[len(kinds)]
    assert (in_frames > least) == ("mixup" in kinds)
    assert (in_time > least) == ("cutmix" in kinds)
    assert in_frames + in_time < 0.6


def test_labels_of_a_mixture_in_float16() -> None:
    labels = np.linspace(0, 1, 64, dtype=np.float32)[:, None]
    features = np.broadcast_to(labels[:, None], (64, 16, 3)).astype(np.float16)
    mixture, mixed, _ = augmented(features, 16, ("mixup", "cutmix"), labels=labels)
    assert (abs(mixed - labels) > 0.1).any()
    np.testing.assert_allclose(mixture.mean(axis=1, dtype=np.float32), mixed + [0] * 3, atol=2e-3)


def test_mixup_takes_its_share_from_a_beta_distribution() -> None:
    clips, alpha = 2000, 0.2
    mixture, _, _ = augmented(one_hot(clips, 1), 1, ("mixup",))
    own = np.diag(mixture[:, 0])
    shares = own[own < 1]
    assert abs(shares.mean() - 0.5) < 0.05
    assert abs(shares.var() - 1 / (4 * (2 * alpha + 1))) < 0.02


def test_cutmix_takes_one_run_of_frames_of_any_length() -> None:
    mixture, _, _ = augmented(one_hot(1000, 8), 8, ("cutmix",))
    own = np.diagonal(mixture, axis1=0, axis2=2).T
    mixed = own[(own == 0).any(axis=1)]
    begins = np.diff(mixed, prepend=1, axis=1) < 0
    assert (begins.sum(axis=1) == 1).all()
    lengths = np.bincount((mixed == 0).sum(axis=1).astype(int), minlength=9)
    assert lengths[[0, 8]].sum() == 0
    assert (lengths[1:8] > len(mixed) / 14).all()
    assert set(begins.argmax(axis=1)) == set(range(8))


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_noise_is_gaussian_of_a_tenth_of_each_values_deviation(dtype: str) -> None:
    clips, frames, values = 64, 16, 128
    random = np.random.default_rng(0)
    deviations = np.linspace(0, 4, values)
    features = random.normal(2, 1, (clips, frames, values)) * deviations
    features = features.astype(dtype)
    weights = np.ones(clips, np.float32)
    weights[-8:] = 0
    features[-8:] *= 100
    noisy, _, _ = augmented(features, frames, ("noise",), weights=weights)
    noise = noisy[:-8].astype(np.float64) - features[:-8]
    assert not noise[..., 0].any()
    real = features[:-8].astype(np.float64).std(axis=(0, 1))
    np.testing.assert_allclose(noise.std(axis=(0, 1))[1:] / real[1:], 0.1, rtol=0.1)
    normal = noise[..., 1:] / (0.1 * real[1:])
    assert abs(normal.mean()) < 0.01
    assert abs((normal**4).mean() - 3) < 0.1
    alike = np.corrcoef(normal.reshape(-1, values - 1))
    assert (abs(alike[np.triu_indices_from(alike, k=1)]) > 0.4).mean() < 0.002


@pytest.mark.parametrize("kind", IN_TIME)
def test_frames_taken_do_not_depend_on_noise(kind: str) -> None:
    np.testing.assert_array_equal(taken(16, 8, (kind, "noise")), taken(16, 8, (kind,)))


@pytest.mark.parametrize("kind", ["mixup", "cutmix", "noise"])
def test_mixing_and_noise_do_not_depend_on_the_frames_taken(kind: str) -> None:
    still = np.repeat(random_batch()[0][:, :1], 8, axis=1)
    for values, expected in zip(
        augmented(still, 8, (kind, *IN_TIME)), augmented(still, 8, (kind,)), strict=True
    ):
        np.testing.assert_array_equal(values, expected)


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_partners_are_the_same_by_one_kind_as_by_both(kind: str) -> None:
    alone = augmented(one_hot(100, 8), 8, (kind,))[0].mean(axis=1) > 0
    both = augmented(one_hot(100, 8), 8, ("mixup", "cutmix"))[0].mean(axis=1) > 0
    assert (alone == both).all(axis=1).mean() > 0.9  # a share may be all but nothing


def test_jitter_is_reversed_as_it_is() -> None:
    played, turned = taken(32, 16, ("jitter",)), taken(32, 16, ("jitter", "reverse"))
    backwards = turned[:, 0] > turned[:, -1]
    np.testing.assert_array_equal(turned, np.where(backwards[:, None], played[:, ::-1], played))
    alone = taken(32, 16, ("reverse",))
    np.testing.assert_array_equal(backwards, alone[:, 0] > alone[:, -1])


def test_part_of_a_batch_is_augmented_as_in_the_whole() -> None:
    features = tf.random.normal((6, 8, 3))
    labels, weights, seed = tf.ones((6, 1)), tf.ones(6), tf.constant([1, 2])
    kinds = ("jitter", "drop")
    whole, _, _ = augment(features, labels, weights, seed, 4, kinds)
    indices = np.array([4, 1])
    part, _, _ = augment(
        tf.gather(features, indices), labels[:2], weights[:2], seed, 4, kinds, (6, indices)
    )
    np.testing.assert_array_equal(part, tf.gather(whole, indices))
