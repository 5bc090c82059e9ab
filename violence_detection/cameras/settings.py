"""The cameras of a `watch.py` file: TOML, checked before anything is opened."""

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from violence_detection.cameras.alarms import AlarmRule, Hours, parse_hours
from violence_detection.cameras.receivers import ReceiverSettings
from violence_detection.clips.sampling import Polygon, check_windows
from violence_detection.errors import UserError
from violence_detection.inference.live_source import Source, parse_source
from violence_detection.inference.webhook import require_webhook_url
from violence_detection.runtime.listening import is_loopback, is_token

WINDOW = 2.0  # seconds


@dataclass(frozen=True)
class Camera:
    """A source that is watched."""

    name: str
    source: Source
    threshold: float | None = None  # None: the detector's
    window: float = WINDOW  # seconds
    stride: float = WINDOW / 2  # seconds
    schedule: tuple[Hours, ...] = ()  # when it is watched; empty: always
    mask: tuple[Polygon, ...] = ()  # parts of the picture that are not looked at
    alarm: AlarmRule = AlarmRule()


@dataclass(frozen=True)
class ClipRule:
    """What is kept of an event."""

    before: float = 5.0  # seconds
    after: float = 5.0  # seconds
    keep_days: float = 30.0
    keep_gb: float = 10.0
    recent: float = 300.0  # seconds of packets that are kept although nothing has happened


@dataclass(frozen=True)
class PageSettings:
    """The page with the cameras, and who may see it."""

    host: str = "127.0.0.1"
    port: int = 8010
    token: str | None = None
    insecure: bool = False  # whether others than this machine may see it without a token
    allowed_hosts: tuple[str, ...] = ()  # further names of this machine


@dataclass(frozen=True)
class WatchSettings:
    """Everything that a file says."""

    cameras: tuple[Camera, ...]
    clips: ClipRule = ClipRule()
    events: Path = Path("events")  # folder of event clips, snapshots and events.jsonl
    receivers: tuple[ReceiverSettings, ...] = ()
    page: PageSettings | None = None  # None: there is none
    silence: float = 10.0  # seconds without a frame after which a source counts as lost
    frozen: float = 60.0  # seconds with the same picture after which a camera counts as frozen


def read_cameras(path: Path) -> WatchSettings:
    """Return the settings in a TOML file.

    Raises:
        UserError: it cannot be read, or something in it is unknown, missing, or out of its range;
            the message names it.
    """
    try:
        with path.open("rb") as file:
            content = tomllib.load(file)
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from error
    try:
        return _settings(content)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _settings(content: Mapping[str, Any]) -> WatchSettings:
    cameras, defaults = content.get("camera", []), _table("defaults", content.get("defaults", {}))
    if not isinstance(cameras, list) or not cameras:
        raise UserError("no [[camera]]: name one, with name and source")
    rule = _alarm_rule(_table("alarm", content.get("alarm", {})), AlarmRule())
    read = tuple(_camera(number, defaults, table, rule) for number, table in enumerate(cameras, 1))
    names = [camera.name for camera in read]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"two cameras are called {name!r}")
    clips = _read("clips", content.get("clips", {}), _CLIPS)
    receivers = content.get("receiver", [])
    if not isinstance(receivers, list):
        raise UserError("receiver: write [[receiver]] for each")
    page = content.get("page")
    found_page = None if page is None else _page(page)
    found_receivers = tuple(_receiver(number, each) for number, each in enumerate(receivers, 1))
    others = {key: value for key, value in content.items() if key not in _TABLES}
    found = _read("the file", others, _TOP)
    return WatchSettings(
        read, ClipRule(**clips), receivers=found_receivers, page=found_page, **found
    )


def _camera(
    number: int, defaults: Mapping[str, Any], table: Mapping[str, Any], rule: AlarmRule
) -> Camera:
    own = {**defaults, **_table("camera", table)}
    place = f"camera {own.get('name', number)!r}"
    if isinstance(own.get("alarm"), dict):
        rule = _alarm_rule(own.pop("alarm"), rule)
    values = _read(place, own, _CAMERA)
    for needed in ("name", "source"):
        if needed not in values:
            raise UserError(f"{place}: {needed} is missing")
    if "window" in values and "stride" not in values:
        values["stride"] = values["window"] / 2
    camera = Camera(alarm=rule, **values)
    try:
        check_windows(camera.window, camera.stride)
    except UserError as error:
        raise UserError(f"{place}: {error}") from error
    return camera


def _receiver(number: int, table: Any) -> ReceiverSettings:
    values = _table(f"receiver {number}", table)
    kind = values.pop("kind", None)
    if kind not in _RECEIVERS:
        raise UserError(f"receiver {number}: kind must be one of {', '.join(_RECEIVERS)}")
    known = _RECEIVERS[kind]
    read = _read(f"receiver {number} ({kind})", values, known)
    needed = next(iter(known))
    if needed not in read:
        raise UserError(f"receiver {number} ({kind}): {needed} is missing")
    return ReceiverSettings(kind, read)


def _page(table: Any) -> PageSettings:
    page = PageSettings(**_read("page", table, _PAGE))
    if page.token is None and not page.insecure and not is_loopback(page.host):
        raise UserError(
            f"page: host {page.host} can be reached from other machines: set a token, or "
            "insecure = true to show the cameras to everybody"
        )
    return page


def _alarm_rule(table: Mapping[str, Any], defaults: AlarmRule) -> AlarmRule:
    values = _read("alarm", table, _ALARM)
    if "windows" in values:
        values["windows"], values["of"] = values["windows"]
    return replace(defaults, **values)


def _table(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{name}: is not a table of settings")
    return dict(value)


def _read(
    place: str, table: Mapping[str, Any], known: Mapping[str, Callable[[Any], Any]]
) -> dict[str, Any]:
    """Return the values of a table, checked and converted, by the names of fields."""
    values = {}
    for key, value in _table(place, table).items():
        if key not in known:
            raise UserError(f"{place}: {key} is unknown; known are {', '.join(known)}")
        try:
            values[key.replace("-", "_")] = known[key](value)
        except UserError as error:
            raise UserError(f"{place}: {error}") from error
        except (ValueError, TypeError, KeyError) as error:
            shown = "" if key in _SECRETS else f" = {value!r}"
            raise UserError(f"{place}: {key}{shown}: {error}") from error
    return values


def _number(lowest: float, highest: float = float("inf")) -> Callable[[Any], float]:
    def convert(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError("must be a number")
        if not lowest <= value <= highest:
            raise ValueError(f"must be from {lowest:g} to {highest:g}")
        return float(value)

    return convert


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise ValueError("must be a text")
    return value


def _name(value: Any) -> str:
    name = _text(value)
    if set(name) & set('/\\:*?"<>|') or name.startswith("."):
        raise ValueError("must be a name that a folder can have")
    return name


def _spans(value: Any) -> tuple[Hours, ...]:
    texts = [value] if isinstance(value, str) else list(value)
    try:
        return tuple(parse_hours(text) for text in texts)
    except (ValueError, AttributeError) as error:
        raise ValueError("must be hours such as 22:00-06:00 or mon-fri 18:00-06:00") from error


def _polygons(value: Any) -> tuple[Polygon, ...]:
    polygons = tuple(tuple((float(x), float(y)) for x, y in polygon) for polygon in value)
    inside = all(0 <= part <= 1 for polygon in polygons for point in polygon for part in point)
    if not inside or any(len(polygon) < 3 for polygon in polygons):
        raise ValueError("must be polygons of three or more [x, y], from 0 to 1")
    return polygons


def _token(value: Any) -> str:
    token = _text(value)
    if not is_token(token):
        raise ValueError("must be visible ASCII characters, without spaces")
    return token


def _windows(value: Any) -> tuple[int, int]:
    some, _, of = str(value).partition(" of ")
    count = int(some), int(of or some)
    if not 1 <= count[0] <= count[1] <= 1000:
        raise ValueError("must be such as 3 of 5")
    return count


def _web_address(value: Any) -> str:
    address = _text(value)
    try:
        require_webhook_url(address)
    except UserError as error:
        raise ValueError("must be a URL such as https://server/path") from error
    return address


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


_TABLES = ("camera", "defaults", "alarm", "clips", "page", "receiver")
_SECRETS = ("password", "url", "source", "token")  # may contain one
_TOP: dict[str, Callable[[Any], Any]] = {
    "events": lambda value: Path(_text(value)),
    "silence": _number(0.1),
    "frozen": _number(1),
}
_CLIPS = {
    "before": _number(0, 600),
    "after": _number(0, 600),
    "keep-days": _number(0),
    "keep-gb": _number(0),
    "recent": _number(0, 3600),
}
_PAGE: dict[str, Callable[[Any], Any]] = {
    "host": _text,
    "port": lambda value: int(_number(0, 65535)(value)),
    "token": _token,
    "insecure": _flag,
    "allowed-hosts": lambda value: tuple(_text(name) for name in value),
}
_ALARM = {
    "windows": _windows,
    "least-seconds": _number(0),
    "cool-down": _number(0),
    "quiet": _spans,
}
_CAMERA = {
    "name": _name,
    "source": lambda value: parse_source(_text(str(value))),
    "threshold": _number(0, 1),
    "window": _number(0.1),
    "stride": _number(0.01),
    "schedule": _spans,
    "mask": _polygons,
}
# What a receiver needs comes first.
_RECEIVERS: dict[str, dict[str, Callable[[Any], Any]]] = {
    "mqtt": {
        "host": _text,
        "port": lambda value: int(_number(1, 65535)(value)),
        "user": _text,
        "password": _text,
        "tls": _flag,
        "topic": _text,
        "discovery": lambda value: value if value == "" else _text(value),
    },
    "webhook": {"url": _web_address},
    "apprise": {"url": _text},
    "frigate": {"url": _web_address},
}
