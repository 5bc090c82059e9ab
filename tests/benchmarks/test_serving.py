import importlib.util
import json
from pathlib import Path

import pytest

from benchmarks import serving
from benchmarks.serving import main, percentile, targets_of


def test_percentile_is_a_measured_value() -> None:
    values = [float(number) for number in range(1, 101)]
    assert percentile(values, 50) == 51
    assert percentile(values, 99) == 100
    assert percentile([3.0], 99) == 3
    assert percentile([], 50) == 0


FUZZED = {
    "clips": {"200": 3, "422": 5, "503": 1},
    "forms": {"400": 9},
    "files_left": 0,
    "judges_as_before": True,
    "dead_processes": 0,
}


@pytest.mark.parametrize(
    ("part", "figures", "met"),
    [
        ("fuzz", {}, True),
        ("fuzz", {"clips": {"500": 1}}, False),
        ("fuzz", {"forms": {"502": 1}}, False),
        ("fuzz", {"clips": {"no answer": 1}}, False),
        ("fuzz", {"files_left": 1}, False),
        ("fuzz", {"judges_as_before": False}, False),
        ("fuzz", {"dead_processes": 1}, False),
        ("load", {"answers": {"200": 9, "503": 1}, "over_predict": 0.9}, True),
        ("load", {"answers": {"200": 9, "0": 1}, "over_predict": 0.9}, False),
        ("load", {"answers": {"200": 9}, "over_predict": 0.89}, False),
        ("memory", {"answers": {"200": 9}, "last_over_second": 1.04}, True),
        ("memory", {"answers": {"200": 9}, "last_over_second": 1.06}, False),
        ("memory", {"answers": {"200": 9, "503": 1}, "last_over_second": 1.0}, False),
    ],
)
def test_targets_are_met_or_missed(part: str, figures: dict[str, object], met: bool) -> None:
    given = {**FUZZED, **figures} if part == "fuzz" else figures
    assert all(targets_of({part: given}).values()) == met


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("locust") is None, reason="Locust is not installed")
def test_every_part_runs(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A process of its own would start TensorFlow, twice.
    monkeypatch.setattr(serving, "in_own_process", lambda function, *given: function(*given))
    command = ["--checkpoint-dir", str(trained / "run"), "--json", str(tmp_path / "figures")]
    main([*command, "--clients", "4", "--seconds", "1", "--requests", "16", "--count", "5"])
    figures = json.loads((tmp_path / "figures").read_text())
    missed = [name for name, met in figures["targets"].items() if not met]
    # A second is too little for rates and memory.
    assert all("predict.py" in name or "grows" in name for name in missed)
    assert figures["load"]["clips_per_second"] > 0
    assert 1 <= figures["load"]["clips_per_pass"] <= 4
    assert sum(figures["fuzz"]["clips"].values()) == 5
