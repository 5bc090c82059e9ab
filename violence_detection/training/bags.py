"""Videos as bags of windows, for multiple-instance learning: one label, many windows."""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from violence_detection.features.cache.rows import FeatureRows
from violence_detection.features.windows import VideoWindows
from violence_detection.training.batches import PADDING, ClipFeatures
from violence_detection.training.multiple_instances import top_count


class BagFeatures(ClipFeatures):
    """The features and labels of a split's videos.

    A batch has `(videos, bag x frames, features)`: the frames of `bag` windows of each, one after
    the other. Of a video with more windows, one of each of as many equal parts is drawn; one with
    fewer repeats them.

    Args:
        stored: the stored rows of each view.
        rows: `(videos, views)`: by which copies of a video are recognized.
        labels: `(videos,)`, 0 or 1.
        windows: of each video.
        bag: windows of a video in a batch.
        top_share: share of a video's windows whose mean is its probability.
        others: arguments of `ClipFeatures`.
    """

    def __init__(
        self,
        stored: Sequence[FeatureRows],
        rows: ArrayLike,
        labels: ArrayLike,
        windows: Sequence[VideoWindows],
        bag: int,
        top_share: float,
        **others: Any,
    ):
        super().__init__(stored, rows, labels, **others)
        self.windows = np.empty(len(windows), object)
        self.windows[:] = windows
        self.bag = bag
        self.top_share = top_share
        self.cached_frames = self.frames = bag * self.stored[0].row_shape[0]

    def _by_clip(self) -> dict[str, np.ndarray]:
        return super()._by_clip() | {"windows": self.windows}

    def _with(self, **arguments: Any) -> Self:
        return type(self)(
            self.stored,
            bag=self.bag,
            top_share=self.top_share,
            streams=self.streams,
            **arguments,
        )

    def draws(self, seed: Sequence[int], batch_size: int) -> np.ndarray:
        """Return `(batch, bag)`: where in its part of a video each window lies, 0 to 1."""
        return np.random.default_rng([*seed, 1]).random((batch_size, self.bag))

    def _rows_of(self, clips: np.ndarray, drawn: np.ndarray | None) -> np.ndarray:
        rows = np.full((len(clips), self.bag, len(self.stored)), PADDING, np.int64)
        for index in np.flatnonzero(clips != PADDING):
            windows = self.windows[clips[index]].rows
            within = 0.5 if drawn is None or len(windows) <= self.bag else drawn[index]
            chosen = (np.arange(self.bag) + within) * len(windows) / self.bag
            rows[index] = windows[chosen.astype(int)]
        return rows.reshape(-1, len(self.stored))

    def predicted_alone(self) -> ClipFeatures:
        """Return all windows of all videos, each with its video's label."""
        counts = [len(video.rows) for video in self.windows]
        return ClipFeatures(
            self.stored,
            np.concatenate([video.rows for video in self.windows]),
            np.repeat(self.labels, counts),
            streams=self.streams,
        )

    def pooled(self, predicted: np.ndarray) -> np.ndarray:
        """Return `(videos,)`: the mean of the most violent windows' probabilities."""
        return np.array(
            [
                np.sort(own)[-top_count(len(own), self.top_share) :].mean()
                for own in self._by_video(predicted)
            ],
            np.float32,
        )

    def strongest(self, predicted: np.ndarray) -> np.ndarray:
        """Return `(videos,)` indices of the most violent windows, in `predicted_alone`."""
        own = self._by_video(predicted)
        firsts = np.cumsum([0, *map(len, own)])[:-1]
        return firsts + [int(np.argmax(each)) for each in own]

    def _by_video(self, predicted: np.ndarray) -> list[np.ndarray]:
        ends = np.cumsum([len(video.rows) for video in self.windows])
        return np.split(predicted, ends[:-1])
