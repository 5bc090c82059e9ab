import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.index_scale import index_table
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
    extraction,
    extraction_rates,
    listing,
    project,
    training,
)
from benchmarks.scale import CLIPS, HOSTS, costs_of, measured_tables, projected_tables
from tests.conftest import ROOT

RESULTS = ROOT / "benchmarks" / "results" / "scale.json"
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


def test_more_hosts_extract_faster_until_the_file_system_is_full() -> None:
    # A clip: 2 seconds of a host's cores, and 1.25 ms of the file system.
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
        # With GPUs, cores decode meanwhile: they do not add up.
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
    # 15 MB of each at 1 GB/s, 6 messages of 50 us, 15 MB at 1 ns a byte.
    assert all_reduce_seconds(4, COSTS, EACH) == pytest.approx(0.015 + 0.0003 + 0.015)


def test_batch_of_all_together_is_held_up_by_its_all_reduce() -> None:
    # 64,000 clips are 1000 steps, and 250 of four hosts with 64 each.
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
    clips = 80_000  # 16 GB are trained on
    for memory, read in ((64, 16), (16, 10 * 16)):
        stage = training(clips, 1, fast, replace(EACH, memory_gb=memory))
        assert stage.limit == FILE_SYSTEM
        assert stage.seconds == pytest.approx(read)
    assert training(clips, 2, fast, EACH, batch_a_host=True).at_once[1][FILE_SYSTEM] == 2 * 16


def test_cost_is_of_all_hosts_for_all_stages() -> None:
    (row,) = project(COSTS, EACH, [1000], [4])
    stages = (
        listing(1000, COSTS),
        extraction(1000, 4, COSTS, EACH),
        training(1000, 4, COSTS, EACH),
    )
    assert row["cost"] == pytest.approx(4 * 2.0 * sum(stage.seconds for stage in stages) / 3600)
    assert row["list_fits"]
    assert not project(COSTS, EACH, [10**8], [1])[0]["list_fits"]


def test_documentation_shows_what_the_checked_in_figures_come_to() -> None:
    report = json.loads(RESULTS.read_text())
    costs, each = costs_of(report["measured"], None), Hosts(**report["assumed"])
    assert report["costs"] == pytest.approx(vars(costs))
    for row, expected in zip(report["projected"], project(costs, each, CLIPS, HOSTS), strict=True):
        assert row == pytest.approx(expected)
    page = (ROOT / "docs" / "scaling.md").read_text()
    tables = measured_tables(report["measured"]) + projected_tables(report["projected"], each)
    for table in tables:
        assert table.as_markdown() in page, table.title
        assert max(map(len, table.as_text().splitlines())) <= 80, table.title


def run(*flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.scale", *flags]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


def test_gpus_need_rates_that_were_measured() -> None:
    assert "give --gpu-extraction" in run("--from", str(RESULTS), "--gpus", "2").stderr
    rates = ("--gpu-extraction", "30", "--gpu-training", "5000")
    done = run("--from", str(RESULTS), "--gpus", "2", *rates)
    assert done.returncode == 0, done.stderr
    assert "as given: not measured" in " ".join(done.stdout.split())


@pytest.mark.slow
def test_two_worker_processes_are_measured_and_projected(tmp_path: Path) -> None:
    file = tmp_path / "scale.json"
    done = run(
        *("--feature-layer", "block1_pool", "--clips", "1", "--listed-clips", "1000"),
        *("--workers", "2", "--batch-size", "4", "--rounds", "1", "--stored-clips", "32"),
        *("--json", str(file)),
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(file.read_text())
    one, two = report["measured"]["training"]
    assert list(one["steps"]) == ["2", "4", "8"]
    assert list(two["steps"]) == ["4", "8"]
    assert two["gradient_bytes"] > 1_000_000
    assert two["all_reduce"]["cpu_seconds"] > 0
    assert two["strong"]["all_reduce_share"] > 0
    assert len(report["projected"]) == len(CLIPS) * len(HOSTS)
    for line in ("Measured here: a training step", "cannot be faster", "Projected, not measured"):
        assert line in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_readme_shows_what_ten_million_clips_cost() -> None:
    report = json.loads((RESULTS.parent / "index_scale.json").read_text())
    assert index_table(report).as_markdown() in (ROOT / "README.md").read_text()
    assert report["open_cache"]["seconds"] < 5
    assert report["open_cache"]["peak_megabytes"] < 1000
    assert report["shuffle"]["seconds_stratified"] < 5
