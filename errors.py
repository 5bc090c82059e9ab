"""How a run ends early: one or two lines on standard error, no traceback, nothing finished lost."""

import contextlib
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

GRACE = 3.0  # seconds that a run has to end by itself after Ctrl-C or SIGTERM
GOES_ON = "the same command, without --fresh, goes on from what is finished"


class UserError(Exception):
    """The user can put it right: names the thing, the value and the way out. Exit status 2."""

    exit_status = 2


class RunError(Exception):
    """Something underneath went wrong (disk, network, device). Exit status 1."""

    exit_status = 1


class Terminated(BaseException):
    """SIGTERM: what `KeyboardInterrupt` is to Ctrl-C."""


# What a signal that ends the run says, and as what exception the run sees it.
SAID = {signal.SIGINT: f"interrupted: {GOES_ON}", signal.SIGTERM: f"terminated: {GOES_ON}"}


def run_or_explain(run: Callable[[], int], debug: bool) -> int:
    """Return `run()`'s exit status; on an error, say what went wrong and return 1, 2, 130 or 143.

    With `debug`, errors are raised with their traceback. The traceback of an error that is
    neither `UserError` nor `RunError` goes to the log file, if the run has opened one.
    """
    try:
        with ended_by_signals():
            return run()
    except (UserError, RunError) as error:
        if debug:
            raise
        return explain(str(error), error.exit_status)
    except KeyboardInterrupt:
        return explain_signal(signal.SIGINT)
    except Terminated:
        return explain_signal(signal.SIGTERM)
    except Exception as error:
        if debug:
            raise
        with contextlib.suppress(RunError):  # the log cannot be written, either
            logging.getLogger("violence.traceback").debug("traceback", exc_info=True)
        return explain(describe(error), 1)


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """Let SIGTERM end the block as Ctrl-C does, and either of them within a few seconds.

    Python only looks at signals between two of its own instructions, and a batch of VGG19 takes
    many seconds on a CPU: a thread waits `GRACE` seconds, then ends the process as it stands. That
    loses no more than SIGKILL would, which every file is safe against.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def terminate(number: int, frame: FrameType | None) -> None:
        raise Terminated

    ended = threading.Event()
    told, tell = socket.socketpair()  # the interpreter writes each signal's number at once
    tell.setblocking(False)

    def watch() -> None:
        while number := told.recv(1):
            if number[0] in SAID and not ended.wait(GRACE):
                os._exit(explain_signal(signal.Signals(number[0])))

    before = signal.signal(signal.SIGTERM, terminate)
    descriptor_before = signal.set_wakeup_fd(tell.fileno(), warn_on_full_buffer=False)
    watcher = threading.Thread(target=watch, name="signals", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        signal.set_wakeup_fd(descriptor_before)
        signal.signal(signal.SIGTERM, before)
        tell.close()
        watcher.join()
        told.close()


def explain_signal(number: signal.Signals) -> int:
    """Say which signal ended the run, and how to go on; return 128 and its number."""
    return explain(SAID[number], 128 + number)


def explain(message: str, exit_status: int) -> int:
    """Print `message` on standard error (and into the log file); return `exit_status`."""
    with contextlib.suppress(RunError):  # the log cannot be written
        logging.getLogger("violence.traceback").debug("error: %s", message)
    with contextlib.suppress(OSError):  # nobody reads, or what they go to is full
        print(f"error: {message}", file=sys.stderr, flush=True)
        sys.stdout.flush()
    return exit_status


def describe(error: Exception) -> str:
    """Return one line for an error that nobody foresaw: its type, what it says, the way out."""
    if isinstance(error, OSError) and error.strerror:
        name = f"{error.filename}: " if error.filename else ""
        return f"{name}{error.strerror}; what was finished is kept: {GOES_ON}"
    first_line = next((line for line in str(error).splitlines() if line.strip()), "")[:300]
    return f"{type(error).__name__}: {first_line} (the whole of it: --debug, or training.log)"
