import logging
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import opened_cache
from violence_detection.features.cache import merging
from violence_detection.features.cache.feature_cache import FeatureCache, Recipe
from violence_detection.features.cache.folder import CacheFolder
from violence_detection.features.cache.merging import merge_small_parts, open_parts
from violence_detection.features.cache.parts import (
    NO_KEY,
    ROW_FIELDS,
    KeysFile,
    RecordIndex,
    as_keys,
    part_names,
    record_type,
    write_keys,
)

RECIPE = Recipe(frames=2, layer="fc2", weights="md5-0", features=4, dtype="float32")


def write(path: Path, keys: list[bytes], first: int = 0) -> None:
    """Write a part without rows whose records have successive numbers as their checksums."""
    records = np.zeros(len(keys), record_type(ROW_FIELDS))
    records["key"], records["checksum"] = as_keys(keys), np.arange(first, first + len(keys))
    write_keys(path, "a test", records)


@given(st.lists(st.lists(st.integers(0, 40), max_size=150), max_size=4))
@settings(max_examples=60, deadline=None)
def test_each_key_has_its_newest_record(tmp_path_factory: object, parts: list[list[int]]) -> None:
    """Keys that differ in their last bytes only are told apart."""
    folder = tmp_path_factory.mktemp("parts")
    newest, count = {}, 0
    for number, keys in enumerate(parts):
        write(folder / f"{number}.keys", [key.to_bytes(16) for key in keys], count)
        newest |= {key: count + at for at, key in enumerate(keys)}
        count += len(keys)
    index = RecordIndex([keys for keys, _ in open_parts(folder, ROW_FIELDS)], ROW_FIELDS)
    positions = index.find(as_keys(key.to_bytes(16) for key in range(50)))
    found = {key: at for key, at in enumerate(positions.tolist()) if at >= 0}
    assert found == newest
    wanted = positions[positions >= 0]
    assert index.records(wanted)["checksum"].tolist() == wanted.tolist()


def test_row_that_is_nobodys_is_not_found(tmp_path: Path) -> None:
    records = np.zeros(3, record_type(ROW_FIELDS))
    records["key"] = as_keys([b"one", b"two", b"three"])
    records["key"][1] = NO_KEY
    write_keys(tmp_path / "a.keys", "a test", records)
    index = RecordIndex([KeysFile(tmp_path / "a.keys", ROW_FIELDS)], ROW_FIELDS)
    assert index.find(as_keys([b"one", b"two", b"three"])).tolist() == [0, -1, 2]


@pytest.mark.parametrize("at", [0, 5, 20, 4096, -1])
def test_damaged_part_is_left_out_with_a_warning(
    tmp_path: Path, at: int, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path / "a.keys", [b"one"])
    write(tmp_path / "b.keys", [b"two"])
    data = bytearray((tmp_path / "b.keys").read_bytes())
    data[at] ^= 0xFF
    (tmp_path / "b.keys").write_bytes(data)
    index = RecordIndex([keys for keys, _ in open_parts(tmp_path, ROW_FIELDS)], ROW_FIELDS)
    assert index.find(as_keys([b"one", b"two"])).tolist() == [0, -1]
    assert "ignoring the damaged part" in caplog.text


# Merging.


def filled(folder: Path, parts: int) -> None:
    """Write parts of two clips each, whose features are their number; the second one is in all."""
    with opened_cache(folder, RECIPE) as cache:
        for number in range(parts):
            values = np.array([number, 100 + number], np.float32)
            clips = [number.to_bytes(16), (99).to_bytes(16)]
            cache.store(clips, np.broadcast_to(values[:, None, None], (2, 2, 4)))
            cache.commit()


def values_in(folder: Path, count: int) -> list[float]:
    with CacheFolder(folder, writable=False) as opened:
        cache = FeatureCache(opened, RECIPE)
        rows = cache.rows_of([n.to_bytes(16) for n in (*range(count), 99)])
        return cache.rows().read(rows[rows >= 0].tolist())[:, 0, 0].tolist()


def test_many_small_parts_become_one_that_has_the_newest_rows(tmp_path: Path) -> None:
    filled(tmp_path, merging.MANY - 1)
    merge_small_parts(tmp_path / RECIPE.key, ROW_FIELDS, RECIPE.row_bytes)
    assert len(part_names(tmp_path / RECIPE.key)) == merging.MANY - 1
    filled(tmp_path, merging.MANY)
    expected = [*map(float, range(merging.MANY)), 100.0 + merging.MANY - 1]
    with CacheFolder(tmp_path, writable=False) as folder:
        before = FeatureCache(folder, RECIPE)
    merge_small_parts(tmp_path / RECIPE.key, ROW_FIELDS, RECIPE.row_bytes)
    assert len(part_names(tmp_path / RECIPE.key)) == 1
    assert len(list((tmp_path / RECIPE.key).iterdir())) == 2
    assert values_in(tmp_path, merging.MANY) == expected
    # Who had opened them before goes on reading.
    rows = before.rows_of([n.to_bytes(16) for n in (*range(merging.MANY), 99)]).tolist()
    assert before.rows().read(rows)[:, 0, 0].tolist() == expected


def test_damaged_rows_are_not_merged(tmp_path: Path) -> None:
    filled(tmp_path, merging.MANY)
    damaged = sorted((tmp_path / RECIPE.key).glob("*.rows"))[3]
    damaged.write_bytes(b"\xff" * RECIPE.row_bytes + damaged.read_bytes()[RECIPE.row_bytes :])
    merge_small_parts(tmp_path / RECIPE.key, ROW_FIELDS, RECIPE.row_bytes)
    with CacheFolder(tmp_path, writable=False) as folder:
        rows = FeatureCache(folder, RECIPE).rows_of([n.to_bytes(16) for n in range(5)])
    assert [row < 0 for row in rows] == [False, False, False, True, False]


def test_damaged_keys_are_not_merged(tmp_path: Path) -> None:
    """Of files, nothing else would tell: a merged part has a checksum of its own."""
    for number in range(merging.MANY):
        write(tmp_path / f"{number:02}.keys", [bytes([number + 1])], number)
    data = bytearray((tmp_path / "03.keys").read_bytes())
    data[-1] ^= 0xFF
    (tmp_path / "03.keys").write_bytes(data)
    merge_small_parts(tmp_path, ROW_FIELDS)
    assert len(part_names(tmp_path)) == 1
    index = RecordIndex([keys for keys, _ in open_parts(tmp_path, ROW_FIELDS)], ROW_FIELDS)
    positions = index.find(as_keys(bytes([number + 1]) for number in range(5)))
    assert [position < 0 for position in positions] == [False, False, False, True, False]


def test_unfinished_parts_of_killed_processes_are_removed_after_a_day(tmp_path: Path) -> None:
    filled(tmp_path, 1)
    left = [tmp_path / RECIPE.key / f".partial-{name}.rows" for name in ("old", "new")]
    for path in left:
        path.touch()
    os.utime(left[0], (0, 0))
    merge_small_parts(tmp_path / RECIPE.key, ROW_FIELDS, RECIPE.row_bytes)
    assert [path.exists() for path in left] == [False, True]


def test_large_parts_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(tmp_path, merging.MANY)
    monkeypatch.setattr(merging, "SMALL", 2 * RECIPE.row_bytes)
    merge_small_parts(tmp_path / RECIPE.key, ROW_FIELDS, RECIPE.row_bytes)
    assert len(part_names(tmp_path / RECIPE.key)) == merging.MANY


def test_merge_that_was_cut_off_before_the_old_parts_were_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The merged part says what it replaces."""
    caplog.set_level(logging.WARNING)
    filled(tmp_path, merging.MANY)
    with monkeypatch.context() as cut:
        cut.setattr(merging, "remove_part", lambda folder, name: None)
        merge_small_parts(tmp_path / RECIPE.key, ROW_FIELDS, RECIPE.row_bytes)
    assert len(part_names(tmp_path / RECIPE.key)) == merging.MANY + 1
    assert len(open_parts(tmp_path / RECIPE.key, ROW_FIELDS)) == 1
    merge_small_parts(tmp_path / RECIPE.key, ROW_FIELDS, RECIPE.row_bytes)
    assert len(part_names(tmp_path / RECIPE.key)) == 1
    assert not caplog.text
