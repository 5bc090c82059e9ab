"""How the clips are divided among workers, and which share this process has.

A clip belongs to the worker that the hash of its name selects, so that all workers agree without
communication and before any file has been read. Two clips with the same content may belong to two
workers: both compute its features, and one of the two rows is used.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence

from violence_detection.clips.clip import Clip
from violence_detection.errors import UserError
from violence_detection.runtime.worker import Worker, find_worker
from violence_detection.settings.values import parse_share

SLURM = "SLURM_ARRAY_TASK"
SLURM_ID = f"{SLURM}_ID"
KUBERNETES_INDEX = "JOB_COMPLETION_INDEX"


def share_of(clips: Sequence[Clip], worker: Worker) -> list[Clip]:
    """Return the clips in a worker's share: the same on every host, in the order of `clips`."""
    if worker.count == 1:
        return list(clips)
    return [clip for clip in clips if share_number(clip, worker.count) == worker.number]


def share_number(clip: Clip, count: int) -> int:
    """Return which of `count` workers a clip belongs to, from 0."""
    name = clip.name.encode(errors="surrogateescape")
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest()) % count


def find_share(
    share: str | None, cluster: str, environment: Mapping[str, str] = os.environ
) -> Worker:
    """Return which share of the clips this process extracts.

    By `--share`; else by the task of a Slurm array, of a Kubernetes indexed job, or of a cluster.

    Args:
        share: `--share`: "I/N", "/N", or None.
        cluster: `--cluster`, see `find_worker`.
        environment: variables that Slurm or Kubernetes set.

    Raises:
        UserError: the share cannot be determined, or does not exist.
    """
    number, count = parse_share(share) if share else (None, None)
    if number is not None and count is not None:
        return Worker(number - 1, count)
    if SLURM_ID in environment:
        return _slurm_share(environment, count)
    if KUBERNETES_INDEX in environment:
        return _kubernetes_share(environment, count)
    if count is not None:
        raise UserError(
            f"--share /{count}: neither {SLURM_ID} nor {KUBERNETES_INDEX} is set: give "
            f"--share I/{count}"
        )
    return find_worker(cluster)


def _slurm_share(environment: Mapping[str, str], count: int | None) -> Worker:
    """Return the share of a task of a Slurm array; `count`: of the shares, if it was given."""
    task = _number(environment, SLURM_ID, 0)
    if count is not None:  # some tasks of an array may have been started again
        if not 1 <= task <= count:
            raise UserError(
                f"--share /{count}: {SLURM_ID} is {task}: number the array from 1, "
                f"--array=1-{count}"
            )
        return Worker(task - 1, count)
    first, last, step, tasks = (
        _number(environment, f"{SLURM}_{name}", default)
        for name, default in (("MIN", 0), ("MAX", -1), ("STEP", 1), ("COUNT", 0))
    )
    if tasks < 1 or (last >= 0 and (last - first) // step + 1 != tasks):
        raise UserError(
            f"{SLURM_ID} {task} belongs to an array with gaps: give the number of shares, "
            "--share /N, and number the array from 1"
        )
    return Worker((task - first) // step, tasks)


def _kubernetes_share(environment: Mapping[str, str], count: int | None) -> Worker:
    """Return the share of an indexed job's pod; `count`: of the shares, if it was given."""
    index = _number(environment, KUBERNETES_INDEX, 0)
    if count is None:
        raise UserError(
            f"{KUBERNETES_INDEX} is {index}, but the number of shares is unknown: give --share /N, "
            "N being the job's completions"
        )
    if index >= count:
        raise UserError(
            f"--share /{count}: {KUBERNETES_INDEX} is {index}: give the job's completions as N"
        )
    return Worker(index, count)


def _number(environment: Mapping[str, str], name: str, default: int) -> int:
    try:
        return int(environment.get(name, default))
    except ValueError:
        raise UserError(f"{name} is {environment[name]!r}, not a number") from None
