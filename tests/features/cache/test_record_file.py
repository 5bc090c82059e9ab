import os
from pathlib import Path

import numpy as np
import pytest

from violence_detection.errors import UserError
from violence_detection.features.cache.record_file import (
    HEADER_BYTES,
    KEY_BYTES,
    RecordFile,
    as_keys,
    write_records,
)

FIELDS = (("checksum", "<u4"),)
SIZE = KEY_BYTES + 8  # bytes of a record


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "rows.index"


def opened(path: Path, writable: bool = False, limit: int | None = None) -> RecordFile:
    return RecordFile(path, "of a test", FIELDS, writable, limit)


def filled(path: Path, *keys: bytes) -> RecordFile:
    records = opened(path, writable=True)
    for number, key in enumerate(keys):
        records.add(key, number)
    records.flush()
    return records


def positions(records: RecordFile, *keys: bytes) -> list[int]:
    """Return the positions of keys found together, which must be those found one by one."""
    found = records.find(as_keys(keys)).tolist()
    assert [records.find_one(key) for key in keys] == [None if p < 0 else p for p in found]
    return found


def test_records_are_found_again(path: Path) -> None:
    records = filled(path, b"one", b"two")
    for each in (records, opened(path), opened(path, writable=True)):
        assert positions(each, b"two", b"three", b"one") == [1, -1, 0]
        assert each.records(np.array([1, 0]))["checksum"].tolist() == [1, 0]


def test_missing_file_has_no_records(path: Path) -> None:
    records = opened(path)
    assert positions(records, b"one") == [-1]
    assert not path.exists()


def test_record_is_visible_to_others_once_it_is_durable(path: Path) -> None:
    records = filled(path, b"one")
    records.add(b"two", 7)
    assert positions(records, b"two") == [1]
    assert records.records(np.array([1]))["checksum"] == 7
    assert positions(opened(path), b"two") == [-1]
    reader = opened(path)
    records.flush()
    assert positions(reader, b"one", b"two") == [0, -1]
    assert positions(opened(path), b"one", b"two") == [0, 1]


def test_last_record_of_a_key_counts(path: Path) -> None:
    records = filled(path, b"one", b"two", b"one")
    assert positions(records, b"one") == positions(opened(path), b"one") == [2]


@pytest.mark.parametrize("count", [1, 5_000, 70_000])
def test_many_records(path: Path, count: int) -> None:
    """More than a block, some of which share the half of their key that is sorted."""
    keys = np.random.default_rng(0).integers(0, 2**64, (count, 2), np.uint64).astype(">u8")
    keys[: count // 100, 0] = keys[0, 0]
    write_records(path, "", FIELDS, [(np.arange(count), keys, [np.arange(count)])])
    order = np.random.default_rng(1).permutation(count)
    unknown = np.array([[keys[0, 0], 1], [3, 4]], ">u8")
    records = opened(path, writable=True)
    found = records.find(np.concatenate([keys[order], unknown]))
    np.testing.assert_array_equal(found, [*order, -1, -1])
    np.testing.assert_array_equal(records.records(order)["checksum"], order)
    records.add(b"new", 0)
    both = np.concatenate([keys, as_keys([b"new"])])
    np.testing.assert_array_equal(records.find(both), np.arange(count + 1))
    records.flush()
    np.testing.assert_array_equal(records.find(both), np.arange(count + 1))
    np.testing.assert_array_equal(opened(path).find(both), np.arange(count + 1))


@pytest.mark.parametrize("lost", range(1, SIZE + 2))
def test_unfinished_tail_is_ignored(path: Path, lost: int) -> None:
    filled(path, b"one", b"two", b"three")
    os.truncate(path, HEADER_BYTES + 3 * SIZE - lost)
    kept = 3 - -(-lost // SIZE)
    records = opened(path, writable=True)
    assert positions(records, b"one", b"two", b"three") == [n if n < kept else -1 for n in range(3)]
    assert records.add(b"four", 4) == kept
    records.flush()
    assert positions(opened(path), b"four", b"one") == [kept, 0]


@pytest.mark.parametrize("at", range(SIZE))
def test_damaged_record_is_ignored(path: Path, at: int) -> None:
    filled(path, b"one", b"two", b"three")
    data = bytearray(path.read_bytes())
    data[HEADER_BYTES + SIZE + at] ^= 0x10
    path.write_bytes(data)
    assert positions(opened(path), b"one", b"two", b"three") == [0, -1, 2]
    records = opened(path, writable=True)
    records.add(b"two", 3)
    assert positions(records, b"one", b"two", b"three") == [0, 3, 2]


def test_zeros_and_misplaced_records_after_a_power_cut_are_ignored(path: Path) -> None:
    filled(path, b"one", b"two")
    data = path.read_bytes()
    path.write_bytes(data + data[-SIZE:] + bytes(5 * SIZE))  # a record, but of another position
    assert positions(opened(path), b"one", b"two") == [0, 1]
    assert opened(path, writable=True).add(b"three", 0) == 2


def test_removed_record_is_not_found(path: Path) -> None:
    records, other = filled(path, b"one", b"two", b"three"), opened(path)
    records.remove(np.array([1]))
    other.remove(np.array([2]), in_file=False)
    assert positions(records, b"one", b"two", b"three") == [0, -1, 2]
    assert positions(other, b"one", b"two", b"three") == [0, -1, -1]
    assert positions(opened(path), b"one", b"two", b"three") == [0, -1, 2]


def test_records_beyond_the_limit_do_not_come_back(path: Path) -> None:
    filled(path, b"one", b"two", b"three")
    assert positions(opened(path, limit=1), b"one", b"two") == [0, -1]
    records = opened(path, writable=True, limit=1)
    assert records.add(b"four", 0) == 1
    records.flush()
    assert positions(opened(path), b"one", b"two", b"three", b"four") == [0, -1, -1, 1]


@pytest.mark.parametrize("head", [b"SQLite format 3\0", b"VDFC\0\0\0\x63", b""])
def test_file_of_another_program_or_version_is_refused(path: Path, head: bytes) -> None:
    path.write_bytes(head.ljust(HEADER_BYTES, b"\0") if head else b"")
    with pytest.raises(UserError, match="another"):
        opened(path)
