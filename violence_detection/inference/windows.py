"""A long video as windows in time, each judged as a clip is."""

import contextlib
from collections.abc import Callable, Generator, Sequence
from pathlib import Path

import numpy as np

from violence_detection.clips.decoders import stream_from_process
from violence_detection.clips.frames import UnreadableClip
from violence_detection.clips.video import Sample, Sampling, VideoInfo, check_windows, sample_video
from violence_detection.inference.detector import CLIP_TIMEOUT, Detector
from violence_detection.inference.events import Timeline, Window, find_events


def window_sampling(detector: Detector, window: float, stride: float) -> Sampling:
    """Return how windows of a detector's frames lie over a video.

    Args:
        window, stride: seconds that a window lasts, and from one to the next.

    Raises:
        UserError: parts would be left out, or a window is too short.
    """
    check_windows(window, stride)
    used = tuple(detector.frame_indices.tolist())
    return Sampling(window, stride, detector.streams, detector.cached_frames, used)


class WindowPredictor:
    """Takes the samples of a video as they come, and judges the windows that are complete.

    Memory holds one batch of images for VGG19, and the features of a window or two.

    Args:
        interval: seconds from sample to sample.
        samples_per_batch: that VGG19 is given, padded (None: as many as of clips).
    """

    def __init__(
        self,
        detector: Detector,
        sampling: Sampling,
        interval: float,
        samples_per_batch: int | None = None,
    ):
        self.detector = detector
        self.sampling = sampling
        self.step = sampling.step(interval)
        streams = len(detector.streams)
        self.samples_per_batch = samples_per_batch or max(1, detector.images_per_batch // streams)
        self._images_per_batch = samples_per_batch and samples_per_batch * streams
        self._samples = 0  # that have come
        self._next = 0  # the sample at which the next window begins
        self._skipped_to = 0  # no window that begins before it can be judged any more
        self._times: dict[int, float] = {}
        self._features: dict[int, np.ndarray] = {}  # (streams, features) of a sample
        self._waiting: dict[int, np.ndarray] = {}  # images of samples that have no features yet

    def add(self, sample: Sample) -> None:
        """Take the next sample."""
        self._samples = sample.number + 1
        self._times[sample.number] = sample.time
        if sample.images is not None:
            self._waiting[sample.number] = sample.images

    @property
    def next_start(self) -> int:
        """The sample at which the next window begins."""
        return self._next

    def skip_to(self, start: int) -> None:
        """Leave out the windows that begin before a sample, one at which a window begins."""
        self._next = self._skipped_to = start
        for kept in (self._times, self._features, self._waiting):
            for number in [number for number in kept if number < start]:
                del kept[number]

    @property
    def is_full(self) -> bool:
        """Whether as many images are waiting as VGG19 is given at once."""
        return len(self._waiting) >= self.samples_per_batch

    def predict(self, ended: bool = False) -> list[Window]:
        """Return the windows that have become complete.

        Args:
            ended: there will be no more samples: one more window reaches to the last of them.
        """
        if ended and self._samples < self.sampling.frames:  # not one of them
            return []
        self._compute_features()
        frames, begun = self.sampling.frames, self._next - self.step
        starts = list(range(self._next, self._samples - frames + 1, self.step))
        self._next += len(starts) * self.step
        last = self.sampling.last_start(self._samples)
        if ended and last > max(self._skipped_to - 1, self._next - self.step):
            starts.append(last)
        windows = self._windows_at(starts)
        # Kept from the last window on: the one that reaches to the end may overlap it.
        for number in range(max(0, begun), self._next - self.step):
            self._times.pop(number, None)
            self._features.pop(number, None)
        return windows

    def _compute_features(self) -> None:
        if not self._waiting:
            return
        images = np.concatenate(list(self._waiting.values()))
        streams = len(self.detector.streams)
        features = self.detector.image_features(images, self._images_per_batch)
        of_samples = features.reshape(len(self._waiting), streams, -1)
        self._features.update(zip(self._waiting, of_samples, strict=True))
        self._waiting.clear()

    def _windows_at(self, starts: Sequence[int]) -> list[Window]:
        if not starts:
            return []
        judged = self.detector.predict_features(np.stack([self._clip_at(n) for n in starts]))
        length = self.sampling.frames - 1
        return [
            Window(self._times[start], self._times[start + length], float(probability))
            for start, probability in zip(starts, judged.probabilities, strict=True)
        ]

    def _clip_at(self, start: int) -> np.ndarray:
        """Return the features of the window that begins at a sample, `(frames, values)`."""
        streams = self.detector.streams
        return np.stack(
            [
                np.concatenate(
                    [
                        # What moves in the first frame is not known: it repeats the second.
                        self._features[start + max(used, int(stream != "rgb"))][place]
                        for place, stream in enumerate(streams)
                    ]
                )
                for used in self.sampling.used
            ]
        )


def predict_video(
    detector: Detector,
    path: Path,
    sampling: Sampling,
    timeout: float = CLIP_TIMEOUT,
    on_progress: Callable[[float, float | None], None] = lambda seconds, duration: None,
) -> Generator[Window, None, None]:
    """Yield the windows of a video, in their order, while it is read once.

    A video that is no longer than a window is judged as the clip that it is. Reading goes on in a
    process of its own while the networks compute. Memory does not depend on the video's length.

    Args:
        timeout: seconds that a step of reading may take.
        on_progress: told how many seconds of the video were read, and of how many, if it says so.

    Raises:
        UnreadableClip: from here on it cannot be read; windows may have been yielded before.
    """
    ahead = 2 * max(1, detector.images_per_batch // len(detector.streams))
    read = stream_from_process(sample_video, path, sampling, timeout=timeout, ahead=ahead)
    with contextlib.closing(read):
        info: VideoInfo = next(read)
        judge = WindowPredictor(detector, sampling, sampling.interval(info.frames_per_second))
        windows = 0
        for sample in read:
            judge.add(sample)
            if judge.is_full:
                complete = judge.predict()
                windows += len(complete)
                yield from complete
                on_progress(sample.time, info.duration)
        last = judge.predict(ended=True)
        yield from last
    if windows + len(last) == 0:
        yield _as_one_window(detector, path, timeout)


def _as_one_window(detector: Detector, path: Path, timeout: float) -> Window:
    (verdict,) = detector.predict_clips([path], timeout)
    if verdict.probability is None:
        raise UnreadableClip(verdict.error or "")
    times = verdict.times or (0.0,)
    return Window(times[0], times[-1], verdict.probability)


def predict_timeline(
    detector: Detector,
    path: Path,
    sampling: Sampling,
    timeout: float = CLIP_TIMEOUT,
    on_progress: Callable[[float, float | None], None] = lambda seconds, duration: None,
) -> Timeline:
    """Return what `predict_video` finds, and the events; a video that cannot be read says why."""
    windows: list[Window] = []
    error = None
    try:
        for window in predict_video(detector, path, sampling, timeout, on_progress):
            windows.append(window)
    except UnreadableClip as unreadable:
        error = str(unreadable)
    except OSError as unreadable:
        error = unreadable.strerror or str(unreadable)
    events = tuple(find_events(windows, detector.threshold, sampling.stride))
    return Timeline(path, tuple(windows), events, error)
