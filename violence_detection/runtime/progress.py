"""What takes long: a bar or a clock on a terminal, otherwise a log line from time to time."""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Self, TextIO

from tqdm import tqdm

from violence_detection.runtime.logs import progress_log as log

LINE_EVERY = 30.0  # seconds


def shows_bar(quiet: bool) -> bool:
    """Return whether a progress bar is shown: on a terminal, unless `quiet`."""
    return sys.stderr.isatty() and not quiet


class Progress:
    """A progress bar with rate and remaining time on standard error, or lines in the log.

    Args:
        stage: the bar's label, such as "features".
        total: number of clips.
        initial: how many of them were done in an earlier run.
        bar: whether to draw a bar; otherwise a line is logged every `line_every` seconds.
        line_every: seconds between two lines.
        clock: returns seconds, and never runs backwards.
    """

    def __init__(
        self,
        stage: str,
        total: int,
        initial: int = 0,
        *,
        bar: bool,
        line_every: float = LINE_EVERY,
        clock: Callable[[], float] = time.perf_counter,
    ):
        self.stage = stage
        self.total = total
        self.initial = initial
        self.done = initial
        self.line_every = line_every
        self.clock = clock
        self._started = self._last_line = clock()
        self._bar = (
            tqdm(
                total=total,
                initial=initial,
                desc=stage,
                unit="clip",
                leave=False,
                ncols=None,
                dynamic_ncols=True,
                smoothing=0.1,
            )
            if bar
            else None
        )
        self._ended = threading.Event()
        if self._bar is not None:
            threading.Thread(target=_tick, args=(self._bar, self._ended), daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def update(self, clips: int = 1, stage: str | None = None) -> None:
        """Count finished clips.

        Args:
            clips: finished since the last call.
            stage: a new label.
        """
        self.done += clips
        self.stage = stage or self.stage
        if self._bar is not None:
            if stage:
                self._bar.set_description(stage, refresh=False)
            self._bar.update(clips)
            return
        now = self.clock()
        if now - self._last_line >= self.line_every:
            self._last_line = now
            self._log_line(now)

    def _log_line(self, now: float) -> None:
        rate = (self.done - self.initial) / max(now - self._started, 1e-9)
        left = (self.total - self.done) / rate if rate else None
        log.info(
            "%s: %d of %d clips, %.3g clips/s, %s left",
            self.stage,
            self.done,
            self.total,
            rate,
            "?" if left is None else tqdm.format_interval(left),
        )

    def close(self) -> None:
        """Remove the bar."""
        self._ended.set()
        if self._bar is not None:
            self._bar.close()


def _tick(bar: tqdm, ended: threading.Event) -> None:
    """Let the clock of a bar run, even if nothing advances, until it ends."""
    while not ended.wait(1.0):
        bar.refresh()


@contextlib.contextmanager
def running_clock(
    doing: str,
    quiet: bool = False,
    screen: TextIO | None = None,
    *,
    line_every: float = LINE_EVERY,
) -> Iterator[None]:
    """Show what is done in the block, and for how long, where that cannot be counted.

    Args:
        doing: what takes seconds, such as "loading TensorFlow".
        quiet: show nothing on a terminal.
        screen: a terminal to show it on, or something else; None: standard error.
        line_every: seconds between two log lines, if `screen` is not a terminal.
    """
    screen = screen or sys.stderr
    ended = threading.Event()
    started = time.perf_counter()

    def draw() -> None:
        with tqdm(desc=doing, bar_format="{desc} {elapsed}", file=screen, leave=False) as clock:
            _tick(clock, ended)

    def log_lines() -> None:
        while not ended.wait(line_every):
            log.info("%s: %s", doing, tqdm.format_interval(time.perf_counter() - started))

    if screen.isatty() and quiet:
        yield
        return
    watcher = threading.Thread(target=draw if screen.isatty() else log_lines, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
