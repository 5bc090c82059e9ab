from dataclasses import replace

import pytest

from benchmarks.projection import (
    ALL_REDUCE,
    DECODING,
    FILE_SYSTEM,
    LINK,
    STEPS,
    VGG19,
    Costs,
    Hosts,
    all_reduce_seconds,
    assumptions,
    extraction,
    extraction_rates,
    listing,
    project,
    training,
)

COSTS = Costs(
    decoding=1.0,
    vgg19=3.0,
    clip_bytes=1e6,
    feature_bytes=250_000,
    step_fixed=0.01,
    step_per_clip=0.001,
    gradient_bytes=10_000_000,
    reduce_per_byte=1e-9,
    list_seconds=1e-6,
    list_bytes=1000,
)
EACH = Hosts(
    cores=2,
    memory_gb=64,
    network_gbit=8,  # a gigabyte a second
    disk_gbit=8,
    latency_us=50,
    price=2.0,
    batch_size=64,
    epochs=10,
    train_share=0.8,
)


def test_more_hosts_extract_faster_until_the_file_system_is_saturated() -> None:
    # A clip takes 2 seconds of a host's cores and 1.25 ms of the file system.
    stages = {hosts: extraction(100_000, hosts, COSTS, EACH) for hosts in (1, 2, 1024, 2048, 4096)}
    seconds = {hosts: stage.seconds for hosts, stage in stages.items()}
    assert seconds[1] == 200_000
    assert seconds[2] == seconds[1] / 2
    assert seconds[1024] == seconds[1] / 1024
    assert seconds[2048] == seconds[4096] == 125
    limits = [stage.limit for stage in stages.values()]
    assert limits == [VGG19, VGG19, VGG19, FILE_SYSTEM, FILE_SYSTEM]
    rates = extraction_rates(COSTS, EACH)
    assert rates[f"{FILE_SYSTEM}, all hosts"] * 125 == 100_000


@pytest.mark.parametrize(
    ("costs", "each", "limit", "seconds"),
    [
        ({}, {}, VGG19, 2000),
        ({"decoding": 4.0}, {}, DECODING, 3500),
        ({}, {"network_gbit": 0.001}, LINK, 10_000),
        ({}, {"disk_gbit": 0.001}, FILE_SYSTEM, 10_000),
        # With GPUs, cores decode meanwhile, so that the seconds do not add up.
        ({}, {"gpus": 2, "gpu_extraction": 5.0, "gpu_training": 1.0}, DECODING, 500),
        ({}, {"gpus": 1, "gpu_extraction": 1.0, "gpu_training": 1.0}, VGG19, 1000),
    ],
)
def test_extraction_takes_as_long_as_its_limit(
    costs: dict[str, float], each: dict[str, float], limit: str, seconds: float
) -> None:
    stage = extraction(1000, 1, replace(COSTS, **costs), replace(EACH, **each))
    assert stage.limit == limit
    assert stage.seconds == pytest.approx(seconds)
    groups = [sum(group.values()) for group in stage.at_once]
    assert stage.seconds == max(groups)
    largest = stage.at_once[groups.index(max(groups))]
    assert largest[limit] == max(largest.values())


def test_all_reduce_of_a_ring() -> None:
    assert all_reduce_seconds(1, COSTS, EACH) == 0
    # 15 MB per host at 1 GB/s, 6 messages of 50 us, 15 MB at 1 ns per byte.
    assert all_reduce_seconds(4, COSTS, EACH) == pytest.approx(0.015 + 0.0003 + 0.015)


def test_all_reduce_limits_a_global_batch_but_not_a_batch_per_host() -> None:
    # 64,000 clips are 1000 steps, or 250 steps of four hosts with 64 clips each.
    clips = 80_000
    one, four, weak = (
        training(clips, 1, COSTS, EACH),
        training(clips, 4, COSTS, EACH),
        training(clips, 4, COSTS, EACH, batch_a_host=True),
    )
    reduce = all_reduce_seconds(4, COSTS, EACH)
    assert one.seconds == pytest.approx(10 * 1000 * (0.01 + 64 * 0.001) / 2)
    assert four.seconds == pytest.approx(10 * 1000 * ((0.01 + 16 * 0.001) / 2 + reduce))
    assert weak.seconds == pytest.approx(10 * 250 * ((0.01 + 64 * 0.001) / 2 + reduce))
    assert [one.limit, four.limit, weak.limit] == [STEPS, ALL_REDUCE, STEPS]


def test_features_are_read_in_each_epoch_unless_they_fit_into_memory() -> None:
    fast = replace(COSTS, step_fixed=0.0, step_per_clip=1e-9)
    clips = 80_000  # 16 GB of them to train on
    for memory, read in ((64, 16), (16, 10 * 16)):
        stage = training(clips, 1, fast, replace(EACH, memory_gb=memory))
        assert stage.limit == FILE_SYSTEM
        assert stage.seconds == pytest.approx(read)
    assert training(clips, 2, fast, EACH, batch_a_host=True).at_once[1][FILE_SYSTEM] == 2 * 16


def test_cost_is_that_of_all_hosts_in_all_stages() -> None:
    (row,) = project(COSTS, EACH, [1000], [4])
    stages = (
        listing(1000, COSTS),
        extraction(1000, 4, COSTS, EACH),
        training(1000, 4, COSTS, EACH),
    )
    assert row["cost"] == pytest.approx(4 * 2.0 * sum(stage.seconds for stage in stages) / 3600)
    assert row["list_fits"]
    assert not project(COSTS, EACH, [10**8], [1])[0]["list_fits"]


def test_assumptions_say_who_runs_vgg19() -> None:
    gpus = replace(EACH, gpus=2, gpu_extraction=30.0, gpu_training=5000.0)
    assert "no GPU" in " ".join(assumptions(COSTS, EACH))
    assert "2 GPUs per host, each 30 clips/s" in " ".join(assumptions(COSTS, gpus))
