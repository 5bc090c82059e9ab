import json
from pathlib import Path

import pytest

from benchmarks.layers import main
from train_rtx5000_dual_optimized import main as train


def test_features_of_all_layers_are_those_of_the_training_command(
    drawn_clips: Path, quick_flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = tmp_path / "cache"
    command = ["--dataset-path", str(drawn_clips), "--cache-dir", str(cache), "--frames", "4"]
    command += ["--vgg19-weights", "random", "--layers", "block1_conv1,block1_pool"]
    command += ["--poolings", "mean,max", "--streams", "rgb", "difference,rgb"]
    assert main([*command, "--costs", "--json", str(tmp_path / "figures.json")]) == 0
    report = json.loads((tmp_path / "figures.json").read_text())
    assert report["cpu_seconds"].keys() == {"difference", "block1_conv1", "block1_pool"}
    rows = report["rows"]
    assert len(rows) == 8
    assert max(row["roc_auc"] for row in rows if "difference" in row["streams"]) > 0.75
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80
    ours = {path.name: path.read_bytes() for path in cache.glob("*/*.rows")}
    assert train(["--dataset-path", str(drawn_clips), *quick_flags, "--extract-only"]) == 0
    assert {path.name: path.read_bytes() for path in cache.glob("*/*.rows")} == ours
