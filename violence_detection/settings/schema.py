"""The settings of one run: a frozen dataclass per concern, and all of them by name.

Imports nothing heavy, so that `--help` answers at once and a wrong flag is reported before
TensorFlow is loaded.
"""

import argparse
import dataclasses
import json
import math
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import Field, dataclass, field
from pathlib import Path
from typing import Any, Self

from violence_detection.errors import UserError
from violence_detection.settings.data import DataSettings, FeatureSettings
from violence_detection.settings.model import ModelSettings
from violence_detection.settings.run import (
    DeviceSettings,
    ExperimentSettings,
    MonitoringSettings,
    RunSettings,
    TestSettings,
)
from violence_detection.settings.setting import Setting, setting_of
from violence_detection.settings.training import (
    LossSettings,
    TrainingSettings,
    WeakSettings,
)


@dataclass(frozen=True)
class Settings:
    """All settings of a run, by group. A field's name is its flag: `batch_size`, `--batch-size`.

    No two groups have a field of the same name, so that `replace`, files and flags go by the
    field's name alone.

    Example:
        >>> settings = Settings().replace(batch_size=96, xla=True)
        >>> settings.training.batch_size, settings.devices.xla
        (96, True)
    """

    data: DataSettings = field(default_factory=DataSettings)
    features: FeatureSettings = field(default_factory=FeatureSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    weak: WeakSettings = field(default_factory=WeakSettings)
    loss: LossSettings = field(default_factory=LossSettings)
    experiment: ExperimentSettings = field(default_factory=ExperimentSettings)
    test: TestSettings = field(default_factory=TestSettings)
    monitoring: MonitoringSettings = field(default_factory=MonitoringSettings)
    devices: DeviceSettings = field(default_factory=DeviceSettings)
    run: RunSettings = field(default_factory=RunSettings)

    @property
    def groups(self) -> dict[str, Any]:
        """The groups by their names."""
        return {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}

    def by_name(self) -> dict[str, Any]:
        """Return every setting's value by its name, in the order of the groups."""
        return {
            item.name: getattr(group, item.name)
            for group in self.groups.values()
            for item in dataclasses.fields(group)
        }

    def replace(self, **values: Any) -> Self:
        """Return these settings with other values of some, given by name.

        Raises:
            TypeError: there is no setting of a name.
        """
        groups: dict[str, dict[str, Any]] = {}
        for name, value in values.items():
            if name not in GROUP_OF:
                raise TypeError(f"there is no setting {name!r}")
            groups.setdefault(GROUP_OF[name], {})[name] = value
        changed = {
            name: dataclasses.replace(getattr(self, name), **of_group)
            for name, of_group in groups.items()
        }
        return dataclasses.replace(self, **changed)

    def as_json(self) -> dict[str, Any]:
        """Return the settings by name as JSON values; paths are made absolute."""
        return {name: _plain(value) for name, value in self.by_name().items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value.expanduser().resolve())
    return list(value) if isinstance(value, tuple) else value


def all_fields() -> Iterator[tuple[str, Field]]:
    """Yield every setting's field, with the name of its group."""
    for name, group in Settings().groups.items():
        for item in dataclasses.fields(group):
            yield name, item


FIELDS = {item.name: item for _, item in all_fields()}
GROUP_OF = {item.name: group for group, item in all_fields()}
TYPES = {
    name: kind
    for group in Settings().groups.values()
    for name, kind in typing.get_type_hints(type(group)).items()
    if name in FIELDS
}


def names_where(is_true: Callable[[Setting], bool]) -> frozenset[str]:
    """Return the names of the settings of which something is true."""
    return frozenset(name for name, item in FIELDS.items() if is_true(setting_of(item)))


CHANGES_ON_RESUME = names_where(lambda known: known.changes_on_resume)
DIFFERS_BY_HOST = names_where(lambda known: known.differs_by_host)
ONE_WORKER_ONLY = names_where(lambda known: known.one_worker_only)
IN_GRID = names_where(lambda known: known.in_grid)


def from_mapping(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings that a JSON object gives by name, as their fields have them.

    A name may be spelled as its flag.

    Args:
        values: JSON values by name, as `Settings.as_json` returns them.

    Raises:
        UserError: a name is no setting, is there twice, or a value is not one of its setting.
    """
    typed: dict[str, Any] = {}
    for key, value in values.items():
        name = setting_named(key)
        if name in typed:
            raise UserError(f"{key} is given twice")
        typed[name] = from_json(name, value)
    return typed


def setting_named(key: str) -> str:
    """Return the name of a setting that may be spelled as its flag; raises `UserError`."""
    name = key.removeprefix("--").replace("-", "_")
    if name not in FIELDS:
        raise UserError(f"{key!r} is not a setting; see --help for their names")
    return name


def from_json(name: str, value: Any) -> Any:
    """Return a setting's value for a JSON value.

    Raises:
        UserError: it is of another type, out of its range, or none of its choices.
    """
    known = setting_of(FIELDS[name])
    try:
        typed = _as_type(value, TYPES[name], known.flag.get("type"))
        if typed is not None:
            require_allowed(typed, known)
    except (ValueError, argparse.ArgumentTypeError) as error:
        raise UserError(f"{name} {json.dumps(value)}: {error}") from error
    return typed


def _as_type(value: Any, kind: Any, convert: Callable[[str], Any] | None) -> Any:
    """Return a JSON value as a field's type has it; raises `ValueError` if it is of another."""
    options = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    if Path in options and isinstance(value, str):
        return (convert or Path)(value)
    for option in options:
        parts = typing.get_args(option)
        if parts and isinstance(value, list):
            if parts[-1] is Ellipsis:
                parts = parts[:1] * len(value)
            if len(parts) == len(value):
                return tuple(_as_type(v, p, None) for v, p in zip(value, parts, strict=True))
        elif option is float:
            if type(value) in (int, float) and math.isfinite(value):
                return float(value)
        elif type(value) is option:
            return value
    raise ValueError(f"is not of type {getattr(kind, '__name__', kind)}")


def require_allowed(value: Any, known: Setting) -> None:
    """Raise `ValueError` if a value of the right type is out of its range or none of its choices.

    Args:
        value: not None.
        known: of its setting.
    """
    choices = known.flag.get("choices")
    if choices is not None and not isinstance(value, bool) and value not in choices:
        raise ValueError(f"is not one of {', '.join(choices)}")
    if known.check is not None and not known.check[0](value):
        raise ValueError(known.check[1])
    if isinstance(value, tuple) and "nargs" not in known.flag:
        try:
            known.flag["type"](",".join(map(str, value)))
        except argparse.ArgumentTypeError as error:
            raise ValueError(error) from error
