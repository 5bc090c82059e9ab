"""From measured costs to hours on many hosts: arithmetic only, every assumption a number here.

Nothing in this file is measured. Work that shares something, such as cores, adds up; work on
different things is done at once, and the slowest of them tells how long it takes.
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
    """What the work costs, by measurement; CPU seconds are of all cores together."""

    decoding: float  # CPU seconds of a clip: reading, decoding, drawing its streams
    vgg19: float  # CPU seconds of a clip, all streams
    clip_bytes: float  # of a clip's file
    feature_bytes: int  # of a clip in the cache, all streams
    step_fixed: float  # CPU seconds of a training step, whatever its size
    step_per_clip: float  # CPU seconds of each clip in it
    gradient_bytes: int  # reduced in a step
    reduce_per_byte: float  # CPU seconds that a division adds, for each byte that is then sent
    list_seconds: float  # to list a clip and find its rows; each host lists all clips
    list_bytes: float  # memory of a clip in the list and the index


@dataclass(frozen=True)
class Hosts:
    """What is assumed of the hosts and of the run; all of it can be given as a flag."""

    cores: int
    memory_gb: float
    network_gbit: float  # of each host's link
    disk_gbit: float  # of the file system that all share
    latency_us: float  # of a message between two hosts
    price: float  # of a host for an hour
    batch_size: int
    epochs: int
    train_share: float  # of the clips
    gpus: int = 0  # of a host
    gpu_extraction: float | None = None  # clips a second of one GPU
    gpu_training: float | None = None


@dataclass(frozen=True)
class Stage:
    """How long a stage takes.

    Args:
        at_once: groups of seconds by name; within a group they add up, the groups overlap.
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
        """What the longest group spends most of its seconds on."""
        longest = self._longest
        return max(longest, key=lambda name: longest[name])


def bytes_per_second(gbit: float) -> float:
    """Return the bytes that so many Gbit/s are."""
    return gbit * 1e9 / 8


def listing(clips: float, costs: Costs) -> Stage:
    """Return the start of a run: each host lists all clips, so that more hosts do not help."""
    return Stage([{LISTING: clips * costs.list_seconds}])


def extraction(clips: float, hosts: int, costs: Costs, each: Hosts) -> Stage:
    """Return the extraction of all clips: clips are read, and features written, once."""
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
    """Return the clips a second at which each thing is full, by name: of a host, or of all."""
    traffic = costs.clip_bytes + costs.feature_bytes
    of_gpus = each.gpus * (each.gpu_extraction or 0)
    return {
        f"{DECODING}, a host": each.cores / costs.decoding,
        f"{VGG19}, a host": of_gpus or each.cores / costs.vgg19,
        LINK: bytes_per_second(each.network_gbit) / traffic,
        f"{FILE_SYSTEM}, all hosts": bytes_per_second(each.disk_gbit) / traffic,
    }


def all_reduce_seconds(hosts: int, costs: Costs, each: Hosts) -> float:
    """Return the seconds of a ring all-reduce (Patarasuk and Yuan, 2009) of the gradients.

    Each host sends 2 (n - 1) / n of their bytes in 2 (n - 1) messages, one after the other; one
    core of it packs, unpacks and adds. With GPUs, NCCL does that, and only the link counts.
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
        batch_a_host: the batch size is that of each host (weak scaling), not of all together.
    """
    trained = clips * each.train_share
    batch = each.batch_size * (hosts if batch_a_host else 1)
    steps = each.epochs * math.ceil(trained / batch)
    own = math.ceil(batch / hosts)
    if each.gpus and each.gpu_training:
        computing = own / (each.gpus * each.gpu_training)
    else:
        computing = (costs.step_fixed + own * costs.step_per_clip) / each.cores
    # Each host reads other clips in each epoch: they stay in its memory only if all fit.
    of_epoch = trained * costs.feature_bytes
    reads = 1 if of_epoch + clips * costs.list_bytes < each.memory_gb * 1e9 / 2 else each.epochs
    read = of_epoch * reads
    # What stays in memory is read by every host.
    from_disk = read * hosts if reads == 1 else read
    return Stage(
        [
            {STEPS: steps * computing, ALL_REDUCE: steps * all_reduce_seconds(hosts, costs, each)},
            {FILE_SYSTEM: from_disk / bytes_per_second(each.disk_gbit)},
            {LINK: from_disk / hosts / bytes_per_second(each.network_gbit)},
        ]
    )


def list_gb(clips: float, costs: Costs) -> float:
    """Return the gigabytes of memory that the clip list and the index take on each host."""
    return clips * costs.list_bytes / 1e9


def project(
    costs: Costs, each: Hosts, clips: Sequence[int], hosts: Sequence[int]
) -> list[dict[str, Any]]:
    """Return a row for each number of clips and hosts: seconds and limit of each stage, and cost.

    The cost is of listing, extraction and training with the batch size of all together.
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
    """Return in words what the projection takes for granted."""
    with_gpus = (
        f"{each.gpus} GPU(s) a host, each {each.gpu_extraction:g} clips/s of VGG19 and "
        f"{each.gpu_training:g} clips/s of training, as given: not measured"
        if each.gpus and each.gpu_extraction and each.gpu_training
        else "no GPU: decoding, VGG19 and steps share the cores"
    )
    return [
        f"a host has {each.cores} cores like those here, and {each.memory_gb:g} GB; no core waits, "
        "however many there are and however small a batch",
        with_gpus,
        f"a link of {each.network_gbit:g} Gbit/s a host, {each.latency_us:g} us a message; a file "
        f"system of {each.disk_gbit:g} Gbit/s for all hosts together",
        f"{costs.clip_bytes / 1e3:.0f} kB a clip are read, {costs.feature_bytes / 1e3:.0f} kB of "
        "features written, once",
        f"{each.epochs} epochs of {100 * each.train_share:.0f} % of the clips, no early stop, no "
        f"validation; batch size {each.batch_size}",
        f"an all-reduce is a ring of {costs.gradient_bytes / 1e6:.1f} MB that begins when the "
        "gradients are ready; "
        + (
            "GPUs pack and add at no cost"
            if each.gpus
            else f"one core of a host packs, sends and adds, {1e9 * costs.reduce_per_byte:.1f} ns "
            "a byte, as measured on loopback"
        ),
        "features are read again in each epoch, unless all of them fit into half of a host's "
        "memory: then each host reads all of them once",
        f"each host lists all clips: {costs.list_bytes:.0f} bytes and "
        f"{1e6 * costs.list_seconds:.1f} us a clip; looking for their files on a network disk "
        "comes on top",
        f"a host costs {each.price:g} an hour (1: the cost is in host hours); no host fails",
    ]
