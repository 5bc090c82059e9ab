"""The clips divided over workers, and which share is this process's.

A worker takes the clips whose name's hash falls to it, so that all agree on it without asking, and
before any file has been read. Two clips of the same content may fall to two workers: both compute
it, and one of the two is read.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence

from violence_detection.clips.clip import Clip
from violence_detection.errors import UserError
from violence_detection.runtime.worker import Worker, find_worker
from violence_detection.settings.schema import Settings
from violence_detection.settings.values import parse_share

SLURM = "SLURM_ARRAY_TASK"
KUBERNETES = "JOB_COMPLETION_INDEX"


def share_of(clips: Sequence[Clip], worker: Worker) -> list[Clip]:
    """Return the clips that a worker is to compute: the same on every host, whatever else runs."""
    if worker.count == 1:
        return list(clips)
    return [clip for clip in clips if share_number(clip, worker.count) == worker.number]


def share_number(clip: Clip, count: int) -> int:
    """Return which of `count` workers a clip falls to, from 0."""
    name = clip.name.encode(errors="surrogateescape")
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest()) % count


def find_share(settings: Settings, environment: Mapping[str, str] = os.environ) -> Worker:
    """Return which share of the clips this process extracts.

    By `--share`; else by the task of a Slurm array, of a Kubernetes indexed job, or of a cluster.

    Raises:
        UserError: that cannot be told, or there is no such share.
    """
    number, count = parse_share(settings.data.share) if settings.data.share else (None, None)
    if number is not None and count is not None:
        return Worker(number - 1, count)
    if f"{SLURM}_ID" in environment:
        task, first, last, step, tasks = (
            _number(environment, f"{SLURM}_{name}", default)
            for name, default in (("ID", 0), ("MIN", 0), ("MAX", -1), ("STEP", 1), ("COUNT", 0))
        )
        if count is not None:  # of an array of which some tasks are started again
            if not 1 <= task <= count:
                raise UserError(
                    f"--share /{count}: {SLURM}_ID is {task}: number the array from 1, "
                    f"--array=1-{count}"
                )
            return Worker(task - 1, count)
        if tasks < 1 or (last >= 0 and (last - first) // step + 1 != tasks):
            raise UserError(
                f"{SLURM}_ID {task} is of an array with gaps: say of how many shares it is, "
                "--share /N, with the array numbered from 1"
            )
        return Worker((task - first) // step, tasks)
    if KUBERNETES in environment:
        index = _number(environment, KUBERNETES, 0)
        if count is None:
            raise UserError(
                f"{KUBERNETES} is {index}, of how many does not stand in the environment: give "
                "--share /N, N being the job's completions"
            )
        if index >= count:
            raise UserError(f"--share /{count}: {KUBERNETES} is {index}: give the completions as N")
        return Worker(index, count)
    if count is not None:
        raise UserError(
            f"--share /{count}: neither {SLURM}_ID nor {KUBERNETES} is set: give --share I/{count}"
        )
    return find_worker(settings.devices.cluster)


def _number(environment: Mapping[str, str], name: str, default: int) -> int:
    try:
        return int(environment.get(name, default))
    except ValueError:
        raise UserError(f"{name} is {environment[name]!r}, not a number") from None
