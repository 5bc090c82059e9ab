"""How a command ends early: one line on standard error, the exit status, no finished work lost."""

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

from violence_detection.errors import FIX, RESUME, RunError, UserError
from violence_detection.runtime.environment import is_own_module, missing_packages

log = logging.getLogger(__name__)

GRACE = 3.0  # seconds from Ctrl-C or SIGTERM until the process is ended as it stands
SIGNAL_NAMES = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}


class Interrupted(BaseException):
    """Ctrl-C or SIGTERM was received. Not an `Exception`: code that handles errors lets it pass.

    Args:
        number: the signal; the exit status is 128 plus its number.
    """

    def __init__(self, number: signal.Signals):
        super().__init__(number)
        self.number = number


class InterruptHandler:
    """The handler of Ctrl-C and SIGTERM: records the signal for `raise_if_interrupted`.

    It does not raise: Python calls it between any two instructions, also inside callbacks of
    TensorFlow, where an exception crashes the process.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Record the first signal."""
        self.received = self.received or signal.Signals(number)


def raise_if_interrupted() -> None:
    """Raise `Interrupted` if a signal was received; to be called where a run can safely end."""
    handler = signal.getsignal(signal.SIGTERM)
    if isinstance(handler, InterruptHandler) and handler.received:
        raise Interrupted(handler.received)


def run_or_explain(run: Callable[[], int], debug: bool, resumable: bool = False) -> int:
    """Run a command; print its error or the signal that ended it in a line, without a traceback.

    The traceback of an error that is neither `UserError` nor `RunError` goes to the log file, if
    the run has opened one.

    Args:
        run: the command; returns its exit status.
        debug: let errors through, with their traceback.
        resumable: whether running the command again resumes an interrupted run.

    Returns:
        The exit status: that of `run`, 2 for a `UserError` or missing packages, 1 for any other
        error, 130 for Ctrl-C, 143 for SIGTERM.
    """
    try:
        with interruptible(resumable):
            return run()
    except (UserError, RunError) as error:
        if debug:
            raise
        return explain(str(error), error.exit_status)
    except Interrupted as interrupt:
        return explain_signal(interrupt.number, resumable)
    except ModuleNotFoundError as error:
        if debug or is_own_module(error.name):
            raise
        return explain(missing_packages(error.name), 2)
    except Exception as error:
        if debug:
            raise
        with contextlib.suppress(RunError):  # the log file cannot be written either
            log.debug("traceback", exc_info=True)
        return explain(describe(error), 1)


@contextlib.contextmanager
def interruptible(resumable: bool = False) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end the block at its next `raise_if_interrupted`, or after `GRACE`.

    A batch of VGG19 may take longer than that on a CPU: a thread then ends the process as it
    stands. Every file is written so that it survives SIGKILL, so nothing more is lost than then.

    Args:
        resumable: whether running the command again resumes an interrupted run.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with recording_interrupts(), _ending_late(resumable):
        yield


@contextlib.contextmanager
def recording_interrupts() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end the block at its next `raise_if_interrupted`, however late.

    Only in the main thread, which alone receives signals; elsewhere they are left alone.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = InterruptHandler()
    before = {number: signal.signal(number, handler) for number in SIGNAL_NAMES}
    try:
        yield
    finally:
        for number, handler_before in before.items():
            signal.signal(number, handler_before)


@contextlib.contextmanager
def _ending_late(resumable: bool) -> Iterator[None]:
    """End the process `GRACE` seconds after a signal, unless the block has ended by then."""
    receiver, sender = socket.socketpair()  # the interpreter writes each signal's number at once
    sender.setblocking(False)
    ended = threading.Event()

    def watch() -> None:
        while number := receiver.recv(1):
            if number[0] in SIGNAL_NAMES and not ended.wait(GRACE):
                os._exit(explain_signal(signal.Signals(number[0]), resumable))

    descriptor_before = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
    watcher = threading.Thread(target=watch, name="signals", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        signal.set_wakeup_fd(descriptor_before)
        sender.close()
        watcher.join()
        receiver.close()


def explain_signal(number: signal.Signals, resumable: bool = False) -> int:
    """Print which signal ended the run, and how to resume it; return the exit status."""
    message = f"{SIGNAL_NAMES[number].capitalize()}."
    if number is signal.SIGINT:
        end_line()  # after the terminal's own ^C, or a progress bar
    return explain(f"{message} {RESUME}" if resumable else message, 128 + number, prefix="")


def end_line() -> None:
    """Begin a new line if standard error is a terminal."""
    with contextlib.suppress(OSError, ValueError):  # a closed stream
        if sys.stderr.isatty():
            print(file=sys.stderr)


def explain(message: str, exit_status: int, prefix: str = "error: ") -> int:
    """Print `message` to standard error and the log file; return `exit_status`."""
    with contextlib.suppress(RunError):  # the log file cannot be written
        log.debug("%s%s", prefix, message)
    with contextlib.suppress(OSError):  # a closed pipe, or a full disk
        print(f"{prefix}{message}", file=sys.stderr, flush=True)
        sys.stdout.flush()
    return exit_status


def leave(exit_status: int) -> NoReturn:
    """End the process at once: in Python's own shutdown, TensorFlow's threads may crash."""
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # a closed pipe
            stream.flush()
    os._exit(exit_status)


def describe(error: Exception) -> str:
    """Return one line for an unexpected error: its type, its message, where its traceback is."""
    if isinstance(error, OSError) and error.strerror:
        name = f"{error.filename}: " if error.filename else ""
        return f"{name}{error.strerror}. {FIX}"
    first_line = next((line for line in str(error).splitlines() if line.strip()), "")[:300]
    return f"{type(error).__name__}: {first_line} (traceback: --debug, or training.log)"
