"""Another model without a restart: loaded beside the one in use, tried on clips, then switched."""

import asyncio
import logging
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from violence_detection.errors import RunError, UserError
from violence_detection.inference.detector import Detector, Prediction
from violence_detection.serving.service import Service
from violence_detection.serving.uploads import drawn_clip

log = logging.getLogger(__name__)


class Reloaded(NamedTuple):
    """A detector that has come into use."""

    detector: Detector
    tried: int  # clips
    changed: int  # of these, predicted otherwise than by the detector before


class Reloader:
    """Replaces the detector of a running service; one reload at a time.

    Args:
        service: whose detector it is.
        load: returns the detector that is in the checkpoint directory now.
        trial: clips that a new detector must be able to predict; none: a drawn one.
    """

    def __init__(self, service: Service, load: Callable[[], Detector], trial: Sequence[Path] = ()):
        self.service = service
        self._load = load
        self._trial = tuple(trial)
        self._one_at_a_time = asyncio.Lock()

    async def reload(self) -> Reloaded:
        """Load the detector anew, try it, and use it; one that fails changes nothing.

        Raises:
            UserError: it is missing, damaged, takes clips in another way, or cannot predict a clip
                of the trial.
            RunError: it cannot be loaded.
        """
        async with self._one_at_a_time:
            log.info("loading the detector anew")
            try:
                reloaded = await self._tried()
            except (UserError, RunError, OSError, ValueError) as error:
                log.error("the detector stays %s: %s", self.service.detector.name, error)
                if isinstance(error, UserError | RunError):
                    raise
                raise RunError(str(error)) from error
            detector = reloaded.detector
            self.service.replace_detector(detector)
            log.info(
                "ready: %s, sha256 %s; trial clips: %d, predicted otherwise than before: %d",
                *(detector.name, detector.model_sha256, reloaded.tried, reloaded.changed),
            )
            return reloaded

    async def _tried(self) -> Reloaded:
        detector = await asyncio.to_thread(self._load)
        self.service.require_like_the_one_in_use(detector)
        if self._trial:
            return await self._compared(detector, self._trial)
        with tempfile.TemporaryDirectory(dir=self.service.uploads) as folder:
            drawn = Path(folder) / "drawn.mp4"
            drawn.write_bytes(await asyncio.to_thread(drawn_clip, self.service.uploads))
            return await self._compared(detector, [drawn])

    async def _compared(self, detector: Detector, clips: Sequence[Path]) -> Reloaded:
        new = await self.service.queue.predict_with(detector, clips)
        for prediction in new:
            if prediction.error is not None:
                raise UserError(f"{detector.name}: {prediction.path.name}: {prediction.error}")
        old = await self.service.queue.predict_with(self.service.detector, clips)
        changed = sum(_differs(*pair) for pair in zip(old, new, strict=True))
        return Reloaded(detector, len(clips), changed)


def _differs(one: Prediction, other: Prediction) -> bool:
    return one.violent != other.violent
