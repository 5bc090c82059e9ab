"""A run on long videos with one label each."""

import csv
import json
from pathlib import Path

import pytest

from benchmarks.crash import cached_features
from benchmarks.linked_clips import Linked
from benchmarks.segments import joined
from tests.conftest import SHORT, results_of
from train_rtx5000_dual_optimized import main
from violence_detection.clips.clip import Clip
from violence_detection.clips.manifest import ManifestRow, write_manifest
from violence_detection.commands.predict import main as predict
from violence_detection.settings.constants import CLASS_NAMES


@pytest.fixture
def videos(drawn_clips: Path, tmp_path: Path) -> Path:
    """Return a manifest of videos: of 4 s, half of them violent, and of 6 s without violence."""
    rows = []
    for split, count in {"train": 2, "val": 1, "test": 1}.items():
        for label, name in enumerate(CLASS_NAMES):
            clips = [
                Linked("drawn", Clip(drawn_clips, f"{split}/{part}/{part}{number}.mp4", 0, split))
                for number, part in enumerate(("nonviolent", name, *["nonviolent"][label:]))
            ]
            for number in range(count):
                path = tmp_path / f"{split}_{name}_{number}.mp4"
                joined(clips[number:] + clips[:number], path)
                rows.append(ManifestRow(path.name, label, split=split))
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    rows.append(ManifestRow("bad.mp4", 1, split="train"))
    write_manifest(rows, tmp_path / "videos.csv")
    return tmp_path / "videos.csv"


def test_run_on_weak_labels(
    videos: Path,
    quick_flags: list[str],
    run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    flags = ["--dataset-path", str(videos), *quick_flags, *SHORT, "--report"]
    flags += ["--weak", "--window", "2"]
    extract = [flag for flag in flags if flag != str(run)]
    extract.remove("--checkpoint-dir")
    assert main([*extract, "--extract-only"]) == 0
    assert "bad clip" in capsys.readouterr().out
    windows = cached_features(tmp_path / "cache")
    assert main(flags) == 0
    assert "9 videos in 21 windows" in capsys.readouterr().out
    assert cached_features(tmp_path / "cache") == windows  # all were found
    with (run / "predictions.csv").open(newline="") as file:
        predicted = list(csv.DictReader(file))
    assert [row["clip"] for row in predicted] == ["test_nonviolent_0.mp4", "test_violent_0.mp4"]
    assert all(row["window"].startswith(f"{row['clip']}#t=") for row in predicted)
    assert "attention_4" in predicted[0] and "attention_5" not in predicted[0]
    assert results_of(run)["evaluation"]["clips"] == 2
    assert [item["clip"] for item in results_of(run)["bad_clips"]] == ["bad.mp4"]
    assert f"{predicted[0]['window']}" in (run / "report.html").read_text()

    # What was trained predicts windows, and a long video in windows without being asked.
    assert (
        predict(["--checkpoint-dir", str(run), str(videos.parent / predicted[0]["clip"]), "--json"])
        == 0
    )
    answer = json.loads(capsys.readouterr().out)
    assert answer["clips"]
