"""From measured costs to hours on many hosts: arithmetic only, with explicit assumptions.

Nothing in this module is measured. Work on the same resource, such as the cores, adds up; work on
different resources overlaps, and the slowest one determines how long a stage takes.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

DECODING, VGG19 = "decoding", "VGG19"
FILE_SYSTEM, LINK = "file system", "a host's link"
STEPS, ALL_REDUCE = "steps", "all-reduce"
LISTING = "clip list"


@dataclass(frozen=True)
class Costs:
    """The measured costs; CPU seconds are the sum over all cores."""

    decoding: float  # CPU seconds per clip: reading, decoding, computing its streams
    vgg19: float  # CPU seconds per clip, all streams
    clip_bytes: float  # per clip's file
    feature_bytes: int  # per clip in the cache, all streams
    step_fixed: float  # CPU seconds per training step of any size
    step_per_clip: float  # CPU seconds per clip in a step
    gradient_bytes: int  # reduced per step
    reduce_per_byte: float  # CPU seconds that distribution adds, per byte sent
    list_seconds: float  # per clip, to list it and find its rows; each host lists all clips
    list_bytes: float  # memory per clip in the list and the index


@dataclass(frozen=True)
class Hosts:
    """The assumptions about the hosts and the run; each one is a flag."""

    cores: int
    memory_gb: float
    network_gbit: float  # of each host's link
    disk_gbit: float  # of the file system that all hosts share
    latency_us: float  # of a message between two hosts
    price: float  # per host and hour
    batch_size: int
    epochs: int
    train_share: float  # of the clips
    gpus: int = 0  # per host
    gpu_extraction: float | None = None  # clips/s of one GPU
    gpu_training: float | None = None


@dataclass(frozen=True)
class Stage:
    """How long a stage takes.

    Args:
        at_once: groups of seconds by name, which add up within a group; the groups overlap.
    """

    at_once: Sequence[Mapping[str, float]]

    @property
    def _longest(self) -> Mapping[str, float]:
        return max(self.at_once, key=lambda group: sum(group.values()))

    @property
    def seconds(self) -> float:
        """The seconds of the longest group."""
        return sum(self._longest.values())

    @property
    def limit(self) -> str:
        """The name with the most seconds in the longest group."""
        longest = self._longest
        return max(longest, key=lambda name: longest[name])


def bytes_per_second(gbit: float) -> float:
    """Return bytes per second."""
    return gbit * 1e9 / 8


def listing(clips: float, costs: Costs) -> Stage:
    """Return the start of a run: each host lists all clips, so that more hosts are no faster."""
    return Stage([{LISTING: clips * costs.list_seconds}])


def extraction(clips: float, hosts: int, costs: Costs, each: Hosts) -> Stage:
    """Return the extraction of all clips; each is read, and its features written, once."""
    share = clips / hosts
    traffic = costs.clip_bytes + costs.feature_bytes
    decoding = share * costs.decoding / each.cores
    if each.gpus and each.gpu_extraction:
        network: list[dict[str, float]] = [
            {DECODING: decoding},
            {VGG19: share / (each.gpus * each.gpu_extraction)},
        ]
    else:
        network = [{DECODING: decoding, VGG19: share * costs.vgg19 / each.cores}]
    return Stage(
        [
            *network,
            {FILE_SYSTEM: clips * traffic / bytes_per_second(each.disk_gbit)},
            {LINK: share * traffic / bytes_per_second(each.network_gbit)},
        ]
    )


def extraction_rates(costs: Costs, each: Hosts) -> dict[str, float]:
    """Return the clips/s at which each resource is saturated, by its name."""
    traffic = costs.clip_bytes + costs.feature_bytes
    gpu_rate = each.gpus * (each.gpu_extraction or 0)
    return {
        f"{DECODING}, a host": each.cores / costs.decoding,
        f"{VGG19}, a host": gpu_rate or each.cores / costs.vgg19,
        LINK: bytes_per_second(each.network_gbit) / traffic,
        f"{FILE_SYSTEM}, all hosts": bytes_per_second(each.disk_gbit) / traffic,
    }


def all_reduce_seconds(hosts: int, costs: Costs, each: Hosts) -> float:
    """Return the seconds of a ring all-reduce (Patarasuk and Yuan, 2009) of the gradients.

    Each host sends 2 (n - 1) / n of their bytes in 2 (n - 1) messages, one after the other; one of
    its cores packs, unpacks and adds. With GPUs, NCCL does that, and only the link counts.
    """
    sent = 2 * (hosts - 1) / hosts * costs.gradient_bytes
    latency = 2 * (hosts - 1) * each.latency_us / 1e6
    packing = 0.0 if each.gpus else sent * costs.reduce_per_byte
    return sent / bytes_per_second(each.network_gbit) + latency + packing


def training(
    clips: float, hosts: int, costs: Costs, each: Hosts, batch_a_host: bool = False
) -> Stage:
    """Return all epochs of the training.

    Args:
        batch_a_host: whether the batch size is per host (weak scaling) instead of global.
    """
    trained = clips * each.train_share
    batch = each.batch_size * (hosts if batch_a_host else 1)
    steps = each.epochs * math.ceil(trained / batch)
    local_batch = math.ceil(batch / hosts)
    if each.gpus and each.gpu_training:
        computing = local_batch / (each.gpus * each.gpu_training)
    else:
        computing = (costs.step_fixed + local_batch * costs.step_per_clip) / each.cores
    # Each host reads different clips in each epoch; they stay in memory only if all of them fit.
    epoch_bytes = trained * costs.feature_bytes
    reads = 1 if epoch_bytes + clips * costs.list_bytes < each.memory_gb * 1e9 / 2 else each.epochs
    read = epoch_bytes * reads
    # If all clips stay in memory, every host reads all of them.
    from_disk = read * hosts if reads == 1 else read
    return Stage(
        [
            {STEPS: steps * computing, ALL_REDUCE: steps * all_reduce_seconds(hosts, costs, each)},
            {FILE_SYSTEM: from_disk / bytes_per_second(each.disk_gbit)},
            {LINK: from_disk / hosts / bytes_per_second(each.network_gbit)},
        ]
    )


def list_gb(clips: float, costs: Costs) -> float:
    """Return the gigabytes of memory that the clip list and the index need on each host."""
    return clips * costs.list_bytes / 1e9


def project(
    costs: Costs, each: Hosts, clips: Sequence[int], hosts: Sequence[int]
) -> list[dict[str, Any]]:
    """Return a row for each number of clips and hosts: seconds and limit of each stage, and cost.

    The cost includes listing, extraction and training with the global batch size.
    """
    rows = []
    for count in clips:
        for number in hosts:
            stages = {
                "listing": listing(count, costs),
                "extraction": extraction(count, number, costs, each),
                "training": training(count, number, costs, each),
                "training_batch_a_host": training(count, number, costs, each, batch_a_host=True),
            }
            row: dict[str, Any] = {"clips": count, "hosts": number}
            for name, stage in stages.items():
                row[f"{name}_seconds"] = stage.seconds
                row[f"{name}_limit"] = stage.limit
            run = ("listing", "extraction", "training")
            hours = sum(stages[name].seconds for name in run) / 3600
            row["cost"] = number * hours * each.price
            row["list_gb"] = list_gb(count, costs)
            row["list_fits"] = row["list_gb"] < each.memory_gb / 2
            rows.append(row)
    return rows


def assumptions(costs: Costs, each: Hosts) -> list[str]:
    """Return the assumptions of the projection in words."""
    with_gpus = (
        f"{each.gpus} GPU{'s' * (each.gpus > 1)} per host, each {each.gpu_extraction:g} clips/s of "
        f"VGG19 and {each.gpu_training:g} clips/s of training, as given: not measured"
        if each.gpus and each.gpu_extraction and each.gpu_training
        else "no GPU: decoding, VGG19 and steps share the cores"
    )
    return [
        f"a host has {each.cores} cores like this machine's and {each.memory_gb:g} GB; all cores "
        "are always busy, however many there are and however small a batch is",
        with_gpus,
        f"a link of {each.network_gbit:g} Gbit/s per host, {each.latency_us:g} us per message; "
        f"a file system of {each.disk_gbit:g} Gbit/s for all hosts together",
        f"{costs.clip_bytes / 1e3:.0f} kB per clip are read once, and "
        f"{costs.feature_bytes / 1e3:.0f} kB of features written once",
        f"{each.epochs} epochs of {100 * each.train_share:.0f} % of the clips, no early stopping, "
        f"no validation; batch size {each.batch_size}",
        f"an all-reduce is a ring of {costs.gradient_bytes / 1e6:.1f} MB that starts when the "
        "gradients are ready; "
        + (
            "GPUs pack and add at no cost"
            if each.gpus
            else f"one core of a host packs, sends and adds, {1e9 * costs.reduce_per_byte:.1f} ns "
            "per byte, as measured on loopback"
        ),
        "features are read again in each epoch, unless all of them fit into half of a host's "
        "memory; then each host reads all of them once",
        f"each host lists all clips: {costs.list_bytes:.0f} bytes and "
        f"{1e6 * costs.list_seconds:.1f} us per clip, plus the time to find their files on a "
        "network disk",
        f"a host costs {each.price:g} per hour (1: the cost is in host hours); no host fails",
    ]
