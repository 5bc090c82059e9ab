"""How a command ends early: one or two lines on standard error, and no finished work lost."""

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

from violence_detection.errors import RESUME, RunError, UserError

log = logging.getLogger(__name__)

GRACE = 3.0  # seconds that a run has to end by itself after Ctrl-C or SIGTERM
SIGNAL_NAMES = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}


class Interrupted(BaseException):
    """A signal asked the run to end. Exit status 128 plus its number."""

    def __init__(self, number: signal.Signals):
        super().__init__(number)
        self.number = number


class InterruptHandler:
    """The handler of Ctrl-C and SIGTERM: remembers the signal for `raise_if_interrupted`.

    It raises nothing itself: it may be called between any two instructions, also of Python code
    that TensorFlow calls and that must not raise. That crashed the process.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Remember the first signal."""
        self.received = self.received or signal.Signals(number)


def raise_if_interrupted() -> None:
    """Raise `Interrupted` if a signal was received; call it where the run may end."""
    handler = signal.getsignal(signal.SIGTERM)
    if isinstance(handler, InterruptHandler) and handler.received:
        raise Interrupted(handler.received)


def run_or_explain(run: Callable[[], int], debug: bool, resumable: bool = False) -> int:
    """Return `run()`'s exit status; on an error, print what went wrong and return 1, 2, 130 or 143.

    The traceback of an error that is neither `UserError` nor `RunError` goes to the log file, if
    the run has opened one.

    Args:
        run: the command.
        debug: raise errors with their traceback instead.
        resumable: whether the same command resumes what a signal has ended.
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
    except Exception as error:
        if debug:
            raise
        with contextlib.suppress(RunError):  # the log cannot be written, either
            log.debug("traceback", exc_info=True)
        return explain(describe(error), 1)


@contextlib.contextmanager
def interruptible(resumable: bool = False) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end the block at its next `raise_if_interrupted`, or after `GRACE`.

    A batch of VGG19 takes many seconds on a CPU: a thread waits `GRACE` seconds, then ends the
    process as it stands. That loses no more than SIGKILL would, which every file is safe against.

    Args:
        resumable: whether the same command resumes what a signal has ended.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    receiver, sender = socket.socketpair()  # the interpreter writes each signal's number at once
    sender.setblocking(False)
    ended = threading.Event()

    def watch() -> None:
        while number := receiver.recv(1):
            if number[0] in SIGNAL_NAMES and not ended.wait(GRACE):
                os._exit(explain_signal(signal.Signals(number[0]), resumable))

    handler = InterruptHandler()
    before = {number: signal.signal(number, handler) for number in SIGNAL_NAMES}
    descriptor_before = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
    watcher = threading.Thread(target=watch, name="signals", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        signal.set_wakeup_fd(descriptor_before)
        for number, handler_before in before.items():
            signal.signal(number, handler_before)
        sender.close()
        watcher.join()
        receiver.close()


def explain_signal(number: signal.Signals, resumable: bool = False) -> int:
    """Print which signal ended the run, and how to resume it; return 128 plus its number."""
    message = f"{SIGNAL_NAMES[number].capitalize()}."
    return explain(f"{message} {RESUME}" if resumable else message, 128 + number, prefix="")


def explain(message: str, exit_status: int, prefix: str = "error: ") -> int:
    """Print `message` on standard error and into the log file; return `exit_status`."""
    with contextlib.suppress(RunError):  # the log cannot be written
        log.debug("%s%s", prefix, message)
    with contextlib.suppress(OSError):  # nobody reads, or what they go to is full
        print(f"{prefix}{message}", file=sys.stderr, flush=True)
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
    """Return one line for an unforeseen error: its type, its message and the way out."""
    if isinstance(error, OSError) and error.strerror:
        name = f"{error.filename}: " if error.filename else ""
        return f"{name}{error.strerror}. Nothing that was finished is lost. {RESUME}"
    first_line = next((line for line in str(error).splitlines() if line.strip()), "")[:300]
    return f"{type(error).__name__}: {first_line} (traceback: --debug, or training.log)"
