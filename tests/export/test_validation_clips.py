import csv
import shutil
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from tests.inference.test_detector import TIMEOUT
from violence_detection.clips.clip import Clip
from violence_detection.clips.locations import Locations
from violence_detection.errors import UserError
from violence_detection.export.validation_clips import (
    Sources,
    cached_features,
    clips_of_split,
    load_features,
    load_inputs,
    sample_evenly,
)
from violence_detection.features.cache.folder import CacheFolder, file_stamp
from violence_detection.features.cache.lookup import known_contents
from violence_detection.inference.detector import Detector, load_detector


@pytest.fixture(scope="module")
def detector(trained: Path) -> Detector:
    return load_detector(trained / "run")


@pytest.fixture
def cache(trained: Path, tmp_path: Path) -> Path:
    """Return a copy of the run's cache, to be changed."""
    return Path(shutil.copytree(trained / "cache", tmp_path / "cache"))


def at(dataset: Path) -> Locations:
    return Locations(dataset.resolve(), (Path(), 1.0), ExitStack())


def validation(detector: Detector, dataset: Path) -> list[Clip]:
    return clips_of_split(detector.checkpoint_dir, "val", at(dataset))


def clip_of(number: int, label: int) -> Clip:
    return Clip(Path(), f"{number}.mp4", label, "val")


def test_clips_are_those_of_the_runs_split(detector: Detector, drawn_clips: Path) -> None:
    with (detector.checkpoint_dir / "splits.csv").open(newline="") as file:
        expected = [row for row in csv.DictReader(file) if row["split"] == "val"]
    clips = validation(detector, drawn_clips)
    assert [clip.name for clip in clips] == [row["clip"] for row in expected]
    assert [clip.label for clip in clips] == [int(row["label"] == "violent") for row in expected]
    assert all(clip.path.is_file() for clip in clips)


@pytest.mark.parametrize("count", [1, 2, 7, 20, 39])
def test_chosen_clips_have_their_share_of_each_class(count: int) -> None:
    clips = [clip_of(number, label=int(number % 4 == 0)) for number in range(40)]
    chosen = sample_evenly(clips, count)
    assert len(chosen) == count
    assert chosen == [clip for clip in clips if clip in chosen]
    violent = Counter(clip.label for clip in chosen)[1]
    assert violent == pytest.approx(count / 4, abs=1)
    assert (
        sample_evenly(clips, None) == sample_evenly(clips, 40) == sample_evenly(clips, 99) == clips
    )


def test_features_are_those_of_the_cache_also_when_the_clips_are_gone(
    detector: Detector, drawn_clips: Path, cache: Path, tmp_path: Path
) -> None:
    clips = validation(detector, drawn_clips)
    cached = cached_features(detector, clips, cache)
    assert list(cached) == clips
    assert {features.shape for features in cached.values()} == {(4, 2 * 64)}
    moved = Path(shutil.copytree(drawn_clips, tmp_path / "moved"))
    moved_clips = validation(detector, moved)
    again = cached_features(detector, moved_clips, cache)
    np.testing.assert_array_equal(list(again.values()), list(cached.values()))
    with CacheFolder(cache) as folder:  # as a run on them would
        for clip, content in zip(moved_clips, known_contents(clips, folder), strict=True):
            assert content is not None
            folder.remember_file(clip.path, file_stamp(clip.path), content)
    shutil.rmtree(moved)
    gone = cached_features(detector, moved_clips, cache)
    np.testing.assert_array_equal(list(gone.values()), list(cached.values()))


def test_features_that_are_not_in_the_cache_or_damaged_are_computed(
    detector: Detector, drawn_clips: Path, cache: Path, tmp_path: Path
) -> None:
    clips = validation(detector, drawn_clips)[:3]
    elsewhere = Sources(tmp_path / "no_cache", at(drawn_clips), TIMEOUT)
    used, computed = load_features(detector, clips, elsewhere)
    assert used == clips
    assert not elsewhere.cache_dir.exists()
    expected = np.stack(list(cached_features(detector, clips, cache).values()))
    np.testing.assert_allclose(computed, expected, rtol=2e-3, atol=1e-3)
    for rows in cache.glob("*/*.rows"):
        rows.write_bytes(bytes(rows.stat().st_size))
    assert cached_features(detector, clips, cache) == {}
    recomputed = load_features(detector, clips, Sources(cache, at(drawn_clips), TIMEOUT))[1]
    np.testing.assert_array_equal(recomputed, computed)


def test_an_unreadable_clip_is_skipped(
    detector: Detector, drawn_clips: Path, tmp_path: Path
) -> None:
    dataset = Path(shutil.copytree(drawn_clips, tmp_path / "clips"))
    bad, *good = validation(detector, dataset)
    bad.path.write_bytes(b"hello" * 99)
    sources = Sources(tmp_path / "no_cache", at(dataset), TIMEOUT)
    for end_to_end in (False, True):
        clips, inputs = load_inputs(detector, "val", None, sources, end_to_end)
        assert clips == good
        shapes = {name: values.shape for name, values in inputs[0].items()}
        images = (1, 4, 224, 224, 3)
        streams = {"difference": images, "flow": images}
        assert shapes == (streams if end_to_end else {"features": (1, 4, 2 * 64)})


@pytest.mark.parametrize("end_to_end", [False, True])
def test_error_names_the_missing_clips_and_the_flag(
    detector: Detector, tmp_path: Path, end_to_end: bool
) -> None:
    sources = Sources(tmp_path / "no_cache", at(tmp_path / "no_clips"), TIMEOUT)
    with pytest.raises(UserError, match=r"no_clips.*--dataset-path"):
        load_inputs(detector, "train", None, sources, end_to_end)


def test_error_names_a_missing_list_of_clips(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"splits\.csv.*restore"):
        clips_of_split(tmp_path, "val", at(tmp_path))
