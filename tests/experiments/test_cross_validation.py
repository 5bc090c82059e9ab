import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.conftest import SHORT
from train_rtx5000_dual_optimized import main
from violence_detection.clips.clip import Clip
from violence_detection.experiments.cross_validation import (
    CSV,
    JSON,
    PAGE,
    PLOT,
    HeldOut,
    as_table,
    cross_validate,
    run_cross_validation,
    summarize,
    write_summary,
)
from violence_detection.features.cache.rows import FeatureRows
from violence_detection.runs.directory import RunDirectory
from violence_detection.runtime.cluster import Cluster
from violence_detection.runtime.devices import Precision, find_devices, make_strategy
from violence_detection.runtime.hardware import HardwareMonitor, hardware_source
from violence_detection.runtime.machine import Machine
from violence_detection.runtime.worker import Worker
from violence_detection.settings.parser import parse_settings
from violence_detection.settings.schema import Settings
from violence_detection.training import callbacks
from violence_detection.training.batches import ClipFeatures
from violence_detection.training.callbacks import write_models_of_last_epoch
from violence_detection.training.splits import Splits
from violence_detection.training.trainer import Trainer

Store = Callable[..., FeatureRows]
Found = list[tuple[np.ndarray, HeldOut]]


def grouped_clips(groups: int, of_each: int) -> list[Clip]:
    """Return clips of both classes in every group."""
    return [
        Clip(Path("/"), f"{group}_{n}", n % 2, "train", f"source {group}")
        for group in range(groups)
        for n in range(of_each)
    ]


def quick_settings(*flags: str) -> Settings:
    return parse_settings(
        [
            *("--dataset-path", ".", "--vgg19-weights", "random", "--warmup-epochs", "1"),
            *("--units", "16", "--projection", "16", "--batch-size", "16", "--head", "mean"),
            *("--folds", "1", *flags),
        ]
    )


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    devices = find_devices(1)
    with HardwareMonitor(hardware_source([])) as monitor:
        yield Machine(
            *(Cluster(Worker()), devices, make_strategy(devices, 16)),
            *(Precision("float32", "float32", "it is the same everywhere"), monitor, []),
            *(tmp_path / "native.log", False),
        )


def made_splits(store: Store, groups: int, labels: np.ndarray) -> Splits:
    """Return splits of clips of which every second one has larger features.

    Args:
        store: puts features into a file.
        groups: number of groups, of four clips each.
        labels: `(4 * groups,)` 0 or 1.
    """
    random = np.random.default_rng(0)
    features = np.abs(random.standard_normal((4 * groups, 4, 6))).astype(np.float32)
    features[1::2] += 2
    numbers = np.arange(4 * groups)
    clips = ClipFeatures([store(features)], numbers, labels, groups=numbers // 4)
    train, val = clips.select(slice(-4)), clips.select(slice(-4, None))
    return Splits(clips, train, val, None, clips.select(slice(0)), (1.0, 1.0), {"clips": "abc"})


def held_out(probabilities: np.ndarray, threshold: float = 0.5, raw: float = 0.0) -> HeldOut:
    """Return a fold with these results; uncalibrated, its probabilities were higher by `raw`."""
    return HeldOut(
        probabilities=probabilities.tolist(),
        uncalibrated=(probabilities + raw).tolist(),
        threshold=threshold,
        temperature=1.0,
        validation_clips=9,
        promised_accuracy=0.875,
        promised_roc_auc=None,
    )


def found_by(probabilities: np.ndarray, fold_of: np.ndarray) -> Found:
    """Return the folds of a cross-validation with these results."""
    return [
        (np.flatnonzero(fold_of == fold), held_out(probabilities[fold_of == fold]))
        for fold in range(fold_of.max() + 1)
    ]


def test_precision_is_undefined_if_no_clip_is_predicted_violent(tmp_path: Path) -> None:
    """Precision is then undefined, in each fold and over all clips."""
    clips = grouped_clips(10, 4)
    found = found_by(np.linspace(0, 0.4, len(clips)), np.arange(len(clips)) % 4 // 2)
    summary = summarize(clips, found, seed=0)
    assert summary["mean"]["precision"] is None
    assert "precision" in as_table(summary) and "n/a" in as_table(summary)
    write_summary({}, clips, found, summary, tmp_path)
    assert (tmp_path / PLOT).exists()


def test_summary_of_a_right_and_a_wrong_fold(tmp_path: Path) -> None:
    clips = grouped_clips(10, 4)
    fold_of = np.arange(len(clips)) // 4 % 2
    right = np.array([clip.label for clip in clips], float)
    found = found_by(np.where(fold_of == 0, right, 1 - right), fold_of)
    summary = summarize(clips, found, seed=0)
    assert [fold["accuracy"] for fold in summary["folds"]] == [1, 0]
    assert summary["mean"]["accuracy"] == 0.5
    assert summary["deviation"]["accuracy"] == pytest.approx(math.sqrt(0.5))
    assert summary["pooled"]["accuracy"] == 0.5
    assert summary["mean"]["promised_accuracy"] == 0.875
    assert summary["mean"]["promised_roc_auc"] is None
    write_summary({}, clips, found, summary, tmp_path)
    lines = (tmp_path / CSV).read_text().splitlines()
    assert lines[:2] == [
        "clip,label,group,fold,probability,predicted",
        "0_0,nonviolent,source 0,1,0.000000,nonviolent",
    ]
    assert cv2.imread(str(tmp_path / PLOT)).shape[:2] == (600, 1320)


def test_each_fold_predicts_at_its_own_threshold(tmp_path: Path) -> None:
    clips = grouped_clips(10, 4)
    fold_of = np.arange(len(clips)) // 4 % 2
    scores = np.array([0.6 if clip.label else 0.4 for clip in clips])
    first, second = (np.flatnonzero(fold_of == fold) for fold in (0, 1))
    found = [
        (first, held_out(scores[first] - 0.3, threshold=0.2, raw=0.3)),
        (second, held_out(scores[second] + 0.3, threshold=0.8, raw=-0.3)),
    ]
    summary = summarize(clips, found, seed=0)
    assert [fold["accuracy"] for fold in summary["folds"]] == [1, 1]
    assert summary["pooled"]["accuracy"] == 1
    assert summary["uncalibrated"]["accuracy"] == 1  # at 0.5
    write_summary({}, clips, found, summary, tmp_path)
    rows = [line.split(",") for line in (tmp_path / CSV).read_text().splitlines()[1:]]
    assert all(label == predicted for _, label, _, _, _, predicted in rows)
    assert ",yes" not in (tmp_path / "label_issues.csv").read_text()


def test_labels_that_can_be_learned_are_predicted_and_shuffled_ones_are_not(
    stored_features: Store, machine: Machine, tmp_path: Path
) -> None:
    """Though classifiers fit them: every choice is made without the held-out clips."""
    clips = grouped_clips(20, 4)
    labels = np.array([clip.label for clip in clips])
    settings = quick_settings("--epochs", "12", "--learning-rate", "0.01")
    splits = made_splits(stored_features, 20, labels)
    run_cross_validation(settings, splits, clips, 2, machine, tmp_path)
    written = json.loads((tmp_path / JSON).read_text())
    assert written["pooled"]["roc_auc"] > 0.95
    assert written["pooled"]["accuracy"] > 0.9
    assert len(written["folds"]) == 2
    assert all(fold["promised_accuracy"] > 0.8 for fold in written["folds"])
    assert written["mean"]["promised_roc_auc"] > 0.9
    left = {path.name for path in tmp_path.iterdir() if "cross_validation" in path.name}
    assert left == {JSON, CSV, PLOT, PAGE}
    assert len((tmp_path / "label_issues.csv").read_text().splitlines()) == 81
    assert "Suspect labels" in (tmp_path / PAGE).read_text()

    splits = made_splits(stored_features, 20, np.random.default_rng(0).permutation(labels))
    found = cross_validate(settings, splits, 2, machine, tmp_path / "shuffled")
    right = [
        (np.array(fold.probabilities) >= fold.threshold) == splits.all_clips.labels[indices]
        for indices, fold in found
    ]
    assert 0.25 < np.concatenate(right).mean() < 0.75


class Killed(BaseException):
    """Ends a training as if its process was killed."""


def same(found: Found, expected: Found) -> bool:
    return all(
        np.array_equal(ours, theirs)
        and of_ours.probabilities == pytest.approx(of_theirs.probabilities, abs=1e-6)
        and of_ours.temperature == pytest.approx(of_theirs.temperature, abs=1e-6)
        and of_ours.threshold == of_theirs.threshold
        for (ours, of_ours), (theirs, of_theirs) in zip(found, expected, strict=True)
    )


def test_killed_cross_validation_resumes_and_other_settings_start_over(
    stored_features: Store, machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after the first epoch of the second fold."""
    splits = made_splits(stored_features, 6, np.arange(24) % 2)
    settings = quick_settings("--epochs", "2")
    finished: list[tuple[str, int]] = []

    def record(run: RunDirectory, trainer: Trainer) -> None:
        write_models_of_last_epoch(run, trainer)
        finished.append((run.folder.name, len(run.history)))
        if len(finished) == 3:
            raise Killed

    def validate(name: str, with_settings: Settings = settings) -> Found:
        return cross_validate(with_settings, splits, 2, machine, tmp_path / name)

    expected = validate("undisturbed")
    monkeypatch.setattr(callbacks, "write_models_of_last_epoch", record)
    with pytest.raises(Killed):
        validate("killed")
    resumed = validate("killed")
    assert finished == [(f"fold_{fold}", epoch) for fold in (1, 2) for epoch in (1, 2)]
    assert same(resumed, expected)

    assert same(validate("killed"), expected)  # as if killed before the results were written
    assert len(finished) == 4
    finished[:] = finished[:2]
    with pytest.raises(Killed):
        validate("killed", settings.replace(learning_rate=0.01))
    assert finished[2:] == [("fold_1", 1)]


@pytest.mark.slow
@pytest.mark.usefixtures("features_before")
def test_cross_validation_from_the_command_line(
    flags: list[str], run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It uses all clips, and a run can use the same folder."""
    flags = [*flags, *SHORT]
    assert main([*flags, "--cross-validate", "2"]) == 0
    output = capsys.readouterr().out
    assert "fold 2 of 2" in output
    assert "2 folds, 28 clips, 28 groups" in output
    table = [line for line in output.splitlines() if "±" in line]
    assert len(table) == 9 and max(map(len, table)) <= 80
    written = json.loads((run / "cross_validation.json").read_text())
    assert sum(fold["clips"] for fold in written["folds"]) == 28
    assert not (run / "best_model.keras").exists()
    assert not (run / "cross_validation").exists()
    assert "No frames" not in (run / "cross_validation.html").read_text()
    assert main(flags) == 0
