"""Whole runs on a dataset without groups.csv and without split folders."""

import csv
import io
import re
import shutil
from collections import defaultdict
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.conftest import SHORT, quick_flags_in, results_of
from train_rtx5000_dual_optimized import main

SOURCES, CLIPS_OF_EACH = 6, 4


def draw_clips(folder: Path) -> dict[str, int]:
    """Draw clips of six places, under names that say nothing; return the place of each."""
    random = np.random.default_rng(3)
    names = iter(random.permutation([f"{a}{b}" for a in "abcdef" for b in "ghij"]).tolist())
    place_of = {}
    for place in range(SOURCES):
        background = random.integers(0, 180) + 70 * random.random((6, 8, 3))
        background = cv2.resize(background * random.random(3), (96, 72))
        for number in range(CLIPS_OF_EACH):
            kind = ("violent", "nonviolent")[number % 2]
            (folder / kind).mkdir(parents=True, exist_ok=True)
            place_of[name := f"{kind}/{next(names)}.avi"] = place
            codec = cv2.VideoWriter.fourcc(*"MJPG")
            writer = cv2.VideoWriter(str(folder / name), codec, 8, (96, 72))
            for step in range(8):
                image = background.astype(np.uint8)
                left, top = 10 * step, 8 * number + (step % 2) * 10 * (number % 2)
                cv2.rectangle(image, (left, top), (left + 8, top + 16), (255, 255, 255), -1)
                writer.write(image)
            writer.release()
    return place_of


@dataclass(frozen=True)
class Grouped:
    flags: list[str]
    run: Path
    screen: str
    place_of: dict[str, int]


@pytest.fixture(scope="module")
def grouped(tmp_path_factory: pytest.TempPathFactory) -> Grouped:
    folder = tmp_path_factory.mktemp("grouped")
    place_of = draw_clips(folder / "clips")
    flags = ["--dataset-path", str(folder / "clips"), *quick_flags_in(folder)]
    flags += [*SHORT, "--groups", "auto", "--report"]
    with redirect_stdout(io.StringIO()) as screen:
        assert main(flags) == 0
    return Grouped(flags, folder / "run", screen.getvalue(), place_of)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_clips_of_one_place_are_proposed_and_stay_on_one_side(grouped: Grouped) -> None:
    places, splits = defaultdict(set), defaultdict(set)
    for row in rows(grouped.run / "groups_proposed.csv"):
        places[row["group"]].add(grouped.place_of[row["clip"]])
    assert sorted(map(len, places.values())) == [1] * SOURCES
    for row in rows(grouped.run / "splits.csv"):
        splits[grouped.place_of[row["clip"]]].add(row["split"])
    assert all(len(found) == 1 for found in splits.values())


def test_what_is_proposed_is_shown(grouped: Grouped) -> None:
    assert re.search(r"proposed 6 groups for 24 of 24 clips \(by picture 6\)", grouped.screen)
    assert "groups_proposed.csv; --groups none turns this off" in grouped.screen
    words = results_of(grouped.run)["clips_and_groups"]
    assert words.startswith("24 clips, 6 groups (proposed")
    assert words in grouped.screen
    assert words in (grouped.run / "report.html").read_text()


def test_run_is_resumed_in_its_splits(grouped: Grouped, tmp_path: Path) -> None:
    """Groups are those of the run, also where none would be proposed any more."""
    for name in ("cache", "run"):
        shutil.copytree(grouped.run.parent / name, tmp_path / name)
    flags = [*grouped.flags, *quick_flags_in(tmp_path)[:4]]
    (tmp_path / "run" / "training_results.json").unlink()
    before = (tmp_path / "run" / "splits.csv").read_bytes()
    with redirect_stdout(io.StringIO()) as screen:
        assert main(flags) == 0
    assert "proposed 6 groups" not in screen.getvalue()
    assert results_of(tmp_path / "run")["evaluation"] == results_of(grouped.run)["evaluation"]
    assert (tmp_path / "run" / "splits.csv").read_bytes() == before
