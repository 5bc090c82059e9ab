"""How one setting is declared: its default, its help, its check, and what else is known of it."""

from collections.abc import Callable
from dataclasses import Field, dataclass, field
from typing import Any

from violence_detection.settings.constants import VGG19

Check = tuple[Callable[[Any], bool], str]  # what must be true, and the same in words
AT_LEAST_0: Check = (lambda value: value >= 0, "must be 0 or more")
AT_LEAST_1: Check = (lambda value: value >= 1, "must be 1 or more")
ABOVE_0: Check = (lambda value: value > 0, "must be above 0")
SHARE: Check = (lambda value: 0 <= value < 1, "must be at least 0 and below 1")


@dataclass(frozen=True)
class Setting:
    """What is known of a setting beside its name, type and default.

    Args:
        help: one sentence for `--help`.
        details: what else there is to say, for docs/flags.md.
        check: what must be true of a value that is not None.
        changes_on_resume: a run may continue with another value: it decides nothing that is
            trained.
        differs_by_host: the workers of a run may have different values.
        one_worker_only: refused when a run has several workers.
        in_grid: `--grid` may vary it.
        flag: options of argparse's `add_argument`.
    """

    help: str
    details: str
    check: Check | None
    changes_on_resume: bool
    differs_by_host: bool
    one_worker_only: bool
    in_grid: bool
    flag: dict[str, Any]


def setting(
    default: Any,
    help: str,
    details: str = "",
    *,
    check: Check | None = None,
    changes_on_resume: bool = False,
    differs_by_host: bool = False,
    one_worker_only: bool = False,
    in_grid: bool = False,
    **flag: Any,
) -> Any:
    """Declare a field of a group of settings; the arguments are those of `Setting`."""
    known = Setting(
        *(help, details, check),
        *(changes_on_resume, differs_by_host, one_worker_only, in_grid),
        flag,
    )
    return field(default=default, metadata={"setting": known})


def setting_of(item: Field) -> Setting:
    """Return what a field was declared with."""
    return item.metadata["setting"]


def flag(name: str) -> str:
    """Return the flag of a setting: `batch_size` -> `--batch-size`."""
    return "--" + name.replace("_", "-")


def weights_flag(backbone: str) -> str:
    """Return the flag that names a backbone's weights, in messages about them."""
    return "--vgg19-weights" if backbone == VGG19 else "--backbone-weights"
