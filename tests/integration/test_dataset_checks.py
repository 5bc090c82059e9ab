"""Whole runs on a dataset with leaks between splits, wrong labels and stills."""

import csv
import io
import shutil
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.clips.videos import draw_video, write_doubtful_clip
from tests.conftest import SHORT, quick_flags_in, results_of
from train_rtx5000_dual_optimized import main
from violence_detection.clips.frames import read_frames

AGAIN = ("train/violent/violent2.mp4", "test/violent/again.avi")  # one scene in two splits
IN_GROUP = (
    *("train/violent/violent0.mp4", "train/violent/violent1.mp4", "test/violent/violent0.mp4"),
)
BOTH_LABELS = ("train/nonviolent/copied.mp4", "train/violent/violent1.mp4")
STILL = "val/nonviolent/still.avi"
PARTLY_READ = "train/violent/damaged.mp4"
LONG = "train/nonviolent/long.mp4"


def write_video(path: Path, images: list[np.ndarray], codec: str) -> None:
    height, width = images[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), 12, (width, height))
    for image in images:
        writer.write(image)
    writer.release()


def encode_again(source: Path, target: Path) -> None:
    """Write a clip from its second frame on, in another container and codec."""
    reader = cv2.VideoCapture(str(source))
    images = []
    while (read := reader.read())[0]:
        images.append(read[1])
    write_video(target, images[1:], "FFV1")


@pytest.fixture(scope="module")
def dataset(drawn_clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the drawn clips with one defect of each kind."""
    dataset = tmp_path_factory.mktemp("defects") / "clips"
    shutil.copytree(drawn_clips, dataset)
    encode_again(dataset / AGAIN[0], dataset / AGAIN[1])
    lines = ["clip,group", *(f"{name},camera" for name in IN_GROUP)]
    (dataset / "groups.csv").write_text("\n".join(lines) + "\n")
    shutil.copy(dataset / BOTH_LABELS[1], dataset / BOTH_LABELS[0])
    image = read_frames(dataset / "val" / "violent" / "violent1.mp4", 1)[0]
    write_video(dataset / STILL, [image] * 30, "MJPG")
    write_doubtful_clip(dataset / PARTLY_READ, "damaged")
    draw_video(dataset / LONG, [False] * 4, np.random.default_rng(5))
    return dataset


@dataclass(frozen=True)
class Checked:
    """A finished run that dropped leaking clips."""

    flags: list[str]
    run: Path
    screen: str


@pytest.fixture(scope="module")
def checked(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Checked:
    folder = tmp_path_factory.mktemp("checked")
    flags = ["--dataset-path", str(dataset), *quick_flags_in(folder), *SHORT, "--frames", "8"]
    with redirect_stdout(io.StringIO()) as screen:
        assert main([*flags, "--on-leakage", "drop", "--report"]) == 0
    return Checked(flags, folder / "run", screen.getvalue())


def leaks_of(run: Path, dataset: Path) -> set[tuple[str, str]]:
    with (run / "leakage.csv").open(newline="") as file:
        return {
            tuple(str(Path(row[name]).relative_to(dataset)) for name in ("clip", "repeated_clip"))
            for row in csv.DictReader(file)
        }


def test_clip_in_two_splits_is_reported_everywhere(checked: Checked, dataset: Path) -> None:
    assert " and ".join(AGAIN) in checked.screen
    assert AGAIN in leaks_of(checked.run, dataset)
    leaks = {(leak["clip"], leak["repeated"]) for leak in results_of(checked.run)["leakage"]}
    assert AGAIN in leaks
    # Drawn clips show one world: some others may be similar, but most are not.
    assert len(leaks) < 12


def test_leaking_clips_are_dropped_from_the_earlier_split(checked: Checked) -> None:
    results = results_of(checked.run)
    dropped = {leak["clip"] for leak in results["leakage"]}
    assert {AGAIN[0], *IN_GROUP[:2]} <= dropped
    assert results["clips_left_out_for_leakage"] == sorted(dropped)
    assert results["evaluation"]["clips"] == 9  # the test split is complete
    with (checked.run / "splits.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 33


def test_group_in_two_splits_is_reported(checked: Checked) -> None:
    results = results_of(checked.run)
    assert results["groups_on_two_sides"] == {"camera": ["test", "train"]}
    reasons = {(leak["clip"], leak["repeated"]): leak["reason"] for leak in results["leakage"]}
    assert reasons[IN_GROUP[0], IN_GROUP[2]] == "same group"


def test_contradicting_labels_stills_and_a_small_validation_split_are_reported(
    checked: Checked,
) -> None:
    results = results_of(checked.run)
    assert results["one_file_under_both_labels"] == [list(BOTH_LABELS)]
    assert results["static_clips"] == [STILL]
    for name in (*BOTH_LABELS, STILL):
        assert name in checked.screen
    assert "few clips to validate on" in checked.screen


def test_clips_read_in_part_and_long_clips_are_reported(checked: Checked) -> None:
    results = results_of(checked.run)
    assert results["partly_read_clips"] == [{"clip": PARTLY_READ, "share": 0.6}]
    assert f"could only be read in part: {PARTLY_READ} (60%)" in checked.screen
    assert results["clip_seconds"] == 2.0
    assert results["long_clips"] == [{"clip": LONG, "seconds": 8.0}]
    assert f"{LONG}: 8 s, a frame every 1.0 s" in checked.screen
    report = (checked.run / "report.html").read_text()
    for name in (PARTLY_READ, LONG):
        assert name in report


def test_leakage_can_stop_the_run(
    checked: Checked, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    flags = [*checked.flags, "--checkpoint-dir", str(run), "--on-leakage", "fail"]
    assert main(flags) == 2
    message = capsys.readouterr().err
    assert "--on-leakage fail" in message
    assert "leakage.csv" in message
    assert AGAIN in leaks_of(run, dataset)
    assert not (run / "training_history.csv").exists()


def test_weights_that_make_all_features_equal_are_refused(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import h5py

    with h5py.File(tmp_path / "zeros.h5", "w") as file:
        group = file.create_group("block1_conv1")
        group["kernel"], group["bias"] = np.zeros((3, 3, 3, 64)), np.ones(64)
        group.attrs["weight_names"] = [b"kernel", b"bias"]
    assert main([*flags, "--vgg19-weights", str(tmp_path / "zeros.h5")]) == 2
    message = capsys.readouterr().err
    assert "the features of all 28 clips are the same" in message
    assert "--vgg19-weights" in message
