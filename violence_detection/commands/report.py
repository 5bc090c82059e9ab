"""Make the report of a finished run, or of several side by side.

python report.py --checkpoint-dir checkpoints
python report.py --checkpoint-dir A B C --output comparison.html
"""

from collections.abc import Sequence
from pathlib import Path

from violence_detection.errors import UserError
from violence_detection.runtime.interrupts import run_or_explain
from violence_detection.settings.parser import FlagParser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; return its exit status."""
    parser = FlagParser(
        description="Make the report of a finished run, or of several side by side.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--checkpoint-dir",
        type=Path,
        nargs="+",
        required=True,
        metavar="DIR",
        help="what finished runs have written; of several, each is compared with the first",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="the page (default: report.html in the run's folder; of several runs "
        "./comparison.html)",
    )
    parser.add_argument(
        "--debug", action="store_true", help="show errors with their traceback (default: off)"
    )
    flags = parser.parse_args(arguments)

    def job() -> int:
        # What computes the figures takes seconds to load, and TensorFlow has its say meanwhile.
        from violence_detection.reporting.comparison_page import COMPARISON, write_comparison
        from violence_detection.reporting.page import write_report
        from violence_detection.runs.files import REPORT

        folders = flags.checkpoint_dir
        usual = folders[0] / REPORT if len(folders) == 1 else Path(COMPARISON)
        page = (flags.output or usual).expanduser().absolute()
        if page.is_dir() or (flags.output and not page.parent.is_dir()):
            raise UserError(f"--output {page}: name a file in a folder that is there")
        if len(folders) == 1:
            write_report(folders[0], page)
        else:
            write_comparison(folders, page)
        # A folder's name need not be valid in the terminal's encoding.
        print(f"the report is {page}".encode(errors="backslashreplace").decode())
        return 0

    return run_or_explain(job, flags.debug)
