"""Write the report of a finished run, or compare several runs."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from violence_detection.commands.flags import (
    add_debug,
    check_output_file,
    examples_and_exit_status,
)
from violence_detection.errors import UserError
from violence_detection.runtime.interrupts import run_or_explain
from violence_detection.settings.parser import FlagParser

EXAMPLES = (
    "--checkpoint-dir checkpoints",
    "--checkpoint-dir first second third --output comparison.html",
)
STATUSES = {
    0: "the report is written",
    1: "it could not be written",
    2: "a flag is wrong, or a folder has no finished run",
    130: "ended by Ctrl-C (143: by SIGTERM)",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: without the program's name; None: those of this process.

    Returns:
        The exit status.
    """
    flags = make_parser().parse_args(arguments)
    if flags.debug:
        from violence_detection.runtime.logs import show_debug_log

        show_debug_log()
    return run_or_explain(lambda: report(flags), flags.debug)


def make_parser() -> FlagParser:
    """Return the parser of the command's flags."""
    parser = FlagParser(
        description="Write the report of a finished run, or compare several runs.",
        epilog=examples_and_exit_status(EXAMPLES, STATUSES),
    )
    parser.add_argument(
        "--checkpoint-dir",
        type=Path,
        nargs="+",
        required=True,
        metavar="DIR",
        help="checkpoint directories of finished runs; of several, each is compared with the first",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="HTML file to write (default: report.html in the run's folder; for several runs "
        "./comparison.html)",
    )
    parser.add_argument(
        "--events",
        type=Path,
        metavar="FILE",
        help="event_figures.json of predict.py --compare-with, for the report of one run (default: "
        "that in the run's folder, if there is one)",
    )
    add_debug(parser)
    return parser


def report(flags: argparse.Namespace) -> int:
    """Write the page that the flags ask for; return the exit status.

    Raises:
        UserError: a folder has no finished run, --output cannot name a file, or --events has no
            figures.
        RunError: the page cannot be written.
    """
    if flags.events and len(flags.checkpoint_dir) > 1:
        raise UserError("--events is for the report of one run: give one --checkpoint-dir")
    if flags.output:
        check_output_file("--output", flags.output.expanduser())
    from violence_detection.reporting.finished_run import require_finished

    for folder in flags.checkpoint_dir:
        require_finished(folder.expanduser().absolute())
    from violence_detection.runtime.progress import running_clock

    folders = flags.checkpoint_dir
    with running_clock("writing the report"):  # its libraries take seconds to load
        from violence_detection.reporting.comparison_page import COMPARISON, write_comparison
        from violence_detection.reporting.model_card import write_model_card
        from violence_detection.reporting.page import write_report
        from violence_detection.runs.files import REPORT

        default = folders[0] / REPORT if len(folders) == 1 else Path(COMPARISON)
        page = (flags.output or default).expanduser().absolute()
        if len(folders) == 1:
            write_report(folders[0], page, flags.events)
            write_model_card(folders[0])
        else:
            write_comparison(folders, page)
    # A folder's name need not be valid in the terminal's encoding.
    print(f"report written to {page}".encode(errors="backslashreplace").decode())
    return 0
