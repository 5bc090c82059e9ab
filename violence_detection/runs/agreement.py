"""What has to be the same on all workers of a run."""

from pathlib import Path

from violence_detection.clips.loading import Dataset
from violence_detection.clips.splits import fingerprint
from violence_detection.features.recipe import stored_recipes
from violence_detection.runs.versions import versions
from violence_detection.runtime.cluster import code_checksums, shared_settings
from violence_detection.runtime.machine import Machine
from violence_detection.settings.schema import Settings


def require_same_on_all_workers(
    machine: Machine, settings: Settings, dataset: Dataset, continuing: bool, script: Path
) -> None:
    """Compare code, versions, settings, clips, weights and devices of all workers.

    Args:
        machine: the workers, and the devices of this one.
        settings: of the command.
        dataset: the clips.
        continuing: whether this worker has found a run to continue.
        script: the file that was started.

    Raises:
        UserError: names a worker that differs from the chief, and in what.
    """
    cache_dir = settings.data.cache_dir
    machine.cluster.require_same(
        {
            "the code": code_checksums(script),
            "the versions": versions(),
            "the settings": shared_settings(settings),
            "the clips": fingerprint(dataset.all_clips),
            "the VGG19 weights": [r.weights for r in stored_recipes(settings)],
            "the devices": [device.device_type for device in machine.devices],
            "the precision": machine.precision.computation,
            "the cache location": "a folder" if isinstance(cache_dir, Path) else cache_dir,
            "the run to resume (is --checkpoint-dir shared?)": "one" if continuing else "none",
        }
    )
