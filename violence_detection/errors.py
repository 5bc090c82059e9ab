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
from typing import NoReturn

GRACE = 3.0  # seconds that a run has to end by itself after Ctrl-C or SIGTERM
GOES_ON = "the same command, without --fresh, goes on from what is finished"


class UserError(Exception):
    """The user can put it right: names the thing, the value and the way out. Exit status 2."""

    exit_status = 2


class RunError(Exception):
    """Something underneath went wrong (disk, network, device). Exit status 1."""

    exit_status = 1


class Ended(BaseException):
    """A signal told the run to end. Exit status 128 and its number."""

    def __init__(self, number: signal.Signals):
        super().__init__(number)
        self.number = number


SAID = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}


class EndingSignal:
    """The handler of Ctrl-C and SIGTERM: keeps which one came, for `end_if_told`.

    It raises nothing itself: it is called between any two instructions, also of Python code that
    TensorFlow calls and that must not raise. That crashed the process.
    """

    def __init__(self) -> None:
        self.came: signal.Signals | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Keep the first one."""
        self.came = self.came or signal.Signals(number)


def end_if_told() -> None:
    """Raise `Ended` if a signal has told the run to end; to be called where it may."""
    handler = signal.getsignal(signal.SIGTERM)
    if isinstance(handler, EndingSignal) and handler.came:
        raise Ended(handler.came)


def run_or_explain(run: Callable[[], int], debug: bool, goes_on: str = "") -> int:
    """Return `run()`'s exit status; on an error, say what went wrong and return 1, 2, 130 or 143.

    With `debug`, errors are raised with their traceback. The traceback of an error that is
    neither `UserError` nor `RunError` goes to the log file, if the run has opened one.

    Args:
        goes_on: how what a signal has ended goes on, if it does.
    """
    try:
        with ended_by_signals(goes_on):
            return run()
    except (UserError, RunError) as error:
        if debug:
            raise
        return explain(str(error), error.exit_status)
    except Ended as ended:
        return explain_signal(ended.number, goes_on)
    except Exception as error:
        if debug:
            raise
        with contextlib.suppress(RunError):  # the log cannot be written, either
            logging.getLogger("violence.traceback").debug("traceback", exc_info=True)
        return explain(describe(error), 1)


@contextlib.contextmanager
def ended_by_signals(goes_on: str = "") -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end the block: at its next `end_if_told`, or in a few seconds.

    A batch of VGG19 takes many seconds on a CPU: a thread waits `GRACE` seconds, then ends the
    process as it stands. That loses no more than SIGKILL would, which every file is safe against.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    told, tell = socket.socketpair()  # the interpreter writes each signal's number at once
    tell.setblocking(False)
    ended = threading.Event()

    def watch() -> None:
        while number := told.recv(1):
            if number[0] in SAID and not ended.wait(GRACE):
                os._exit(explain_signal(signal.Signals(number[0]), goes_on))

    handler = EndingSignal()
    before = {number: signal.signal(number, handler) for number in SAID}
    descriptor_before = signal.set_wakeup_fd(tell.fileno(), warn_on_full_buffer=False)
    watcher = threading.Thread(target=watch, name="signals", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        signal.set_wakeup_fd(descriptor_before)
        for number, handler_before in before.items():
            signal.signal(number, handler_before)
        tell.close()
        watcher.join()
        told.close()


def explain_signal(number: signal.Signals, goes_on: str = "") -> int:
    """Say which signal ended the run, and how to go on, if it does; return 128 and its number."""
    return explain(SAID[number] + (goes_on and f": {goes_on}"), 128 + number)


def explain(message: str, exit_status: int) -> int:
    """Print `message` on standard error (and into the log file); return `exit_status`."""
    with contextlib.suppress(RunError):  # the log cannot be written
        logging.getLogger("violence.traceback").debug("error: %s", message)
    with contextlib.suppress(OSError):  # nobody reads, or what they go to is full
        print(f"error: {message}", file=sys.stderr, flush=True)
        sys.stdout.flush()
    return exit_status


def leave(exit_status: int) -> NoReturn:
    """End the process at once: TensorFlow's threads may be in Python, which must not go first."""
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # nobody reads
            stream.flush()
    os._exit(exit_status)


def describe(error: Exception) -> str:
    """Return one line for an error that nobody foresaw: its type, what it says, the way out."""
    if isinstance(error, OSError) and error.strerror:
        name = f"{error.filename}: " if error.filename else ""
        return f"{name}{error.strerror}; what was finished is kept: {GOES_ON}"
    first_line = next((line for line in str(error).splitlines() if line.strip()), "")[:300]
    return f"{type(error).__name__}: {first_line} (the whole of it: --debug, or training.log)"
