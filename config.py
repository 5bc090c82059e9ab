"""Every setting of a run: see violence_detection.settings."""

from violence_detection.settings.schema import Settings, make_parser, parse_settings

__all__ = ["Settings", "make_parser", "parse_settings"]
