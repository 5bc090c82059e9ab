"""What has to be the same on all workers of a run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from violence_detection.clips.clip import Clip
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
    devices = [device.device_type for device in machine.devices]
    precision = machine.precision.computation
    machine.cluster.require_same(
        compared_values(settings, dataset.all_clips, devices, precision, continuing, script)
    )


def compared_values(
    settings: Settings,
    clips: Sequence[Clip],
    devices: Sequence[str],
    precision: str,
    continuing: bool,
    script: Path,
) -> dict[str, Any]:
    """Return what is compared, by name, as JSON values; of paths, only what is the same everywhere.

    Args:
        settings: of the command.
        clips: all that this worker has found.
        devices: the type of each of its devices.
        precision: that it computes in.
        continuing: whether it has found a run to continue.
        script: the file that was started.
    """
    cache_dir = settings.data.cache_dir
    return {
        "the code": code_checksums(script),
        "the versions": versions(),
        "the settings": shared_settings(settings),
        "the clips": fingerprint(clips),
        "the VGG19 weights": [r.weights for r in stored_recipes(settings)],
        "the devices": list(devices),
        "the precision": precision,
        "the cache location": "a folder" if isinstance(cache_dir, Path) else cache_dir,
        "the run to resume (is --checkpoint-dir shared?)": "one" if continuing else "none",
    }
