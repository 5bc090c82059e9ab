"""How a run ends when something is wrong: one or two lines on standard error, no traceback."""

import logging
import sys
from collections.abc import Callable


class UserError(Exception):
    """The user can put it right: names the thing, the value and the way out. Exit status 2."""

    exit_status = 2


class RunError(Exception):
    """Something underneath went wrong (disk, network, device). Exit status 1."""

    exit_status = 1


def run_or_explain(run: Callable[[], int], debug: bool) -> int:
    """Return `run()`'s exit status; on an error, say what went wrong and return 1, 2 or 130.

    With `debug`, errors are raised with their traceback. The traceback of an error that is
    neither `UserError` nor `RunError` goes to the log file, if the run has opened one.
    """
    try:
        return run()
    except (UserError, RunError) as error:
        if debug:
            raise
        return explain(str(error), error.exit_status)
    except KeyboardInterrupt:
        return explain(
            "interrupted: the same command, without --fresh, goes on from what is finished", 130
        )
    except Exception as error:
        if debug:
            raise
        logging.getLogger("violence.traceback").debug("traceback", exc_info=True)
        return explain(describe(error), 1)


def explain(message: str, exit_status: int) -> int:
    """Print `message` on standard error (and into the log file); return `exit_status`."""
    logging.getLogger("violence.traceback").debug("error: %s", message)
    sys.stdout.flush()
    print(f"error: {message}", file=sys.stderr, flush=True)
    return exit_status


def describe(error: Exception) -> str:
    """Return one line for an error that nobody foresaw: its type, what it says, the way out."""
    if isinstance(error, OSError) and error.strerror:
        name = f"{error.filename}: " if error.filename else ""
        kept = "what was finished is kept: the same command, without --fresh, goes on"
        return f"{name}{error.strerror}; {kept}"
    first_line = next((line for line in str(error).splitlines() if line.strip()), "")[:300]
    return f"{type(error).__name__}: {first_line} (the whole of it: --debug, or training.log)"
