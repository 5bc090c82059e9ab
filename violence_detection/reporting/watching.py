"""What a training can be watched by: TensorBoard, its profiler, experiment trackers."""

import keras

from violence_detection.reporting.tensorboard import Profile, TensorBoardLog, begin_hparams
from violence_detection.reporting.trackers import Trackers
from violence_detection.runs.directory import RunDirectory
from violence_detection.runs.files import TENSORBOARD
from violence_detection.settings.schema import Settings
from violence_detection.training.batches import ClipFeatures
from violence_detection.training.trainer import Trainer


class TrainingWatch:
    """Event files of one classifier; profile and trackers are of the run's first one alone.

    Args:
        directory: of the classifier.
        validation: clips of which curves are drawn.
        settings: batch size, and whether to profile.
        trackers: of the run.
        run: the run's own directory, which is that of its first classifier.
    """

    def __init__(
        self,
        directory: RunDirectory,
        validation: ClipFeatures,
        settings: Settings,
        trackers: Trackers,
        run: RunDirectory,
    ):
        self._trackers = trackers
        is_first = directory is run
        self._boards: list[TensorBoardLog] = []
        self._profiles: list[Profile] = []
        if directory.writes:
            self._boards = [TensorBoardLog(directory, validation, settings.training.batch_size)]
            if settings.monitoring.profile and is_first:
                self._profiles = [Profile(directory / TENSORBOARD)]
            if is_first:
                begin_hparams(directory / TENSORBOARD, settings.as_json())
        if is_first:
            trackers.start(settings.as_json())

    def callbacks(self) -> list[keras.callbacks.Callback]:
        """Return what is called at each epoch's end."""
        tracking = keras.callbacks.LambdaCallback(
            on_epoch_end=lambda epoch, logs: self._trackers.log_epochs()
        )
        return [*self._boards, *self._profiles, tracking]

    def catch_up(self, trainer: Trainer) -> None:
        """Write what an interrupted run left out, where no epoch is left to train."""
        for board in self._boards:
            board.catch_up(trainer)

    def end(self) -> None:
        """Write what was profiled, if the training ended in the middle of it."""
        for profile in self._profiles:
            profile.end()
