"""From the text of a flag to its value, and back: types for argparse, and how a value is shown."""

import argparse
import difflib
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from violence_detection.settings.constants import STORES


def finite(text: str) -> float:
    """Return the float that `text` spells; raises ValueError for nan and infinities."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


finite.__name__ = "number"  # argparse says "invalid number value"


def names_out_of(allowed: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    """Return a type for argparse: names out of `allowed`, separated by commas, or none."""

    def names(text: str) -> tuple[str, ...]:
        chosen = () if text in ("", "none") else tuple(text.split(","))
        if unknown := [name for name in chosen if name not in allowed]:
            raise argparse.ArgumentTypeError(f"{unknown[0]!r} is not one of {', '.join(allowed)}")
        if len(set(chosen)) < len(chosen):
            raise argparse.ArgumentTypeError(f"{text}: a name is repeated")
        return chosen

    return names


def column_names(text: str) -> tuple[str, ...]:
    """Return the names of a list that is separated by commas, each once."""
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if reserved := [name for name in names if name in ("clip", "video", "label")]:
        raise argparse.ArgumentTypeError(f"{reserved[0]} says nothing of a group of clips")
    return names


def numbers(text: str) -> tuple[int, ...]:
    """Return the whole numbers of a list that is separated by commas; raises ValueError."""
    return tuple(int(part) for part in text.split(","))


def name_out_of(allowed: Iterable[str], or_file: str = "") -> Callable[[str], str]:
    """Return a type for argparse: one of `allowed`, however it is capitalized.

    Args:
        allowed: the names.
        or_file: how the name of a file ends that may be given instead.
    """
    by_lower = {name.lower(): name for name in allowed}

    def name(text: str) -> str:
        if text.lower() in by_lower:
            return by_lower[text.lower()]
        if or_file and text.endswith(or_file):
            return text
        near = difflib.get_close_matches(text.lower(), by_lower, 1)
        names = f"did you mean {by_lower[near[0]]}?" if near else ", ".join(by_lower.values())
        raise argparse.ArgumentTypeError(f"{text!r} is unknown: {names}")

    return name


def each_of(one: Callable[[str], str]) -> Callable[[str], str]:
    """Return a type for argparse: several of what `one` takes, separated by commas, as a text."""

    def several(text: str) -> str:
        return ",".join(one(part.strip()) for part in text.split(","))

    return several


def count_or_names(allowed: Sequence[str]) -> Callable[[str], int | tuple[str, ...]]:
    """Return a type for argparse: a number, or names out of `allowed`, separated by commas."""
    names = names_out_of(allowed)

    def value(text: str) -> int | tuple[str, ...]:
        try:
            return int(text)
        except ValueError:
            return names(text)

    return value


def folder_or_url(text: str) -> Path | str:
    """Return a folder's path, or the URL of one in an object store, unchanged.

    Raises:
        ArgumentTypeError: the URL is of no known store, or contains a secret. The message leaves
            the URL out: it would be on the screen and in logs.
    """
    scheme, is_url, rest = text.partition("://")
    if not is_url:
        return Path(text)
    known = ", ".join(f"{name}://" for name in STORES)
    if scheme not in STORES:
        raise argparse.ArgumentTypeError(
            f"{scheme}:// is none of {known}; give a local folder by its path"
        )
    server, _, folder = rest.partition("/")
    user, has_user, _ = rest.rpartition("@")
    secret = ":" in (user if scheme == "hdfs" else server) and not server.startswith("arn:")
    if secret or (has_user and scheme != "hdfs" and "@" in server) or "?" in rest:
        raise argparse.ArgumentTypeError(
            f"a {scheme}:// URL with a user, a key or options in it is refused: {STORES[scheme]} "
            "finds credentials in its own ways (environment, profile, role of the machine)"
        )
    if not server and not (scheme == "hdfs" and folder):  # else HDFS's own default
        raise argparse.ArgumentTypeError(f"{text} names no {'bucket' if folder else 'folder'}")
    return text.rstrip("/")


def local_folder(text: str) -> Path:
    """Return a folder's path; raises ArgumentTypeError for a URL."""
    if "://" in text:
        raise argparse.ArgumentTypeError(
            f"{text.partition('://')[0]}:// is a URL; this must be a folder of this machine"
        )
    return Path(text)


def parse_threshold_goal(text: str) -> tuple[str, float]:
    """Return the goal and its share (1 where it has none); raises ValueError for any other text."""
    name, equals, share = text.partition("=")
    if name in ("accuracy", "balanced", "f1") and not equals:
        return name, 1.0
    if name in ("recall", "fpr") and 0 <= finite(share) <= 1:
        return name, finite(share)
    raise ValueError(text)


def parse_share(text: str) -> tuple[int | None, int]:
    """Return I and N of `I/N`, None for I of `/N`; raises ValueError for any other text."""
    number, slash, count = text.partition("/")
    share = (int(number) if number else None), int(count)
    if not slash or share[1] < 1 or not 1 <= (1 if share[0] is None else share[0]) <= share[1]:
        raise ValueError(text)
    return share


def is_understood_by(parse: Callable[[str], Any]) -> Callable[[str], bool]:
    """Return a check: whether `parse` raises no ValueError for a text."""

    def check(text: str) -> bool:
        try:
            parse(text)
        except ValueError:
            return False
        return True

    return check


def format_value(value: Any) -> str:
    """Return a setting's value as a person would write it: "on", "rgb,flow", "1.5 0.5"."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if value is None:
        return "not set"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, tuple | list):
        names = all(isinstance(item, str) for item in value)
        whole = all(isinstance(item, int) for item in value)
        separator = "," if names or whole else " "
        return separator.join(map(format_value, value)) or "none"
    return str(value)
