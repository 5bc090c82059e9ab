import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.projection import Hosts, project
from benchmarks.scale import CLIPS, HOSTS, costs_of, measured_tables, projected_tables
from tests.conftest import ROOT

RESULTS = ROOT / "benchmarks" / "results" / "scale.json"


def test_stored_projection_follows_from_the_stored_measurements() -> None:
    report = json.loads(RESULTS.read_text())
    costs, each = costs_of(report["measured"], None), Hosts(**report["assumed"])
    assert report["costs"] == pytest.approx(vars(costs))
    for row, expected in zip(report["projected"], project(costs, each, CLIPS, HOSTS), strict=True):
        assert row == pytest.approx(expected)
    tables = measured_tables(report["measured"]) + projected_tables(report["projected"], each)
    for table in tables:
        assert max(map(len, table.as_text().splitlines())) <= 80, table.title


def run(*flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.scale", *flags]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


def test_gpus_need_measured_rates() -> None:
    refused = run("--from", str(RESULTS), "--gpus", "2")
    assert refused.returncode == 1
    assert "--gpus 2" in refused.stderr
    assert "--gpu-extraction" in refused.stderr
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
