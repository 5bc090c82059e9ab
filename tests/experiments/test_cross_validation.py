import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from train_rtx5000_dual_optimized import main
from violence_detection.clips.clip import Clip
from violence_detection.errors import UserError
from violence_detection.experiments.cross_validation import (
    CSV,
    PLOT,
    as_table,
    cross_validate,
    folds,
    summarize,
    write_summary,
)
from violence_detection.features.cache.feature_cache import FeatureRows
from violence_detection.settings.parser import parse_settings
from violence_detection.settings.schema import Settings
from violence_detection.training.batches import ClipFeatures


def grouped_clips(groups: int, of_each: int) -> list[Clip]:
    """Return clips of both classes in every group."""
    return [
        Clip(Path("/"), f"{group}_{n}", n % 2, "train", f"source {group}")
        for group in range(groups)
        for n in range(of_each)
    ]


def quick_settings(*flags: str) -> Settings:
    common = ("--dataset-path", ".", "--vgg19-weights", "random", "--epochs", "6")
    return parse_settings([*common, "--warmup-epochs", "1", "--batch-size", "16", *flags])


def separable_by_change(clips: list[Clip], random: np.random.Generator) -> np.ndarray:
    """Return `(clips, 4, 6)` float32 features; those of violent clips change more."""
    features = np.abs(random.standard_normal((len(clips), 4, 6))).astype(np.float32)
    still = np.repeat(features[:, :1], 4, axis=1) + 0.1 * features
    violent = np.array([clip.label for clip in clips], bool)[:, None, None]
    return np.where(violent, features, still).astype(np.float32)


def test_every_clip_is_held_out_once_and_its_group_with_it() -> None:
    clips = grouped_clips(12, 6)
    splits = folds(clips, 4, seed=0)
    held_out = np.concatenate([part for _, part in splits])
    assert sorted(held_out) == list(range(len(clips)))
    for train, part in splits:
        groups = [{clips[index].group for index in side} for side in (train, part)]
        assert not groups[0] & groups[1]
        assert {clips[index].label for index in part} == {0, 1}


def test_copies_of_a_file_are_held_out_together() -> None:
    """Also where that joins two groups."""
    clips = grouped_clips(12, 6)
    rows = np.arange(len(clips))
    rows[6] = rows[0]  # of groups 0 and 1
    for train, held_out in folds(clips, 4, seed=0, rows=rows):
        for side in (train, held_out):
            names = {clips[index].group for index in side}
            assert ("source 0" in names) == ("source 1" in names)


def test_precision_is_undefined_if_no_clip_is_predicted_violent(tmp_path: Path) -> None:
    """Precision is then undefined, in each fold and over all clips."""
    clips = grouped_clips(10, 4)
    fold_of = np.arange(len(clips)) % 4 // 2
    probabilities = np.linspace(0, 0.4, len(clips), dtype=np.float32)
    summary = summarize(clips, probabilities, fold_of, seed=0)
    assert summary["mean"]["precision"] is None
    assert "precision" in as_table(summary) and "n/a" in as_table(summary)
    write_summary({}, clips, probabilities, fold_of, summary, tmp_path)
    assert (tmp_path / PLOT).exists()


def test_more_folds_than_groups_are_refused_with_what_is_possible() -> None:
    with pytest.raises(UserError, match=r"--cross-validate 5: only 3 groups .* at most 3"):
        folds(grouped_clips(3, 4), 5, seed=0)


def test_held_out_clips_are_predicted_by_models_not_trained_on_them(
    stored_features: Callable[[np.ndarray], FeatureRows],
) -> None:
    """Meaningful labels are predicted; shuffled labels are not, though models fit them."""
    random = np.random.default_rng(0)
    clips = grouped_clips(20, 4)
    labels = np.array([clip.label for clip in clips])
    rows = stored_features(separable_by_change(clips, random))
    features = ClipFeatures([rows], range(len(clips)), labels)
    settings = quick_settings("--epochs", "25", "--units", "16", "--projection", "16")
    probabilities, fold_of = cross_validate(settings, features, clips, 3, "float32")
    summary = summarize(clips, probabilities, fold_of, seed=0)
    assert summary["pooled"]["roc_auc"] > 0.9
    assert len(summary["folds"]) == 3
    shuffled = random.permutation(labels)
    features = ClipFeatures([rows], range(len(clips)), shuffled)
    probabilities, _ = cross_validate(settings, features, clips, 2, "float32")
    assert 0.25 < ((probabilities >= 0.5) == shuffled).mean() < 0.75


def test_summary_of_a_right_and_a_wrong_fold(tmp_path: Path) -> None:
    clips = grouped_clips(10, 4)
    fold_of = np.arange(len(clips)) // 4 % 2
    right = np.array([clip.label for clip in clips], np.float32)
    probabilities = np.where(fold_of == 0, right, 1 - right).astype(np.float32)
    summary = summarize(clips, probabilities, fold_of, seed=0)
    assert [fold["accuracy"] for fold in summary["folds"]] == [1, 0]
    assert summary["mean"]["accuracy"] == 0.5
    assert summary["deviation"]["accuracy"] == pytest.approx(np.sqrt(0.5))
    assert summary["pooled"]["accuracy"] == 0.5
    write_summary({}, clips, probabilities, fold_of, summary, tmp_path)
    lines = (tmp_path / CSV).read_text().splitlines()
    assert lines[0] == "clip,label,group,fold,probability"
    assert lines[1] == "0_0,nonviolent,source 0,1,0.000000"
    assert cv2.imread(str(tmp_path / PLOT)).shape[:2] == (600, 1320)


@pytest.mark.slow
@pytest.mark.usefixtures("features_before")
def test_cross_validation_from_the_command_line(
    flags: list[str], run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It uses all clips, and a run can use the same folder."""
    flags = [*flags, "--epochs", "2"]
    assert main([*flags, "--cross-validate", "2"]) == 0
    output = capsys.readouterr().out
    assert "fold 2 of 2" in output
    assert "2 folds, 28 clips, 28 groups" in output
    table = [line for line in output.splitlines() if "±" in line]
    assert len(table) == 9 and max(map(len, table)) <= 80
    written = json.loads((run / "cross_validation.json").read_text())
    assert sum(fold["clips"] for fold in written["folds"]) == 28
    assert not (run / "best_model.keras").exists()
    assert main(flags) == 0
