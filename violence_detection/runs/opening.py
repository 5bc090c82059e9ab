"""A run as a command finds it: new, interrupted, or finished."""

import logging
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from violence_detection.clips.loading import GROUPS_PROPOSED, UNKNOWN, Dataset, write_groups
from violence_detection.clips.splits import log_split_counts, read_recorded_groups
from violence_detection.runs.directory import RunDirectory
from violence_detection.runs.files import EXPERIMENTS_LOG, LEAKAGE, LOG, SPLITS_FILE, WORKER_LOG
from violence_detection.runtime.logs import start_log
from violence_detection.runtime.worker import Worker
from violence_detection.settings.schema import Settings

log = logging.getLogger(__name__)

NO_TEST_SPLIT = """\
no test split: figures will be those of the validation clips, by which
epoch and threshold are chosen too. Add a test folder, or use --cross-validate 5"""


@dataclass(frozen=True)
class OpenedRun:
    """The checkpoint directory of a command, and what is in it."""

    directory: RunDirectory
    dataset: Dataset  # in the groups and splits of the run that is continued
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
    def groups_csv(self) -> Path | None:
        """Where this command may write proposed groups already; None while a run is there."""
        is_free = self.directory.writes and not self.has_earlier_run
        return self.directory / GROUPS_PROPOSED if is_free else None

    @property
    def leakage_csv(self) -> Path | None:
        """Where this command may list repeated clips already; None while another run is there."""
        return self.directory / LEAKAGE if self.owns_directory else None

    @property
    def bad_clips(self) -> dict[str, str] | None:
        """Clips that could not be read when the run began, and why; None for a new run."""
        return self.directory.bad_clips() if self.continuing else None

    def begin(
        self,
        settings: Settings,
        dataset: Dataset,
        bad_clips: Mapping[str, str],
        devices: list[str],
        precision: str,
    ) -> None:
        """Write what makes this a run; an earlier one is set aside. Nothing is touched before.

        Args:
            settings: of this command.
            dataset: in its groups and splits.
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
        if self.directory.writes:
            write_groups(dataset, self.directory / GROUPS_PROPOSED)
        self.directory.write_config(settings, dataset.clips, dict(bad_clips), devices, precision)


def open_run(settings: Settings, dataset: Dataset, worker: Worker, stack: ExitStack) -> OpenedRun:
    """Open the checkpoint directory, start the log, and find out what is there.

    Args:
        settings: the directory, whether to resume, and what is asked for.
        dataset: as it was found.
        worker: this process; of several, the chief alone writes.
        stack: on its end, the directory is free for others.

    Raises:
        UserError: another process uses the directory; the run in it has other settings or clips.
    """
    directory = stack.enter_context(RunDirectory(settings.data.checkpoint_dir, worker))
    has_run = directory.has_run()
    is_experiment = settings.experiment.requested
    continuing = not is_experiment and has_run and settings.run.resume
    if continuing and dataset.groups_from == UNKNOWN:
        recorded = read_recorded_groups(directory / SPLITS_FILE)
        dataset = dataset.with_groups(recorded, settings.devices.seed)
    if continuing and directory.writes:
        directory.require_same(settings, dataset.clips)
    log_file, screen_level = directory / (EXPERIMENTS_LOG if is_experiment else LOG), logging.INFO
    if not worker.is_chief:
        log_file, screen_level = directory / WORKER_LOG.format(worker.number), logging.WARNING
        print(f"worker {worker.number} of {worker.count} logs to {log_file}", flush=True)
    start_log(log_file, screen_level)
    goals = settings.test.threshold_for, settings.test.subgroup
    finished = continuing and directory.is_finished(*goals)
    splits_are_final = dataset.has_splits or dataset.groups_from != UNKNOWN
    if not finished and splits_are_final:
        log_split_counts(dataset.clips)
        if not (is_experiment or any(clip.split == "test" for clip in dataset.clips)):
            log.warning("%s", NO_TEST_SPLIT)
    return OpenedRun(
        *(directory, dataset, log_file, screen_level),
        *(is_experiment, has_run, continuing, finished),
    )
