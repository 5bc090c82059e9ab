"""Videos in windows: what a batch has of them, and what their probabilities are."""

from collections.abc import Callable

import numpy as np
import pytest

from violence_detection.clips.clip import Clip, Segment
from violence_detection.features.cache.rows import FeatureRows
from violence_detection.features.windows import VideoWindows
from violence_detection.training.bags import BagFeatures
from violence_detection.training.batches import evaluation_batches, training_batches
from violence_detection.training.order import ClipOrder

COUNTS = (3, 8, 1, 20)  # windows of each video
BAG, FRAMES = 8, 2


@pytest.fixture
def videos(stored_features: Callable[..., FeatureRows], tmp_path: object) -> BagFeatures:
    """Return videos of which window n of video v has the features 100 v + n, mirrored negative."""
    values = np.concatenate([100 * v + np.arange(count) for v, count in enumerate(COUNTS)])
    features = np.broadcast_to(values[:, None, None], (len(values), FRAMES, 3)).astype(np.float32)
    stored = [stored_features(features.copy(), "plain"), stored_features(-features, "mirrored")]
    firsts = np.cumsum([0, *COUNTS])
    windows = [
        VideoWindows(
            [
                Clip("", f"{number}.mp4", 0, "train", segment=Segment(2 * n, 2 * n + 2))
                for n in range(count)
            ],
            np.repeat(np.arange(first, first + count)[:, None], 2, axis=1),
        )
        for number, (first, count) in enumerate(zip(firsts, COUNTS, strict=False))
    ]
    rows = [[first, first] for first in firsts[:-1]]
    return BagFeatures(stored, rows, [0, 1, 0, 1], windows, BAG, 0.25, streams=1)


def windows_in(batch: tuple) -> np.ndarray:
    """Return `(videos, bag)`: the value of each window of a batch."""
    features = np.asarray(batch[0])
    assert features.shape[1:] == (BAG * FRAMES, 3)
    by_window = features.reshape(len(features), BAG, FRAMES * 3)
    assert (by_window == by_window[..., :1]).all()
    return by_window[..., 0]


def epochs(videos: BagFeatures, first: int, end: int, *augment: str) -> list[np.ndarray]:
    order = ClipOrder(videos.labels, seed=1)
    batches = training_batches(videos, order, 4, first, end, augment)
    return [np.sort(windows_in(batch), axis=0) for batch in batches]


def test_evaluation_has_evenly_spread_windows_and_repeats_those_of_short_videos(
    videos: BagFeatures,
) -> None:
    (batch,) = evaluation_batches(videos, 4)
    three, eight, one, twenty = windows_in(batch)
    assert three.tolist() == [0, 0, 0, 1, 1, 2, 2, 2]
    assert eight.tolist() == [100, 101, 102, 103, 104, 105, 106, 107]
    assert one.tolist() == [200] * 8
    assert twenty.tolist() == [301, 303, 306, 308, 311, 313, 316, 318]


def test_training_draws_a_window_of_each_part_anew(videos: BagFeatures) -> None:
    drawn = np.stack([batch[3] for batch in epochs(videos, 0, 40)]) - 300
    assert (np.diff(drawn, axis=1) >= 0).all()  # in the order of time
    assert ((drawn >= np.floor(np.arange(8) * 2.5)) & (drawn < np.arange(1, 9) * 2.5)).all()
    assert set(drawn.ravel()) == set(range(20))
    np.testing.assert_array_equal(epochs(videos, 3, 5), epochs(videos, 0, 5)[3:])


def test_mirrored_videos_are_mirrored_in_all_windows(videos: BagFeatures) -> None:
    batches = np.stack(epochs(videos, 0, 8, "flip"))
    eight = np.abs(batches)[(np.abs(batches) // 100 == 1).all(axis=2)]
    assert (np.sort(eight, axis=1) == np.arange(100, 108)).all()
    signs = np.sign(batches[(np.abs(batches) // 100 == 1).all(axis=2)])
    assert {tuple(row) for row in signs} == {(1,) * 8, (-1,) * 8}


def test_all_windows_are_predicted_and_a_quarter_is_the_videos_probability(
    videos: BagFeatures,
) -> None:
    alone = videos.predicted_alone()
    (batch,) = evaluation_batches(alone, sum(COUNTS))
    values = np.asarray(batch[0])[:, 0, 0]
    assert len(values) == sum(COUNTS)
    # 1 of 3, 2 of 8, 1 of 1 and 5 of 20 windows
    assert videos.pooled(values).tolist() == [2, 106.5, 200, 317]
    assert values[videos.strongest(-values)].tolist() == [0, 100, 200, 300]
    chosen = videos.select([3, 0])
    assert chosen.labels.tolist() == [1, 0]
    both = chosen.followed_by(videos.select([1]))
    (batch,) = evaluation_batches(both, 3)
    assert (windows_in(batch)[:, 0] // 100).tolist() == [3, 0, 1]
