"""How the value of a setting is written in messages and reports."""

import re
from typing import Any


def format_value(value: Any) -> str:
    """Return the value of a setting as text, as it is given on a command line.

    Args:
        value: of a setting, or as it is in JSON. A password in a URL is left out: messages and
            reports are passed on.
    """
    if value is None:
        return "not given"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, list | tuple):
        return " ".join(map(str, value)) or "none"
    return re.sub(r"//[^/@]*@", "//…@", str(value))
