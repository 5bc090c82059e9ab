"""A detector that waits and fails when a test wants it to."""

import dataclasses
import threading
from collections.abc import Sequence

import numpy as np

from violence_detection.inference.detector import (
    ClassifierOutput,
    DecodedClip,
    Detector,
    Prediction,
)


@dataclasses.dataclass(frozen=True)
class ScriptedDetector(Detector):
    """A detector whose forward passes can be held up, and fail.

    Attributes:
        begun: set when a forward pass begins.
        released: forward passes wait for it.
        failures: what the next forward passes raise.
    """

    begun: threading.Event = dataclasses.field(default_factory=threading.Event)
    released: threading.Event = dataclasses.field(default_factory=threading.Event)
    failures: list[Exception] = dataclasses.field(default_factory=list)

    def predict_decoded(self, clips: Sequence[DecodedClip]) -> list[Prediction]:
        self._follow_script()
        return super().predict_decoded(clips)

    def predict_images(self, images: np.ndarray) -> ClassifierOutput:
        self._follow_script()
        return super().predict_images(images)

    def _follow_script(self) -> None:
        self.begun.set()
        assert self.released.wait(60)
        if self.failures:
            raise self.failures.pop()


def scripted(detector: Detector) -> ScriptedDetector:
    """Return a copy of a detector that follows a script; released at first."""
    fields = {field.name: getattr(detector, field.name) for field in dataclasses.fields(detector)}
    copy = ScriptedDetector(**fields)
    copy.released.set()
    return copy
