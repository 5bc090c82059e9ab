"""A long video as overlapping windows in time, each predicted as a clip is."""

import contextlib
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from violence_detection.clips.decoders import stream_from_process
from violence_detection.clips.frames import LEAST_SHARE, share_warnings
from violence_detection.clips.sampling import (
    Polygon,
    Sample,
    Sampling,
    VideoEnd,
    check_windows,
    sample_video,
)
from violence_detection.clips.video import UnreadableClip, VideoInfo
from violence_detection.inference.detector import Detector, Prediction
from violence_detection.inference.events import Event, Timeline, Window, find_events
from violence_detection.runtime.wording import timestamp
from violence_detection.settings.constants import CLIP_TIMEOUT

STILLS_AT_ONCE = 16  # times as many samples as a batch has wait, at most, if they are all alike


def window_sampling(
    detector: Detector, window: float, stride: float, mask: tuple[Polygon, ...] = ()
) -> Sampling:
    """Return how the frames that a detector takes are sampled from windows of a video.

    Args:
        detector: whose streams and numbers of frames are used.
        window: length of a window in seconds.
        stride: seconds from the start of a window to the start of the next.
        mask: parts of the picture that are not looked at.

    Raises:
        UserError: the windows would leave gaps, or are too short.
    """
    check_windows(window, stride)
    used = tuple(detector.frame_indices.tolist())
    return Sampling(window, stride, detector.streams, detector.cached_frames, used, mask)


class WindowPredictor:
    """Takes the samples of a video in order and predicts the windows that become complete.

    A sample's features are computed once for all windows that contain it. Memory holds one batch
    of images for VGG19 and the features of a window or two.

    Args:
        detector: makes the predictions.
        sampling: of the windows.
        interval: seconds from sample to sample.
        samples_per_batch: of VGG19; None: as many as fit into the detector's own batch.
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
        self.step = sampling.step(interval)  # samples from window to window
        streams = len(detector.streams)
        self.samples_per_batch = samples_per_batch or max(1, detector.images_per_batch // streams)
        self._samples_at_once = samples_per_batch
        self._samples = 0  # received so far
        self._next = 0  # the sample at which the next window starts
        self._skipped_to = 0  # windows that start before it can no longer be predicted
        self._times: dict[int, float] = {}
        self._moved: dict[int, bool] = {}  # by sample: since the one before
        # By sample: (features,), or the images if a backbone takes whole clips.
        self._features: dict[int, np.ndarray] = {}
        # Images of samples without features so far; one array for those that are alike.
        self._waiting: dict[int, np.ndarray] = {}
        self._newest = np.zeros(0, np.uint8)  # images
        self._computed: tuple[np.ndarray, np.ndarray] | None = None  # the last, with its features

    def add(self, sample: Sample, features: np.ndarray | None = None) -> None:
        """Take the next sample.

        Args:
            sample: with its images.
            features: of the images, `(features_per_frame,)`; None: they are computed when due.
        """
        self._samples = sample.number + 1
        self._times[sample.number] = sample.time
        self._moved[sample.number] = sample.moved
        if features is not None:
            self._features[sample.number] = features
        elif sample.images is not None:
            if not np.array_equal(self._newest, sample.images):  # not a still: it is computed
                self._newest = sample.images
            self._waiting[sample.number] = self._newest

    @property
    def samples(self) -> int:
        """How many samples have been taken."""
        return self._samples

    @property
    def next_start(self) -> int:
        """The sample at which the next window starts."""
        return self._next

    def skip_to(self, start: int) -> None:
        """Skip the windows before the one that starts at the sample `start`."""
        self._next = self._skipped_to = start
        for by_sample in (self._times, self._moved, self._features, self._waiting):
            for number in [number for number in by_sample if number < start]:
                del by_sample[number]

    @property
    def is_full(self) -> bool:
        """Whether the waiting images fill a batch of VGG19, or many samples wait."""
        if len(self._waiting) >= STILLS_AT_ONCE * self.samples_per_batch:
            return True
        return len({id(images) for images in self._waiting.values()}) >= self.samples_per_batch

    def predict(self, ended: bool = False) -> list[Window]:
        """Return the windows that have become complete.

        Args:
            ended: there are no more samples: a last window is added that ends at the last one.
        """
        if ended and self._samples < self.sampling.frames:  # not enough for a single window
            return []
        self._compute_features()
        previous = self._next - self.step
        starts = list(range(self._next, self._samples - self.sampling.frames + 1, self.step))
        self._next += len(starts) * self.step
        last = self.sampling.last_start(self._samples)
        if ended and last > max(self._skipped_to - 1, self._next - self.step):
            starts.append(last)
        windows = self._windows_at(starts)
        # The newest window's samples are kept: the last window may overlap it.
        for number in range(max(0, previous), self._next - self.step):
            for by_sample in (self._times, self._moved, self._features):
                by_sample.pop(number, None)
        return windows

    def _compute_features(self) -> None:
        if not self._waiting:
            return
        if self.detector.takes_clips:
            self._features |= self._waiting
            self._waiting.clear()
            return
        known = {}
        if self._computed is not None:
            known[id(self._computed[0])] = self._computed[1]
        new = {id(images): images for images in self._waiting.values() if id(images) not in known}
        if new:
            images = np.stack(list(new.values()))
            features = self.detector.frame_features(images, self._samples_at_once)
            known |= zip(new, features, strict=True)
        for number, images in self._waiting.items():
            self._features[number] = known[id(images)]
            self._computed = images, known[id(images)]
        self._waiting.clear()

    def _windows_at(self, starts: Sequence[int]) -> list[Window]:
        if not starts:
            return []
        if self.detector.takes_clips:
            outputs = [self.detector.predict_images(self._window_images(start)) for start in starts]
            probabilities = np.concatenate([output.probabilities for output in outputs])
        else:
            features = np.stack([self._window_features(start) for start in starts])
            probabilities = self.detector.predict_features(features).probabilities
        length = self.sampling.frames - 1
        return [
            Window(
                *(self._times[start], self._times[start + length], float(probability)),
                still=length > 0 and not any(self._moved[start + n] for n in range(1, length + 1)),
            )
            for start, probability in zip(starts, probabilities, strict=True)
        ]

    def _window_features(self, start: int) -> np.ndarray:
        """Return the features of the window that starts at a sample, `(frames, values)`."""
        return np.stack([self._frame_features(start, index) for index in self.sampling.used])

    def _window_images(self, start: int) -> np.ndarray:
        """Return the images of the window, `(1, streams, frames, 224, 224, 3)` uint8."""
        by_stream = [
            [self._of_frame(start, index, name)[stream] for index in self.sampling.used]
            for stream, name in enumerate(self.detector.streams)
        ]
        return np.array(by_stream)[np.newaxis]

    def _frame_features(self, start: int, index: int) -> np.ndarray:
        """Return the features of a frame, `(values,)`."""
        return np.concatenate(
            [
                self._of_frame(start, index, recipe.stream)[part]
                for recipe, part in zip(self.detector.recipes, self.detector.parts, strict=True)
            ]
        )

    def _of_frame(self, start: int, index: int, stream: str) -> np.ndarray:
        """Return what is known of the sample that shows a stream of a window's frame."""
        # A window's first frame has no movement of its own: it repeats that of the second.
        return self._features[start + max(index, int(stream != "rgb"))]


def predict_video(
    detector: Detector,
    path: Path,
    sampling: Sampling,
    timeout: float = CLIP_TIMEOUT,
    on_progress: Callable[[float, float | None], None] = lambda seconds, duration: None,
    stream: Callable[..., Generator[Any, None, None]] = stream_from_process,
    on_end: Callable[[VideoEnd], None] = lambda end: None,
) -> Generator[Window, None, None]:
    """Yield the windows of a video in order; the video is read once.

    A video no longer than a window is predicted as a single clip. A process of its own reads
    ahead while the networks compute. Memory does not depend on the video's length.

    Args:
        detector: makes the predictions.
        path: of the video.
        sampling: of its windows.
        timeout: seconds that reading the next sample may take.
        on_progress: called with the seconds of video read so far, and the video's duration in
            seconds if its file states one.
        stream: runs `sample_video` and yields its items, as `stream_from_process` does.
        on_end: called once the video has been read to its end.

    Raises:
        UnreadableClip: the video cannot be read, or not any further than the windows that were
            yielded; or it has been read, but less than `LEAST_SHARE` of it could be.
    """
    ahead = 2 * max(1, detector.images_per_batch // len(detector.streams))
    items = stream(sample_video, path, sampling, timeout=timeout, ahead=ahead)
    with contextlib.closing(items):
        info: VideoInfo = next(items)
        if sampling.covers(info.duration, info.frames_per_second):
            whole = _predict_as_clip(detector, path, timeout)
            # What the file says of its length may be false.
            if whole.info and sampling.covers(whole.info.seconds, info.frames_per_second):
                on_end(VideoEnd(whole.info.share))
                yield window_of(whole)
                return
        predictor = WindowPredictor(detector, sampling, sampling.interval(info.frames_per_second))
        count, end = 0, VideoEnd(1.0)
        for item in items:
            if isinstance(item, VideoEnd):
                end = item
                break
            predictor.add(item)
            if predictor.is_full:
                windows = predictor.predict()
                count += len(windows)
                yield from windows
                on_progress(item.time, info.duration)
        windows = predictor.predict(ended=True)
        yield from windows
    if count + len(windows) == 0:
        yield window_of(_predict_as_clip(detector, path, timeout))
    on_end(readable_end(end))


def readable_end(end: VideoEnd) -> VideoEnd:
    """Return the end of a video.

    Raises:
        UnreadableClip: less than `LEAST_SHARE` of it could be read.
    """
    if end.share < LEAST_SHARE:
        raise UnreadableClip(f"only {end.share:.0%} of it can be read")
    return end


def _predict_as_clip(detector: Detector, path: Path, timeout: float) -> Prediction:
    (prediction,) = detector.predict_clips([path], timeout)
    if prediction.probability is None:
        raise UnreadableClip(prediction.error or "")
    return prediction


def window_of(prediction: Prediction) -> Window:
    """Return the prediction for a whole clip as a window over it."""
    assert prediction.probability is not None
    times = prediction.times or (0.0,)
    still = prediction.info is not None and prediction.info.still
    return Window(times[0], times[-1], prediction.probability, still)


def video_warnings(
    detector: Detector,
    sampling: Sampling,
    windows: Sequence[Window],
    events: Sequence[Event],
    share: float,
) -> tuple[str, ...]:
    """Return why the predictions for a video are unreliable; mostly nothing.

    Args:
        detector: made them.
        sampling: of the windows.
        windows: of the video.
        events: among them.
        share: of the video that could be read, 0 to 1.
    """
    warnings = share_warnings(share)
    if windows and all(window.still for window in windows):
        warnings.append("nothing moves in it: its frames are all the same")
    else:
        still = [timestamp(event.start) for event in events if event.still]
        warnings += [f"nothing moves in the event at {start}" for start in still]
    if detector.is_too_long(sampling.window):
        warnings.append(
            f"windows of {sampling.window:g} s, but training clips last {detector.clip_seconds:g} s"
        )
    return tuple(warnings)


def predict_timeline(
    detector: Detector,
    path: Path,
    sampling: Sampling,
    timeout: float = CLIP_TIMEOUT,
    on_progress: Callable[[float, float | None], None] = lambda seconds, duration: None,
    stream: Callable[..., Generator[Any, None, None]] = stream_from_process,
) -> Timeline:
    """Return a video's windows and events.

    Takes what `predict_video` takes. If the video cannot be read to its end, the timeline has the
    windows up to there, and the error.
    """
    windows: list[Window] = []
    ends: list[VideoEnd] = []
    error = None
    try:
        for window in predict_video(
            detector, path, sampling, timeout, on_progress, stream, ends.append
        ):
            windows.append(window)
    except UnreadableClip as unreadable:
        error = str(unreadable)
    except OSError as unreadable:
        error = unreadable.strerror or str(unreadable)
    events = tuple(find_events(windows, detector.threshold, sampling.stride))
    share = ends[0].share if ends else 1.0
    warnings = video_warnings(detector, sampling, windows, events, share)
    return Timeline(path, tuple(windows), events, error, warnings)
