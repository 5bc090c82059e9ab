"""Loading TensorFlow, and what its native code writes to standard error."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from violence_detection.runtime.logs import native_messages_to
from violence_detection.runtime.progress import running_clock


@contextlib.contextmanager
def loading_tensorflow(
    doing: str = "loading TensorFlow",
    *,
    messages: Path = Path(os.devnull),
    quiet: bool = False,
    errors_too: bool = False,
) -> Iterator[None]:
    """Show a running clock while the block imports TensorFlow, instead of its start-up notes.

    Args:
        doing: what the block does.
        messages: the file that its native messages are appended to.
        quiet: show no clock.
        errors_too: see `quiet_tensorflow`.
    """
    quiet_tensorflow(errors_too=errors_too)
    with native_messages_to(messages) as screen, running_clock(doing, quiet, screen):
        yield


def quiet_tensorflow(*, errors_too: bool = False) -> None:
    """Hide TensorFlow's informational messages and warnings, unless the user has set a level.

    To be called before TensorFlow is first imported, which reads `TF_CPP_MIN_LOG_LEVEL` then;
    processes started later inherit it.

    Args:
        errors_too: also hide its error messages.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3" if errors_too else "2")
