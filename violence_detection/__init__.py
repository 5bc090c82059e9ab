"""Train, test and use a detector of violence in video clips."""

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"
__all__ = ["Detector", "Settings", "train"]

if TYPE_CHECKING:
    from violence_detection.api import Detector, Settings, train
else:

    def __getattr__(name: str) -> object:
        """Import the API when it is asked for: every command and decoder imports this package."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{__name__}.api"), name)
