"""Every setting of a run: see violence_detection.settings."""

from violence_detection.settings.parser import make_parser, parse_settings
from violence_detection.settings.schema import Settings

__all__ = ["Settings", "make_parser", "parse_settings"]
