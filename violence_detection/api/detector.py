"""A trained detector, for programs."""

import contextlib
import dataclasses
import logging
import os
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self, overload

from violence_detection.api.predictions import (
    Event,
    Prediction,
    Timeline,
    Window,
    live_event_of,
    prediction_of,
    timeline_of,
    window_of,
)
from violence_detection.api.processes import require_main_program
from violence_detection.commands.flags import PROBABILITY
from violence_detection.commands.predict_live import LIVE_WINDOW, SILENCE
from violence_detection.errors import RunError, UserError
from violence_detection.settings.constants import CLIP_TIMEOUT, SHORTEST_WINDOW
from violence_detection.settings.schema import Settings

if TYPE_CHECKING:
    import numpy as np

    from violence_detection.clips.clip import Footage
    from violence_detection.clips.sampling import Sampling
    from violence_detection.inference import detector
    from violence_detection.inference.live_source import Source

log = logging.getLogger(__name__)

StrPath = str | os.PathLike[str]


class Detector:
    """A trained detector; made by `Detector.load`. Use it in one thread at a time."""

    def __init__(self, loaded: "detector.Detector"):
        self._loaded = loaded

    @classmethod
    def load(
        cls,
        folder: StrPath,
        *,
        threshold: float | None = None,
        vgg19_weights: StrPath | None = None,
        mixed_precision: bool | None = None,
        replicas: int | None = None,
        verify: StrPath | None = None,
    ) -> Self:
        """Return the detector of a finished run.

        Args:
            folder: the run's checkpoint directory.
            threshold: probability from which a clip is violent, 0 to 1; None: as chosen in
                training.
            vgg19_weights: "imagenet", "random" or a file's path; None: as in training.
            mixed_precision: whether VGG19 computes in 16 bits; None: as in training.
            replicas: number of GPUs, or of parts of the CPU; None: all GPUs, or 1. Only takes
                effect before TensorFlow has computed anything.
            verify: public key of the signature that it must have; None: none is asked for.

        Raises:
            UserError: the folder has no finished run, its model is missing or is another one, its
                weights are missing, or it is not signed with that key.
        """
        from violence_detection.commands.loading import load
        from violence_detection.models import random_weights_warning

        require_main_program()
        is_allowed, rule = PROBABILITY
        if threshold is not None and not is_allowed(threshold):
            raise UserError(f"threshold {threshold:g}: {rule}")
        loaded = load(
            Path(folder),
            None if vgg19_weights is None else os.fspath(vgg19_weights),
            mixed_precision=mixed_precision,
            replicas=replicas,
            threshold=threshold,
            quiet=True,
            verify=None if verify is None else Path(verify),
        )
        if untrained := loaded.untrained_backbones:
            warnings.warn(random_weights_warning(untrained), stacklevel=2)
        return cls(loaded)

    def __repr__(self) -> str:
        from violence_detection.commands.loading import describe

        return f"<Detector {describe(self._loaded)}>"

    @property
    def name(self) -> str:
        """The model's file name and the first digits of its checksum."""
        return self._loaded.name

    @property
    def threshold(self) -> float:
        """The probability from which a clip is predicted violent."""
        return self._loaded.threshold

    @property
    def frames(self) -> int:
        """How many frames of a clip the classifier takes, and attention weighs."""
        return self._loaded.frames

    @overload
    def predict(  # type: ignore[overload-overlap]  # a str is a sequence of str, too
        self,
        clips: "StrPath | np.ndarray",
        *,
        whole: bool = False,
        clip_timeout: float = CLIP_TIMEOUT,
    ) -> Prediction: ...

    @overload
    def predict(
        self,
        clips: Sequence[StrPath],
        *,
        whole: bool = False,
        clip_timeout: float = CLIP_TIMEOUT,
    ) -> list[Prediction]: ...

    def predict(
        self,
        clips: "StrPath | np.ndarray | Sequence[StrPath]",
        *,
        whole: bool = False,
        clip_timeout: float = CLIP_TIMEOUT,
    ) -> Prediction | list[Prediction]:
        """Return the prediction for a clip, or those for several.

        Args:
            clips: a clip's path; several, also with folders, patterns, manifests and URLs, as
                predict.py takes them; or a clip's frames, `(frames, height, width, 3)` uint8 RGB,
                evenly spaced over the clip. Of more frames than the detector takes, some are
                chosen as of a file.
            whole: give one answer for a clip that is far longer than those of the training, too;
                else its windows are predicted, and the highest one stands for it.
            clip_timeout: seconds that reading a clip may take.

        Returns:
            For a path or frames, a prediction; for several paths, a list in their order. One for
            a clip that cannot be read has an `error`.

        Raises:
            UserError: there is no such file; the frames have another shape or type.
            RunError: memory runs out.
        """
        import numpy as np

        if isinstance(clips, str | os.PathLike):
            predictions = self._predict_files([clips], whole, clip_timeout)
            if len(predictions) != 1:
                raise UserError(f"{clips} stands for {len(predictions)} clips: give [{clips!r}]")
            return predictions[0]
        if isinstance(clips, np.ndarray):
            return self._predict_frames(clips)
        return self._predict_files(clips, whole, clip_timeout)

    def _predict_frames(self, frames: "np.ndarray") -> Prediction:
        if frames.ndim != 4 or frames.shape[3] != 3 or 0 in frames.shape or frames.dtype != "uint8":
            raise UserError(
                f"frames of shape {frames.shape}, {frames.dtype}: must be (frames, height, width, "
                "3), uint8, RGB"
            )
        with self._explaining_memory():
            (prediction,) = self._loaded.predict_decoded([self._loaded.decoded(frames)])
        return dataclasses.replace(prediction_of(prediction), clip=None)

    def _predict_files(
        self, paths: Sequence[StrPath], whole: bool, clip_timeout: float
    ) -> list[Prediction]:
        from violence_detection.commands.predict_video import answer_for

        with contextlib.ExitStack() as stack:
            clips = _find_clips(paths, stack)
            stack.enter_context(self._explaining_memory())
            predictions = stack.enter_context(
                contextlib.closing(self._loaded.predict_clips(clips, clip_timeout))
            )
            return [
                prediction_of(
                    prediction
                    if whole
                    else answer_for(self._loaded, prediction, clip_timeout, bar=False)
                )
                for prediction in predictions
            ]

    def predict_windows(
        self,
        path: StrPath,
        window: float | None = None,
        stride: float | None = None,
        *,
        clip_timeout: float = CLIP_TIMEOUT,
    ) -> Timeline:
        """Return when violence happens in a video.

        Args:
            path: of the video.
            window: length of a window in seconds; None: as long as a training clip.
            stride: seconds from one window to the next; None: half a window.
            clip_timeout: seconds that reading a frame may take.

        Returns:
            Its windows and events. If it cannot be read to its end, those up to there, and an
            `error`.

        Raises:
            UserError: there is no such file; the windows are too short, or leave gaps.
            RunError: memory runs out.
        """
        from violence_detection.commands.clip_arguments import require_local
        from violence_detection.commands.predict_video import predict_video

        if window is None:
            window = max(SHORTEST_WINDOW, self._loaded.clip_seconds or LIVE_WINDOW)
        sampling = self._sampling(window, stride)
        with contextlib.ExitStack() as stack:
            videos = require_local("predict_windows", _find_clips([path], stack))
            if len(videos) != 1:
                raise UserError(f"{path} stands for {len(videos)} videos: give them one by one")
            with self._explaining_memory():
                timeline = predict_video(self._loaded, videos[0], sampling, clip_timeout, bar=False)
        return timeline_of(timeline, self.threshold)

    def watch(
        self,
        source: StrPath | int,
        window: float = LIVE_WINDOW,
        stride: float | None = None,
        *,
        silence: float = SILENCE,
    ) -> Iterator[Window | Event]:
        """Watch a live source until it ends, or until the caller stops iterating.

        A lost connection is re-established; windows that would come too late are skipped. What
        there is to say about that goes to Python's `logging`.

        Args:
            source: a stream's address (rtsp://…), a camera's number (0 is the first), or the path
                of a file, which is played at its own rate.
            window: length of a window in seconds.
            stride: seconds from one window to the next; None: half a window.
            silence: seconds without a frame after which the source is reconnected.

        Returns:
            An iterator over windows as they are predicted, and events: each when it begins, and
            again when it is over.

        Raises:
            UserError: the source is none, or not live; the windows are too short, or leave gaps.
            RunError: while iterating: the source cannot be read.
        """
        from violence_detection.inference.live_source import parse_source

        found = parse_source(str(source) if isinstance(source, int) else os.fspath(source))
        return self._watch(found, self._sampling(window, stride), silence)

    def _watch(
        self, source: "Source", sampling: "Sampling", silence: float
    ) -> Iterator[Window | Event]:
        from violence_detection.inference.live import LiveMonitor
        from violence_detection.inference.live_source import SourceReader

        name, threshold = source.display_name, self.threshold
        found: deque[Window | Event] = deque()
        with self._explaining_memory():
            monitor = LiveMonitor(
                self._on_one_device(),
                sampling,
                notify=lambda notice: found.append(live_event_of(notice)),
                report=log.info,
                on_window=lambda window: found.append(window_of(name, window, threshold)),
            )
            with (
                SourceReader(source, sampling, silence) as reader,
                contextlib.closing(monitor.steps(reader)) as steps,
            ):
                for _ in steps:
                    while found:
                        yield found.popleft()
        yield from found  # an event that lasted to the end is over
        if monitor.error is not None:
            raise RunError(f"{name}: {monitor.error}")

    def _sampling(self, window: float, stride: float | None) -> "Sampling":
        from violence_detection.inference.windows import window_sampling

        return window_sampling(self._loaded, window, window / 2 if stride is None else stride)

    def _on_one_device(self) -> "detector.Detector":
        """Return the detector for frames that come one by one."""
        if len(self._loaded.devices) == 1:
            return self._loaded
        from violence_detection.inference.detector import load_detector

        loaded = load_detector(self._loaded.checkpoint_dir, replicas=1)
        return dataclasses.replace(loaded, threshold=self.threshold)

    def _explaining_memory(self) -> contextlib.AbstractContextManager[None]:
        from violence_detection.commands.loading import explaining_memory

        return explaining_memory(self._loaded)


def _find_clips(paths: Iterable[StrPath], stack: contextlib.ExitStack) -> "Sequence[Footage]":
    from violence_detection.commands.clip_arguments import find_clips

    spool_dir = Settings().data.spool_dir
    found: list[Footage] = []
    for path in paths:
        found += find_clips([os.fspath(path)], spool_dir, stack)
    return found
