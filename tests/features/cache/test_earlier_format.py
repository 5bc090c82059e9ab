"""A cache of the format before parts is taken up: no features are computed again."""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from benchmarks.crash import cached_features
from violence_detection.errors import UserError
from violence_detection.features.cache.earlier_format import MULTIPLIER
from violence_detection.features.cache.feature_cache import FeatureCache, Recipe
from violence_detection.features.cache.folder import CacheFolder, file_stamp
from violence_detection.features.cache.parts import as_keys
from violence_detection.features.cache.rows import row_checksum
from violence_detection.storage.files import file_checksum

RECIPE = Recipe(frames=2, layer="fc2", weights="md5-0", features=4, dtype="float32")
ROW = [("key", ">u8", 2), ("checksum", "<u4"), ("seconds", "<f4"), ("share", "<f4")]
FILE = [("key", ">u8", 2), ("stamp", "<i8", 3), ("clip", "V16"), ("unused", "<u4")]


def write_index(path: Path, records: np.ndarray, damaged: int | None = None) -> None:
    """Write records as that format had them: each with a checksum over it and its position."""
    words = records.view("<u8").reshape(len(records), -1)
    mixed = np.arange(len(records), dtype=np.uint64) + np.uint64(3)
    for number, column in enumerate(words.T):
        mixed ^= column & np.uint64(0xFFFFFFFF) if number == words.shape[1] - 1 else column
        mixed *= MULTIPLIER
        mixed ^= mixed >> np.uint64(32)
    records["check"] = (mixed >> np.uint64(32)).astype(np.uint32)
    if damaged is not None:
        records["checksum"][damaged] ^= 1
    path.write_bytes((b"VDFC\0\0\0\3" + b"{}").ljust(4095) + b"\n" + records.tobytes())


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Return a cache with the features of a clip, and those of two, one damaged, in a shard."""
    clip = tmp_path / "clip.mp4"
    clip.write_text("a clip")
    folder = tmp_path / "cache"
    contents = [[file_checksum(clip)], [b"second", b"third"]]
    for number, (place, own) in enumerate(zip((folder, folder / "shard_2"), contents, strict=True)):
        place.mkdir()
        rows = np.full((len(own), 2, 4), number, np.float32)
        rows[1:] += 1
        (place / f"{RECIPE.key}.features").write_bytes(rows.tobytes())
        records = np.zeros(len(own), [*ROW, ("check", "<u4")])
        records["key"], records["seconds"], records["share"] = as_keys(own), 2, 1
        records["checksum"] = [row_checksum(row) for row in rows]
        write_index(place / f"{RECIPE.key}.index", records, damaged=None if number == 0 else 1)
        (place / ".lock").touch()
    files = np.zeros(1, [*FILE, ("check", "<u4")])
    files["key"] = as_keys([file_key(clip)])
    files["stamp"], files["clip"] = file_stamp(clip), np.void(contents[0][0])
    write_index(folder / "files.index", files)
    (folder / "shard_2" / "bad_clips.json").write_text("{}")
    return folder


def file_key(path: Path) -> bytes:
    return hashlib.blake2b(os.fsencode(path), digest_size=16).digest()


def test_cache_of_the_earlier_format_is_taken_up_once(cache: Path, tmp_path: Path) -> None:
    for _ in range(2):
        with CacheFolder(cache) as folder:
            (content,) = folder.known_contents([tmp_path / "clip.mp4"])
            assert content == file_checksum(tmp_path / "clip.mp4")
            features = FeatureCache(folder, RECIPE)
            rows = features.rows_of([content, b"second", b"third"]).tolist()
            assert rows[2] < 0
            assert features.rows().read(rows[:2])[:, 0, 0].tolist() == [0, 1]
            assert features.facts_of(rows[:1])[0].tolist() == [2]
    assert {path.name for path in cache.iterdir()} == {"files", RECIPE.key, ".lock"}
    assert len(cached_features(cache)) == 3  # the row that is nobody's, too


def test_two_processes_take_it_up_at_once(cache: Path) -> None:
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(lambda _: CacheFolder(cache), range(2)))
    assert len(cached_features(cache)) == 3


def test_reader_that_writes_nothing_leaves_it(cache: Path) -> None:
    before = sorted(cache.rglob("*"))
    with pytest.raises(UserError, match="not a feature cache"):
        CacheFolder(cache, writable=False)
    assert sorted(cache.rglob("*")) == before
