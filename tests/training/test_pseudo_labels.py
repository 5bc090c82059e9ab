import csv
import shutil
from pathlib import Path

import pytest

from tests.conftest import SHORT, results_of, rows_of
from train_rtx5000_dual_optimized import main


@pytest.fixture
def unlabeled(drawn_clips: Path, tmp_path: Path) -> Path:
    """Return a folder of clips without labels, one of them a copy of a test clip."""
    folder = tmp_path / "unlabeled"
    folder.mkdir()
    for number, path in enumerate(sorted(drawn_clips.glob("val/*/*.mp4"))):
        shutil.copy(path, folder / f"{number}.mp4")
    shutil.copy(next(drawn_clips.glob("test/violent/*.mp4")), folder / "test.mp4")
    (folder / "unreadable.mp4").write_bytes(b"no video")
    return folder


@pytest.fixture
def smaller_flags(
    drawn_clips: Path, features_before: None, tmp_path: Path, quick_flags: list[str]
) -> list[str]:
    """Return the flags of a run whose validation clips are others than the unlabeled ones."""
    dataset = tmp_path / "labelled"
    for path in drawn_clips.glob("*/*/*.mp4"):
        split = {"train": "train", "test": "test", "val": None}[path.parts[-3]]
        if split == "train" and path.stem[-1] in "45":
            split = "val"
        if split:
            target = dataset / split / path.parts[-2] / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    return ["--dataset-path", str(dataset), *quick_flags, *SHORT]


@pytest.mark.slow
def test_confident_clips_become_training_clips_but_copies_of_test_clips_do_not(
    smaller_flags: list[str], unlabeled: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [*smaller_flags, "--unlabeled", str(unlabeled), "--pseudo-confidence", "0.5"]
    assert main([*given, "--pseudo-rounds", "2"]) == 0
    output = capsys.readouterr().out
    assert "copies of labelled clips: 1" in output
    assert "round 2: pseudo-labels for 8 of 8 unlabeled clips" in output
    assert "different labels" not in output
    with (run / "pseudo_labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 16 and not any("test" in row["clip"] for row in rows)
    for row in rows:
        violent = float(row["probability"]) >= 0.5
        assert row["taken_as"] == ("violent" if violent else "nonviolent")
    assert [sum(r["taken"].values()) for r in results_of(run)["pseudo_labels"]] == [8, 8]
    assert len(rows_of(run / "teacher_2")) == 2


@pytest.mark.slow
def test_no_clip_is_predicted_with_enough_confidence(
    smaller_flags: list[str], unlabeled: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run trains as its teacher, which had no unlabeled clips."""
    given = [*smaller_flags, "--unlabeled", str(unlabeled), "--pseudo-confidence", "0.9999999"]
    assert main(given) == 0
    assert "round 1: pseudo-labels for 0 of 8 unlabeled clips" in capsys.readouterr().out
    losses = [[row["loss"] for row in rows_of(folder)] for folder in (run, run / "teacher_1")]
    assert losses[0] == losses[1]


@pytest.mark.parametrize(("files", "words"), [((), "contains no clips"), (None, "no such folder")])
def test_folder_without_unlabeled_clips_is_refused(
    flags: list[str],
    tmp_path: Path,
    files: tuple[str, ...] | None,
    words: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "unlabeled"
    if files is not None:
        folder.mkdir()
    assert main([*flags, "--unlabeled", str(folder)]) == 2
    assert f"--unlabeled {folder}" in (message := capsys.readouterr().err) and words in message
