"""The settings of a run. Run as a command, it checks flags or a file and prints what they mean.

    python config.py --dataset-path DIR --batch-size 96
    python config.py --dataset-path DIR --config best_config.json
    python config.py --write-flags-page docs/flags.md

The flags are those of the training. Standard output is JSON: the resolved settings by name, and
under "changed" the names of those that are not at their default.
"""

import json
import sys
from pathlib import Path

from violence_detection.runtime.interrupts import leave, run_or_explain
from violence_detection.settings.constants import CLASS_NAMES, SPLITS, VGG19_LAYERS
from violence_detection.settings.parser import make_parser, parse_settings
from violence_detection.settings.schema import Settings

__all__ = ["CLASS_NAMES", "SPLITS", "VGG19_LAYERS", "Settings", "make_parser", "parse_settings"]

WRITE = "--write-flags-page"


def main(arguments: list[str]) -> int:
    """Print the settings that flags stand for, or write the page of all flags; return 0 or 2."""

    def job() -> int:
        if arguments[:1] == [WRITE] and len(arguments) == 2:
            from violence_detection.settings.flags_page import flags_page

            Path(arguments[1]).write_text(flags_page(), encoding="utf-8")
            return 0
        settings = parse_settings(arguments)
        values, defaults = settings.as_json(), Settings().as_json()
        changed = [name for name, value in values.items() if value != defaults[name]]
        print(json.dumps(values | {"changed": changed}, indent=2, ensure_ascii=False))
        return 0

    return run_or_explain(job, "--debug" in arguments)


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
