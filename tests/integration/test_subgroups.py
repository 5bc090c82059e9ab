"""A test by camera: of a run from the start, and of one that is finished."""

import csv
from pathlib import Path

import pytest

from tests.conftest import SHORT, results_of
from train_rtx5000_dual_optimized import main
from violence_detection.reporting.model_card import MODEL_CARD


def test_figures_by_camera_and_later_by_light(
    few_clips: Path, quick_flags: list[str], run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clips = sorted(path.relative_to(few_clips).as_posix() for path in few_clips.glob("*/*/*.mp4"))
    with (few_clips / "groups.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("clip", "group", "camera", "light"))
        rows.writerows((clip, clip, f"camera {clip[-5]}", "day") for clip in clips)
    flags = ["--dataset-path", str(few_clips), *quick_flags, *SHORT]
    assert main([*flags, "--subgroup", "camera"]) == 0
    by_camera = results_of(run)["by_subgroup"]["camera"]
    assert {name: figures["clips"] for name, figures in by_camera.items()} == {
        "camera 0": 2,
        "camera 1": 2,
    }
    assert "| camera 1 | 2 | 2 |" in (run / MODEL_CARD).read_text()
    history = (run / "training_history.csv").read_bytes()
    assert main([*flags, "--subgroup", "light"]) == 0
    assert set(results_of(run)["by_subgroup"]) == {"light"}
    assert (run / "training_history.csv").read_bytes() == history
    capsys.readouterr()
    assert main(flags) == 0  # less is asked for than is there
    assert "This run is finished" in capsys.readouterr().out
    assert main([*flags, "--subgroup", "weather"]) == 2
    assert "--subgroup weather" in capsys.readouterr().err
