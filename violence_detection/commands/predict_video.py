"""A video's timeline for `predict`, with a progress bar."""

import dataclasses
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from violence_detection.clips.sampling import Sampling
    from violence_detection.inference.detector import Detector, Prediction
    from violence_detection.inference.events import Timeline
    from violence_detection.storage.remote_paths import AnyPath


def predict_video(
    detector: "Detector", video: "Path", sampling: "Sampling", clip_timeout: float, bar: bool
) -> "Timeline":
    """Return the windows and events of a video.

    Args:
        detector: makes the predictions.
        video: its file.
        sampling: of the windows.
        clip_timeout: seconds that reading a frame may take.
        bar: whether to show how far it has got.
    """
    from tqdm import tqdm

    from violence_detection.inference.formats import printable_name
    from violence_detection.inference.windows import predict_timeline

    with tqdm(desc=printable_name(video), unit="s", leave=False, disable=not bar) as progress:

        def show(read: float, duration: float | None) -> None:
            progress.total = duration and round(duration)
            progress.update(round(read) - progress.n)

        return predict_timeline(detector, video, sampling, clip_timeout, show)


def answer_for(
    detector: "Detector", prediction: "Prediction", clip_timeout: float, bar: bool
) -> "Prediction | Timeline":
    """Return a clip's prediction; its timeline if it is too long for one answer.

    Args:
        detector: made the prediction.
        prediction: for the whole clip. That for a segment is returned as it is.
        clip_timeout: seconds that reading a frame may take.
        bar: whether to show how far it has got.
    """
    info = prediction.info
    if info is None or prediction.segment or not detector.is_too_long(info.seconds):
        return prediction
    return predict_long_clip(detector, prediction.path, info.seconds, clip_timeout, bar)


def predict_long_clip(
    detector: "Detector", clip: "AnyPath", seconds: float, clip_timeout: float, bar: bool
) -> "Timeline":
    """Return the timeline of a clip that is too long for one answer; a warning says so.

    Its windows are as long as training clips, and half a window apart.

    Args:
        detector: makes the predictions; knows how long training clips are.
        clip: on a disk or in an object store.
        seconds: its length.
        clip_timeout: seconds that reading a frame may take.
        bar: whether to show how far it has got.
    """
    from violence_detection.inference.windows import window_sampling
    from violence_detection.settings.constants import SHORTEST_WINDOW
    from violence_detection.storage.remote_paths import local_copy

    window = max(SHORTEST_WINDOW, detector.clip_seconds or 0.0)
    sampling = window_sampling(detector, window, window / 2)
    with local_copy(clip) as copy:
        timeline = predict_video(detector, copy, sampling, clip_timeout, bar)
    reason = (
        f"it lasts {seconds:.0f} s, training clips {window:g} s: predicted in windows of "
        f"{window:g} s (--whole: one answer)"
    )
    return dataclasses.replace(timeline, path=clip, warnings=(reason, *timeline.warnings))
