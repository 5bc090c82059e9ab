"""The clips that a command works on: found, drawn for a demo, or fetched from an object store."""

import logging
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from violence_detection.clips.clip import FILE_TYPES, Clip
from violence_detection.clips.dataset import find_clips, find_unlabeled
from violence_detection.settings.schema import Settings
from violence_detection.storage.remote_paths import clips_folder

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Dataset:
    """The clips of a dataset."""

    clips: list[Clip]  # labelled, of all splits
    unlabeled: list[Clip]  # of --unlabeled

    @property
    def all_clips(self) -> list[Clip]:
        """All clips that need features, the labelled ones first."""
        return [*self.clips, *self.unlabeled]


def find_dataset(settings: Settings, stack: ExitStack) -> Dataset:
    """Return the clips that the settings name; those of a demo are drawn first.

    Args:
        settings: --dataset-path, --unlabeled, the spool, and the seed of automatic splits.
        stack: on its end, clips that were fetched from an object store are removed.

    Raises:
        UserError: there are no such folders, or no clips in them.
        RunError: the object store does not answer.
    """
    data = settings.data
    folder = stack.enter_context(clips_folder(data.dataset_path, data.spool_dir, data.spool_size))
    if data.demo and isinstance(folder, Path):
        from violence_detection.clips.demo import draw_demo_clips  # loads OpenCV

        draw_demo_clips(folder)
    unlabeled = settings.training.unlabeled
    left_out: Counter[str] = Counter()
    clips = find_clips(folder, settings.devices.seed, left_out)
    if left_out:
        kinds = (f"{left_out[kind]} {kind or 'without a type'}" for kind in sorted(left_out))
        log.warning("files left out: %s\n(file types read: %s)", ", ".join(kinds), FILE_TYPES)
    return Dataset(clips, find_unlabeled(unlabeled) if unlabeled else [])
