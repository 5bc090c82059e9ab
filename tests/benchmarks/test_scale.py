import json
from pathlib import Path

import pytest

from benchmarks import scale
from benchmarks.projection import Hosts, project
from benchmarks.scale import CLIPS, HOSTS, costs_of, main, measured_tables, projected_tables
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


def test_gpus_need_measured_rates(capsys: pytest.CaptureFixture[str]) -> None:
    two_gpus = ["--from", str(RESULTS), "--gpus", "2"]
    with pytest.raises(SystemExit, match=r"--gpus 2: .* --gpu-extraction"):
        main(two_gpus)
    main([*two_gpus, "--gpu-extraction", "30", "--gpu-training", "5000"])
    assert "as given: not measured" in " ".join(capsys.readouterr().out.split())


@pytest.mark.slow
def test_two_worker_processes_are_measured_and_projected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # A process of its own would start TensorFlow.
    monkeypatch.setattr(scale, "in_own_process", lambda function, *given: function(*given))
    file = tmp_path / "scale.json"
    main(
        [
            *("--feature-layer", "block1_pool", "--clips", "1", "--listed-clips", "1000"),
            *("--workers", "2", "--batch-size", "4", "--rounds", "1", "--stored-clips", "32"),
            *("--json", str(file)),
        ]
    )
    printed = capsys.readouterr().out
    report = json.loads(file.read_text())
    one, two = report["measured"]["training"]
    assert list(one["steps"]) == ["2", "4", "8"]
    assert list(two["steps"]) == ["4", "8"]
    assert two["gradient_bytes"] > 1_000_000
    assert two["all_reduce"]["cpu_seconds"] > 0
    assert two["strong"]["all_reduce_share"] > 0
    assert len(report["projected"]) == len(CLIPS) * len(HOSTS)
    for line in ("Measured here: a training step", "cannot be faster", "Projected, not measured"):
        assert line in printed
    assert max(map(len, printed.splitlines())) <= 80
