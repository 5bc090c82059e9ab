"""What FFmpeg says while a clip is read: messages for the log, and its description of a file."""

import contextlib
import logging
from collections.abc import Iterator

import av.logging
from av.container import InputContainer

MOST_MESSAGES = 20  # of one clip; a damaged one may have thousands

# FFmpeg's messages go through Python's log, where nobody listens unless `FFmpegMessages` does.
_log = logging.getLogger("libav")
_log.addHandler(logging.NullHandler())
_log.propagate = False
av.logging.set_level(av.logging.WARNING)


class FFmpegMessages(logging.Handler):
    """Keeps FFmpeg's warnings and errors until they are taken; for a process that only decodes."""

    def __init__(self) -> None:
        super().__init__()
        self._messages: list[str] = []
        self._left_out = 0

    def start(self) -> None:
        """Receive FFmpeg's messages from now on."""
        _log.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a message, unless there are too many."""
        if len(self._messages) == MOST_MESSAGES:
            self._left_out += 1
            return
        self._messages.append(f"{record.name.removeprefix('libav.')}: {record.getMessage()}")

    def take(self) -> list[str]:
        """Return the messages since the last call."""
        messages, self._messages = self._messages, []
        if self._left_out:
            messages.append(f"{self._left_out} more messages")
            self._left_out = 0
        return messages


@contextlib.contextmanager
def _logging_at(level: int) -> Iterator[None]:
    before = av.logging.get_level()
    av.logging.set_level(level)
    try:
        yield
    finally:
        av.logging.set_level(before)


def errors_logged() -> int:
    """Return how many errors FFmpeg has logged in this process."""
    return av.logging.get_last_error()[0]


def description(container: InputContainer) -> str:
    """Return FFmpeg's description of an open file, as `ffmpeg -i` prints it."""
    with _logging_at(av.logging.INFO):
        return container.dumps_format()  # type: ignore[attr-defined]  # not in PyAV's stubs
