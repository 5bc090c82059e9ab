"""docs/flags.md, made from the settings: `python config.py --write-flags-page docs/flags.md`."""

import dataclasses
from dataclasses import Field

from violence_detection.settings.schema import Settings
from violence_detection.settings.setting import flag, setting_of
from violence_detection.settings.values import format_value

HEAD = """\
# Flags of the training command

Made from the settings by `python config.py --write-flags-page docs/flags.md`; do not edit.

Every switch has a `--no-` twin. `--config FILE` takes the same settings from a JSON object, by
name (`batch_size` for `--batch-size`); flags take precedence over it. `python config.py` with the
flags of a training prints the settings that it would use.
"""
NOTES = (
    ("changes_on_resume", "may change when a run is resumed"),
    ("differs_by_host", "may differ between hosts"),
    ("one_worker_only", "one worker only"),
    ("in_grid", "may be varied by `--grid`"),
)


def flags_page() -> str:
    """Return every flag with its default, its help and its details, as Markdown."""
    parts = [HEAD]
    for group in Settings().groups.values():
        parts.append(f"## {group.TITLE[0].upper()}{group.TITLE[1:]}\n")
        parts += [_entry(item) for item in dataclasses.fields(group)]
    return "\n".join(parts)


def _entry(item: Field) -> str:
    known = setting_of(item)
    value = known.flag.get("metavar") or "|".join(known.flag.get("choices", ()))
    value = " ".join(value) if isinstance(value, tuple) else value
    value = f"[{value}]" if isinstance(item.default, bool) and value else value
    names = ", ".join((flag(item.name), *known.flag.get("aliases", ())))
    spelled = f"{names} {value}".strip()
    default = "" if item.default is None else f" Default: `{format_value(item.default)}`."
    sentences = f"{known.help[0].upper()}{known.help[1:]}.{default}"
    if known.details:
        sentences += f" {known.details[0].upper()}{known.details[1:]}"
    notes = [text for name, text in NOTES if getattr(known, name)]
    if notes:
        sentences += f" *{'; '.join(notes)[0].upper()}{'; '.join(notes)[1:]}.*"
    return f"### `{spelled}`\n\n{sentences}\n"
