import csv
from pathlib import Path

import numpy as np
import pytest

from violence_detection.clips.clip import Clip
from violence_detection.features.leakage import (
    NEAR_DUPLICATE,
    SAME_GROUP,
    Leak,
    find_leaks,
    write_leaks,
)
from violence_detection.features.survey import SUMMARY_SIZE, Survey


def survey_of(summaries: np.ndarray) -> Survey:
    index_of = {row: row for row in range(len(summaries))}
    ones = np.ones(len(summaries), np.float32)
    return Survey([], index_of, summaries, ones, ones, ones)


@pytest.mark.parametrize("block", [32, 2048])
def test_near_duplicates_in_other_splits_are_found_in_any_block(block: int) -> None:
    random = np.random.default_rng(0)
    summaries = np.maximum(0, random.normal(size=(300, SUMMARY_SIZE))).astype(np.float32)
    splits = ["train"] * 200 + ["val"] * 50 + ["test"] * 50
    for copy, original in ((250, 3), (299, 199), (210, 20), (260, 240)):
        noise = 0.01 * random.normal(size=SUMMARY_SIZE)
        summaries[copy] = summaries[original] * 1.02 + noise
    summaries[10] = summaries[11]  # in one split: no leak
    clips = {Clip(Path("/"), f"{n:03d}", n % 2, split): n for n, split in enumerate(splits)}
    leaks = find_leaks(clips, survey_of(summaries), block)
    assert {(leak.clip.name, leak.repeated.name) for leak in leaks} == {
        *(("003", "250"), ("199", "299"), ("020", "210"), ("240", "260"))
    }
    assert all(leak.reason == NEAR_DUPLICATE and leak.similarity > 0.99 for leak in leaks)
    assert leaks == sorted(leaks, key=lambda leak: -leak.similarity)


def test_group_in_several_splits_is_found() -> None:
    groups = [("train", "a"), ("train", "a"), ("test", "a"), ("val", "b"), ("val", "b")]
    clips = {Clip(Path("/"), str(n), 0, split, group): n for n, (split, group) in enumerate(groups)}
    summaries = np.random.default_rng(0).normal(size=(5, 16)).astype(np.float32)
    leaks = find_leaks(clips, survey_of(summaries))
    assert [(leak.clip.name, leak.repeated.name) for leak in leaks] == [("0", "2"), ("1", "2")]
    assert {leak.reason for leak in leaks} == {SAME_GROUP}


def test_leaks_are_written_and_an_earlier_file_is_removed(tmp_path: Path) -> None:
    clips = [Clip(tmp_path, "a.mp4", 0, "train"), Clip(tmp_path, "b.mp4", 0, "test")]
    path = tmp_path / "leakage.csv"
    leaks = [Leak(*clips, 0.99871, NEAR_DUPLICATE), Leak(*clips, None, SAME_GROUP)]
    write_leaks(leaks, path)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["similarity"], row["reason"]) for row in rows] == [
        *(("0.9987", "near duplicate"), ("", "same group"))
    ]
    assert {
        (row["split"], row["clip"], row["repeated_in"], row["repeated_clip"]) for row in rows
    } == {("train", str(tmp_path / "a.mp4"), "test", str(tmp_path / "b.mp4"))}
    write_leaks([], path)
    assert not path.exists()
