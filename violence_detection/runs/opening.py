"""A run as a command finds it: new, interrupted, or finished."""

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from violence_detection.clips.clip import Clip
from violence_detection.clips.splits import count_by_split
from violence_detection.runs.directory import RunDirectory
from violence_detection.runs.files import EXPERIMENTS_LOG, LOG, WORKER_LOG
from violence_detection.runtime.logs import start_log
from violence_detection.runtime.worker import Worker
from violence_detection.settings.schema import Settings

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class OpenedRun:
    """The checkpoint directory of a command, and what is in it."""

    directory: RunDirectory
    log_file: Path
    screen_level: int
    is_experiment: bool  # instead of a run
    has_earlier_run: bool
    continuing: bool  # the run that is there; False: it is set aside, or there is none
    finished: bool

    @property
    def owns_directory(self) -> bool:
        """Whether this command may write into it already: no other run is there."""
        is_own = self.continuing or not self.has_earlier_run
        return self.directory.writes and is_own and not self.is_experiment

    @property
    def bad_clips(self) -> dict[str, str] | None:
        """Clips that could not be read when the run began, and why; None for a new run."""
        return self.directory.bad_clips() if self.continuing else None

    def begin(
        self,
        settings: Settings,
        clips: Sequence[Clip],
        bad_clips: Mapping[str, str],
        devices: list[str],
        precision: str,
    ) -> None:
        """Write what makes this a run; an earlier one is set aside. Nothing is touched before.

        Args:
            settings: of this command.
            clips: of the dataset.
            bad_clips: those that cannot be read, by name, and why.
            devices: a line per device.
            precision: what the networks are computed in.
        """
        if self.continuing:
            self.directory.update_config(settings)
            return
        if self.has_earlier_run:
            if self.directory.writes:
                log.info("the earlier run was moved to %s", self.directory.set_aside())
            start_log(self.log_file, self.screen_level)
        self.directory.write_config(settings, clips, dict(bad_clips), devices, precision)


def open_run(
    settings: Settings, clips: Sequence[Clip], worker: Worker, stack: ExitStack
) -> OpenedRun:
    """Open the checkpoint directory, start the log, and find out what is there.

    Args:
        settings: the directory, whether to resume, and what is asked for.
        clips: of the dataset.
        worker: this process; of several, the chief alone writes.
        stack: on its end, the directory is free for others.

    Raises:
        UserError: another process uses the directory; the run in it has other settings or clips.
    """
    directory = stack.enter_context(RunDirectory(settings.data.checkpoint_dir, worker))
    has_run = directory.has_run()
    is_experiment = settings.experiment.requested
    continuing = not is_experiment and has_run and settings.run.resume
    if continuing and directory.writes:
        directory.require_same(settings, clips)
    log_file, screen_level = directory / (EXPERIMENTS_LOG if is_experiment else LOG), logging.INFO
    if not worker.is_chief:
        log_file, screen_level = directory / WORKER_LOG.format(worker.number), logging.WARNING
        print(f"worker {worker.number} of {worker.count} logs to {log_file}", flush=True)
    start_log(log_file, screen_level)
    finished = continuing and directory.is_finished(settings.test.threshold_for)
    if not finished:
        for split, by_class in count_by_split(clips).items():
            log.info("%-6s %s", split, ", ".join(f"{n} {name}" for name, n in by_class.items()))
    return OpenedRun(
        directory, log_file, screen_level, is_experiment, has_run, continuing, finished
    )
