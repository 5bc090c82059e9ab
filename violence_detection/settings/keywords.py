"""Settings from a program: keyword arguments, by the names of the flags."""

from collections.abc import Mapping
from typing import Any, NoReturn

from violence_detection.errors import UserError
from violence_detection.settings.parser import FlagParser, parse_settings
from violence_detection.settings.schema import FIELDS, Settings
from violence_detection.settings.setting import flag, setting_of


class _KeywordParser(FlagParser):
    """Raises what a command line would print."""

    def __init__(self, **settings: Any):
        super().__init__(**settings, add_help=False)

    def error(self, message: str) -> NoReturn:
        """Raise `UserError`."""
        raise UserError(self.explained(message))


def parse_keywords(values: Mapping[str, Any]) -> Settings:
    """Return the checked settings that keyword arguments stand for, as if they were flags.

    Args:
        values: by the flags' names: `batch_size` is `--batch-size`. A switch is True or False, a
            list may be a tuple, a list or a text with commas; None leaves a setting out.

    Raises:
        UserError: a name is no flag, a value is out of its range, or two settings contradict each
            other.
    """
    arguments = [word for name, value in values.items() for word in _as_flag(name, value)]
    return parse_settings(arguments, _KeywordParser)


def _as_flag(name: str, value: Any) -> list[str]:
    if value is None:
        return []
    if isinstance(value, bool):
        return [flag(name if value else f"no_{name}")]
    if not isinstance(value, tuple | list):
        return [f"{flag(name)}={value}"]
    if name in FIELDS and "nargs" in setting_of(FIELDS[name]).flag:
        return [flag(name), *map(str, value)]
    return [f"{flag(name)}={','.join(map(str, value)) or 'none'}"]
