"""Push a trained detector and its model card to the Hugging Face Hub."""

import argparse
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path

from violence_detection.commands.flags import add_debug, examples_and_exit_status
from violence_detection.commands.output import print_message
from violence_detection.errors import RunError, UserError
from violence_detection.runtime.interrupts import run_or_explain
from violence_detection.settings.parser import FlagParser

log = logging.getLogger(__name__)

INSTALL = "pip install -r requirements-hub.txt"
DESCRIPTION = """\
Push a trained detector to the Hugging Face Hub: its model, what turns the
model's output into predictions, and the model card. Clips, pictures of them
and paths of this machine are not pushed.
"""
EXAMPLES = ("checkpoints me/violence-detector", "checkpoints me/violence-detector --private")
STATUSES = {
    0: "pushed",
    1: "the Hub cannot be reached or refuses it",
    2: "a flag is wrong, the folder has no finished run, or huggingface_hub is missing",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    flags = make_parser().parse_args(arguments)
    return run_or_explain(lambda: push(flags), flags.debug)


def make_parser() -> FlagParser:
    """Return the parser of the command's flags."""
    parser = FlagParser(
        usage="%(prog)s FOLDER REPO [flags]",
        description=DESCRIPTION,
        epilog=examples_and_exit_status(EXAMPLES, STATUSES),
    )
    parser.add_argument(
        "folder",
        type=Path,
        metavar="FOLDER",
        help="checkpoint directory (--checkpoint-dir) of a finished training",
    )
    parser.add_argument("repo", metavar="REPO", help="repository on the Hub: USER/NAME")
    parser.add_argument(
        "--private",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="make a new repository that others cannot see (default: off)",
    )
    add_debug(parser)
    return parser


def push(flags: argparse.Namespace) -> int:
    """Push what the flags name; return the exit status.

    Raises:
        UserError: huggingface_hub is missing; there is no finished run; nobody is logged in; the
            repository's name is wrong.
        RunError: the Hub cannot be reached or refuses it.
    """
    try:
        import huggingface_hub
        from huggingface_hub import errors
    except ImportError as error:
        raise UserError(f"push needs the package huggingface_hub: {INSTALL}") from error
    from violence_detection.reporting.published import copy_published
    from violence_detection.runs.saved_detector import require_finished_run

    folder = flags.folder.expanduser().absolute()
    require_finished_run(folder, flags.folder)
    if huggingface_hub.get_token() is None:
        raise UserError("nobody is logged in to the Hub: run `hf auth login`, or set HF_TOKEN")
    hub = huggingface_hub.HfApi()
    with tempfile.TemporaryDirectory() as staged:
        names = copy_published(folder, Path(staged))
        try:
            hub.create_repo(flags.repo, private=flags.private, exist_ok=True)
            commit = hub.upload_folder(
                repo_id=flags.repo, folder_path=staged, commit_message="Add the detector"
            )
        except errors.HFValidationError as error:
            raise UserError(f"REPO {flags.repo}: {error}") from error
        except (errors.HTTPError, OSError) as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise RunError(f"{flags.repo} cannot be pushed: {reason}") from error
    print_message(f"pushed {', '.join(names)}: {commit.commit_url}")
    return 0
