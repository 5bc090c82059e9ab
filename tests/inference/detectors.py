from collections.abc import Callable
from dataclasses import fields
from typing import TypeVar

import numpy as np

from violence_detection.inference.detector import Detector

Network = Callable[[np.ndarray], np.ndarray]
Variant = TypeVar("Variant", bound=Detector)


def as_variant(detector: Detector, variant: type[Variant], **changes: object) -> Variant:
    """Return a detector as one of a subclass, with some fields changed."""
    values = {field.name: getattr(detector, field.name) for field in fields(detector)}
    return variant(**values | changes)


def with_network(detector: Detector, own: Network, **changes: object) -> Detector:
    """Return a detector with another network in place of VGG19, and some fields changed."""

    class Substituted(Detector):
        networks = property(lambda self: {recipe.network: own for recipe in self.recipes})

    return as_variant(detector, Substituted, **changes)
