"""Which worker of a run this process is: from TF_CONFIG, or from Slurm's job step."""

import json
import os
from dataclasses import dataclass

from violence_detection.errors import UserError
from violence_detection.settings.schema import ONE_WORKER_ONLY, Settings
from violence_detection.settings.setting import flag

TF_CONFIG = "TF_CONFIG"  # what Kubernetes' training operator and TensorFlow's own docs set
JOB = "worker"  # TensorFlow's name of all of them


@dataclass(frozen=True)
class Worker:
    """This process among those of a run."""

    number: int = 0  # 0 is the chief, which writes what the run leaves
    count: int = 1

    @property
    def is_chief(self) -> bool:
        """Whether this process writes the files of the run."""
        return self.number == 0


def find_worker(how: str) -> Worker:
    """Return which worker this process is, by `--cluster`; alone if nothing says otherwise.

    Args:
        how: "tf-config" or "slurm".

    Raises:
        UserError: what is in the environment is not what it should be.
    """
    if how == "slurm":
        number, count = (_slurm_number(name) for name in ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"))
        return Worker(number, count)
    addresses, number = _of_tf_config(os.environ.get(TF_CONFIG, ""))
    return Worker(number, len(addresses)) if len(addresses) > 1 else Worker()


def worker_addresses(worker: Worker, how: str) -> list[str]:
    """Return each worker's address, "HOST:PORT", in the order of their numbers.

    Args:
        worker: this one, of several.
        how: "tf-config" or "slurm".
    """
    if how == "slurm":
        return _slurm_addresses(worker)
    return _of_tf_config(os.environ.get(TF_CONFIG, ""))[0]


def require_supported(settings: Settings, worker: Worker) -> None:
    """Raise `UserError` for a flag that several workers cannot serve."""
    if worker.count == 1:
        return
    for name, value in settings.by_name().items():
        if value and name in ONE_WORKER_ONLY:
            raise UserError(
                f"{flag(name)} is for one worker, and this is one of {worker.count}: run it on one "
                f"host (without {TF_CONFIG} and --cluster), or leave it out"
            )


def _of_tf_config(text: str) -> tuple[list[str], int]:
    """Return the addresses of all workers, the chief's first, and which of them this one is."""
    if not text.strip():
        return [], 0
    way_out = (
        '{"cluster": {"worker": ["HOST:PORT", …]}, "task": {"type": "worker", "index": 0}} is what '
        "it should be like"
    )
    try:
        config = json.loads(text)
        jobs, task = config.get("cluster", {}), config.get("task", {})
        places = [(job, at) for job in ("chief", JOB) for at in range(len(jobs.get(job, [])))]
        addresses = [str(jobs[job][at]) for job, at in places]
        here = (str(task.get("type", JOB)), int(task.get("index", 0)))
    except (ValueError, AttributeError, TypeError) as error:
        raise UserError(f"{TF_CONFIG} is not understood ({error}): {way_out}") from error
    if others := sorted(set(jobs) - {"chief", JOB}):
        raise UserError(
            f"{TF_CONFIG} names tasks of the kind {others[0]!r}: all that train are workers (or a "
            "chief and workers)"
        )
    if addresses and here not in places:
        raise UserError(
            f"{TF_CONFIG}: this task is {here[0]} {here[1]}, which is not in its cluster: {way_out}"
        )
    return addresses, places.index(here) if addresses else 0


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
        # Of it only the addresses are wanted: Slurm itself gives each task its GPUs, and without
        # any, the resolver would divide by their number.
        resolver = tf.distribute.cluster_resolver.SlurmClusterResolver(
            gpus_per_node=tasks, gpus_per_task=1, auto_set_gpu=False
        )
        addresses = resolver.cluster_spec().as_dict()[JOB]
    except (KeyError, ValueError, RuntimeError) as error:
        raise UserError(
            f"--cluster slurm: {error}: start the command with srun, in a job step"
        ) from error
    # It sorts hosts by name, n10 before n9; Slurm numbers the tasks in the order of its own list.
    addresses.sort(key=lambda address: hosts.index(address.rpartition(":")[0]))
    host, here = addresses[worker.number].rpartition(":")[0], os.environ.get("SLURMD_NODENAME")
    if here is not None and here != host:
        raise UserError(
            f"--cluster slurm: task {worker.number} should be on {host} and is on {here}: start it "
            "with srun --ntasks-per-node=1, or --distribution=block"
        )
    return addresses
