"""Which worker of a run this process is, according to TF_CONFIG or to Slurm."""

import json
import os
from dataclasses import dataclass

from violence_detection.errors import UserError
from violence_detection.settings.schema import ONE_WORKER_ONLY, Settings
from violence_detection.settings.setting import flag

TF_CONFIG = "TF_CONFIG"  # set by Kubernetes' training operator, or as TensorFlow's guide shows
JOB = "worker"  # TensorFlow's name of the job that all workers are tasks of


@dataclass(frozen=True)
class Worker:
    """One of the processes that train together.

    Args:
        number: from 0; worker 0 is the chief, which writes the files of the run.
        count: of all workers.
    """

    number: int = 0
    count: int = 1

    @property
    def is_chief(self) -> bool:
        """Whether this process writes the files of the run."""
        return self.number == 0


def find_worker(launcher: str) -> Worker:
    """Return which worker this process is; without TF_CONFIG, the only one.

    Args:
        launcher: "tf-config" or "slurm", the value of `--cluster`.

    Raises:
        UserError: the environment is not as the launcher would set it.
    """
    if launcher == "slurm":
        number, count = (_slurm_number(name) for name in ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"))
        return Worker(number, count)
    addresses, number = _parse_tf_config(os.environ.get(TF_CONFIG, ""))
    return Worker(number, len(addresses)) if len(addresses) > 1 else Worker()


def worker_addresses(worker: Worker, launcher: str) -> list[str]:
    """Return the address of each worker, "HOST:PORT", by number; none if there is only one.

    Args:
        worker: this one.
        launcher: "tf-config" or "slurm".

    Raises:
        UserError: the environment is not as the launcher would set it.
    """
    if worker.count == 1:
        return []
    if launcher == "slurm":
        return _slurm_addresses(worker)
    return _parse_tf_config(os.environ.get(TF_CONFIG, ""))[0]


def require_supported(settings: Settings, worker: Worker) -> None:
    """Raise `UserError` for a flag that a run with several workers does not support."""
    if worker.count == 1:
        return
    for name, value in settings.by_name().items():
        if value and name in ONE_WORKER_ONLY:
            raise UserError(
                f"{flag(name)} is for one worker, and this is one of {worker.count}: run it on one "
                f"host (without {TF_CONFIG} and --cluster), or leave it out"
            )


def _parse_tf_config(text: str) -> tuple[list[str], int]:
    """Return the addresses of all workers, the chief's first, and the index of this one."""
    if not text.strip():
        return [], 0
    example = (
        'expected {"cluster": {"worker": ["HOST:PORT", …]}, "task": {"type": "worker", "index": 0}}'
    )
    try:
        config = json.loads(text)
        jobs, task = config.get("cluster", {}), config.get("task", {})
        tasks = [(job, index) for job in ("chief", JOB) for index in range(len(jobs.get(job, [])))]
        addresses = [str(jobs[job][index]) for job, index in tasks]
        own = (str(task.get("type", JOB)), int(task.get("index", 0)))
    except (ValueError, AttributeError, TypeError) as error:
        raise UserError(f"{TF_CONFIG} cannot be parsed ({error}): {example}") from error
    if others := sorted(set(jobs) - {"chief", JOB}):
        raise UserError(
            f"{TF_CONFIG} has tasks of type {others[0]!r}: only workers, or a chief and workers, "
            "can train"
        )
    if addresses and own not in tasks:
        raise UserError(f"{TF_CONFIG}: its cluster has no {own[0]} {own[1]}, this task: {example}")
    return addresses, tasks.index(own) if addresses else 0


def _slurm_number(name: str) -> int:
    try:
        return int(os.environ[name])
    except (KeyError, ValueError):
        raise UserError(
            f"--cluster slurm: {name} is {os.environ.get(name, 'not set')}: start the command with "
            "srun, in a job step"
        ) from None


def _slurm_addresses(worker: Worker) -> list[str]:
    """Return the address of each task of this Slurm job step, by TensorFlow's own resolver."""
    import tensorflow as tf
    from tensorflow.python.distribute.cluster_resolver.slurm_cluster_resolver import (
        expand_hostlist,
        expand_tasks_per_node,
    )

    try:
        hosts = expand_hostlist(os.environ["SLURM_STEP_NODELIST"])
        tasks = max(expand_tasks_per_node(os.environ["SLURM_STEP_TASKS_PER_NODE"]))
        # Only the addresses are used: Slurm itself assigns the GPUs. The resolver divides by the
        # number of GPUs, so that it must be told some.
        resolver = tf.distribute.cluster_resolver.SlurmClusterResolver(
            gpus_per_node=tasks, gpus_per_task=1, auto_set_gpu=False
        )
        addresses = resolver.cluster_spec().as_dict()[JOB]
    except (KeyError, ValueError, RuntimeError) as error:
        raise UserError(
            f"--cluster slurm: {error}: start the command with srun, in a job step"
        ) from error
    # The resolver sorts hosts by name, n10 before n9; Slurm numbers tasks in the list's order.
    addresses.sort(key=lambda address: hosts.index(address.rpartition(":")[0]))
    host, own = addresses[worker.number].rpartition(":")[0], os.environ.get("SLURMD_NODENAME")
    if own is not None and own != host:
        raise UserError(
            f"--cluster slurm: task {worker.number} runs on {own}, but its address is on {host}: "
            "start it with srun --ntasks-per-node=1, or --distribution=block"
        )
    return addresses
