"""Clips in two splits, wrong labels, stills: what a test must not be fooled by."""

import csv
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.conftest import opened_cache, results_of
from train_rtx5000_dual_optimized import main
from violence_detection.clips.clip import Clip
from violence_detection.clips.frames import read_frames
from violence_detection.errors import UserError
from violence_detection.features.cache.feature_cache import Recipe
from violence_detection.features.checks import (
    contradicting_labels,
    require_varied_features,
    static_clips,
    uncertain_validation,
)
from violence_detection.features.leakage import NEAR_DUPLICATE, find_leaks
from violence_detection.features.survey import SUMMARY_SIZE, survey_features


def encoded_again(source: Path, target: Path, begin: int = 0) -> None:
    """Write a clip anew from frame `begin` on, in another container and codec."""
    reader = cv2.VideoCapture(str(source))
    images = []
    while (read := reader.read())[0]:
        images.append(read[1])
    height, width = images[0].shape[:2]
    writer = cv2.VideoWriter(str(target), cv2.VideoWriter.fourcc(*"FFV1"), 12, (width, height))
    for image in images[begin:]:
        writer.write(image)
    writer.release()


@pytest.fixture
def dataset(drawn_clips: Path, tmp_path: Path) -> Path:
    """Return the drawn clips, of which one of training is also in test, encoded again."""
    dataset = Path(shutil.copytree(drawn_clips, tmp_path / "clips"))
    source = dataset / "train" / "violent" / "violent2.mp4"
    encoded_again(source, dataset / "test" / "violent" / "again.avi", begin=1)
    return dataset


@pytest.fixture
def flags(dataset: Path, quick_flags: list[str]) -> list[str]:
    return ["--dataset-path", str(dataset), *quick_flags, "--frames", "16", "--epochs", "2"]


def leaks_of(run: Path) -> set[tuple[str, str]]:
    with (run / "leakage.csv").open(newline="") as file:
        return {(row["clip"], row["repeated_clip"]) for row in csv.DictReader(file)}


def test_clip_in_two_splits_is_reported_everywhere(
    flags: list[str], dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main(flags) == 0
    pair = ("train/violent/violent2.mp4", "test/violent/again.avi")
    assert " and ".join(pair) in capsys.readouterr().out
    assert tuple(str(dataset / name) for name in pair) in leaks_of(run)
    listed = {(leak["clip"], leak["repeated"]) for leak in results_of(run)["leakage"]}
    assert pair in listed
    # Drawn clips are of one world: some others may be alike, but most are not.
    assert len(listed) < 8


def test_leaking_clips_are_dropped_from_the_earlier_split(flags: list[str], tmp_path: Path) -> None:
    assert main([*flags, "--on-leakage", "drop"]) == 0
    results = results_of(tmp_path / "run")
    dropped = {leak["clip"] for leak in results["leakage"]}
    assert "train/violent/violent2.mp4" in dropped
    assert results["clips_left_out_for_leakage"] == sorted(dropped)
    assert results["evaluation"]["clips"] == 9  # the test is whole
    with (tmp_path / "run" / "splits.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 29


def test_leakage_can_stop_the_run(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*flags, "--on-leakage", "fail"]) == 2
    message = capsys.readouterr().err
    assert "--on-leakage fail" in message
    assert "leakage.csv" in message
    assert leaks_of(tmp_path / "run")
    assert not (tmp_path / "run" / "training_history.csv").exists()


def test_groups_on_two_sides_leak_and_are_dropped(
    drawn_clips: Path, quick_flags: list[str], tmp_path: Path
) -> None:
    dataset = Path(shutil.copytree(drawn_clips, tmp_path / "clips"))
    names = [
        "train/violent/violent0.mp4",
        "train/violent/violent1.mp4",
        "test/violent/violent0.mp4",
    ]
    lines = ["clip,group", *(f"{name},camera" for name in names)]
    (dataset / "groups.csv").write_text("\n".join(lines) + "\n")
    flags = ["--dataset-path", str(dataset), *quick_flags, "--on-leakage", "drop"]
    assert main(flags) == 0
    results = results_of(tmp_path / "run")
    assert results["groups_on_two_sides"] == {"camera": ["test", "train"]}
    assert set(names[:2]) <= set(results["clips_left_out_for_leakage"])
    reasons = {leak["clip"]: leak["reason"] for leak in results["leakage"]}
    assert reasons[names[0]] == "same group"


def test_one_file_under_both_labels_and_stills_are_told(
    dataset: Path, flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = dataset / "train" / "nonviolent" / "copied.mp4"
    shutil.copy(dataset / "train" / "violent" / "violent1.mp4", both)
    still = dataset / "val" / "nonviolent" / "still.avi"
    image = read_frames(dataset / "val" / "violent" / "violent1.mp4", 1)[0]
    writer = cv2.VideoWriter(str(still), cv2.VideoWriter.fourcc(*"MJPG"), 12, (224, 224))
    for _ in range(30):
        writer.write(image)
    writer.release()
    assert main(flags) == 0
    screen, results = capsys.readouterr().out, results_of(tmp_path / "run")
    assert "one file under both labels: " in screen
    assert results["one_file_under_both_labels"] == [
        ["train/nonviolent/copied.mp4", "train/violent/violent1.mp4"]
    ]
    assert results["static_clips"] == ["val/nonviolent/still.avi"]
    assert "in 1 clips nothing moves" in screen
    assert "the validation split is small" in screen


def test_weights_that_tell_nothing_apart_are_refused(
    drawn_clips: Path,
    quick_flags: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import h5py

    with h5py.File(tmp_path / "zeros.h5", "w") as file:
        group = file.create_group("block1_conv1")
        group["kernel"], group["bias"] = np.zeros((3, 3, 3, 64)), np.ones(64)
        group.attrs["weight_names"] = [b"kernel", b"bias"]
    flags = ["--dataset-path", str(drawn_clips), *quick_flags]
    assert main([*flags, "--vgg19-weights", str(tmp_path / "zeros.h5")]) == 2
    message = capsys.readouterr().err
    assert "the features of all 28 clips are the same" in message
    assert "--vgg19-weights" in message


# The parts, on features whose likeness is known.


def surveyed(features: np.ndarray, folder: Path, splits: list[str]) -> tuple[dict, object]:
    """Store `(clips, frames, features)` and survey them; return the clips with their rows, too."""
    recipe = Recipe(features.shape[1], "fc2", "md5-0", features.shape[2], "float32")
    contents = [bytes([number // 256, number % 256]) for number in range(len(features))]
    clips = {Clip(Path("/"), f"{n:03d}", n % 2, split): n for n, split in enumerate(splits)}
    with opened_cache(folder, recipe) as cache:
        cache.store(contents, features)
        return clips, survey_features(cache, list(clips.values()))


@pytest.mark.parametrize("size", [2 * SUMMARY_SIZE, 4096])
def test_near_duplicates_are_found_in_bounded_blocks_and_others_are_not(
    size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(0)
    features = np.maximum(0, random.normal(size=(300, 2, size))).astype(np.float32)
    splits = ["train"] * 200 + ["val"] * 50 + ["test"] * 50
    for copy, original in ((250, 3), (299, 199), (210, 20), (260, 240)):
        features[copy] = features[original] * 1.02 + 0.01 * random.normal(size=(2, size))
    features[10] = features[11]  # in one split: no leak
    monkeypatch.setattr("violence_detection.features.leakage.BLOCK", 32)
    clips, survey = surveyed(features, tmp_path, splits)
    leaks = find_leaks(clips, survey)
    assert {(leak.clip.name, leak.repeated.name) for leak in leaks} == {
        *(("003", "250"), ("199", "299"), ("020", "210"), ("240", "260"))
    }
    assert all(leak.reason == NEAR_DUPLICATE and leak.similarity > 0.99 for leak in leaks)
    assert not survey.damaged


def test_still_among_moving_clips(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    features = random.random((20, 8, 16)).astype(np.float32)
    features[7] = features[7, :1] + 1e-4 * random.random((8, 16))
    features[7, 0] += 0.5  # an encoder's first frame is unlike the rest
    clips, survey = surveyed(features, tmp_path, ["train"] * 20)
    assert [clip.name for clip in static_clips(clips, survey)] == ["007"]


def test_one_frame_a_clip_says_nothing_of_stills(tmp_path: Path) -> None:
    clips, survey = surveyed(np.random.default_rng(0).random((9, 1, 4)), tmp_path, ["train"] * 9)
    assert static_clips(clips, survey) == []
    require_varied_features(survey)


def test_same_features_everywhere(tmp_path: Path) -> None:
    _, survey = surveyed(np.ones((9, 2, 4)), tmp_path, ["train"] * 9)
    with pytest.raises(UserError, match="all 9 clips are the same"):
        require_varied_features(survey)


def test_copies_under_one_label_are_no_contradiction() -> None:
    clips = [Clip(Path("/"), str(n), label, "train") for n, label in enumerate((0, 0, 1, 1, 0))]
    rows = dict(zip(clips, (5, 5, 6, 7, 7), strict=True))
    assert contradicting_labels(rows) == [clips[3:]]


@pytest.mark.parametrize(("clips", "told"), [(20, True), (100, True), (400, False)])
def test_validation_that_is_too_small_is_told_with_its_interval(clips: int, told: bool) -> None:
    split = [Clip(Path("/"), str(n), n % 2, "val") for n in range(clips)]
    message = uncertain_validation(split)
    assert bool(message) == told
    if clips == 20:
        assert "from 0.70 to 0.97" in message


def test_damaged_row_is_found(tmp_path: Path) -> None:
    features = np.random.default_rng(0).random((9, 2, 4)).astype(np.float32)
    surveyed(features, tmp_path, ["train"] * 9)
    recipe = Recipe(2, "fc2", "md5-0", 4, "float32")
    with opened_cache(tmp_path, recipe) as cache:
        with cache.path.open("r+b") as file:
            file.seek(4 * cache.row_bytes + 7)
            file.write(b"\xff")
        assert survey_features(cache, range(9)).damaged == [4]
        cache.drop([4])
    with opened_cache(tmp_path, recipe) as again:
        known = [again.row_of(bytes([0, number])) for number in range(9)]
    assert known == [0, 1, 2, 3, None, 5, 6, 7, 8]


def test_threshold_goal_is_stored_and_used_and_can_be_changed_without_training(
    flags: list[str], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert main(flags) == 0
    history = (run / "training_history.csv").read_bytes()
    assert main([*flags, "--threshold-for", "recall=1"]) == 0
    assert (run / "training_history.csv").read_bytes() == history
    detector = json.loads((run / "detector.json").read_text())
    results = results_of(run)
    assert detector["chosen_for"] == results["chosen_for"] == "recall=1"
    for name in ("temperature", "threshold"):
        assert detector[name] == results[name]
    assert results["evaluation"]["threshold"] == detector["threshold"]
    assert results["evaluation_at_0.5"]["threshold"] == 0.5
    (recipe,) = detector["features"]
    assert (recipe["layer"], recipe["stream"]) == ("block1_conv1", "rgb")
    assert detector["frames"] == 16
    config = json.loads((run / "training_config.json").read_text())
    assert config["settings"]["threshold_for"] == "recall=1"
    with (run / "predictions.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            called = float(row["probability"]) >= detector["threshold"] - 1e-6
            assert row["verdict"] == ("violent" if called else "nonviolent")
    intervals = results["evaluation"]["intervals"]
    for name, value in results["evaluation"].items():
        if name in intervals:
            low, high = intervals[name]
            assert low <= value <= high, name
    assert set(intervals) >= {"accuracy", "f1", "roc_auc", "pr_auc", "ece", "brier"}
