import shutil
from pathlib import Path

import pytest

from violence_detection.errors import UserError
from violence_detection.features.cache.folder import (
    CacheFolder,
    file_stamp,
    is_cache,
    shard_name,
    shard_number,
    shards_in,
)
from violence_detection.features.cache.record_file import FILES_INDEX
from violence_detection.runtime.worker import Worker
from violence_detection.storage.files import file_checksum


def test_file_is_known_by_its_content_until_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"first")
    content = file_checksum(path)
    with CacheFolder(tmp_path / "cache") as folder:
        assert folder.known_contents([path]) == [None]
        folder.remember_file(path, file_stamp(path), content)
        assert folder.known_contents([path]) == [content]
        path.write_bytes(b"other")
        assert folder.known_contents([path]) == [None]
        assert folder.known_contents([path], assume_unchanged=True) == [content]
    assert file_checksum(shutil.copy(path, tmp_path / "moved.avi")) == file_checksum(path)


def test_files_that_other_workers_have_hashed_are_known(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"clip")
    with CacheFolder(tmp_path / "cache", worker=Worker(0, 2)) as reader:
        with CacheFolder(tmp_path / "cache", worker=Worker(1, 2)) as writer:
            writer.remember_file(path, file_stamp(path), file_checksum(path))
        reader.refresh()
        assert reader.known_contents([path]) == [file_checksum(path)]


@pytest.mark.parametrize(("number", "count", "name"), [(0, 1, ""), (0, 2, "shard_1")])
def test_one_worker_writes_the_cache_and_several_write_shards(
    tmp_path: Path, number: int, count: int, name: str
) -> None:
    worker = Worker(number, count)
    assert shard_name(worker) == name
    with CacheFolder(tmp_path / "cache", worker=worker) as folder:
        assert folder.own_path == tmp_path / "cache" / name
    assert is_cache(tmp_path / "cache")


def test_shards_are_found_by_their_numbers(tmp_path: Path) -> None:
    for name in ("shard_10", "shard_2", "shard_x", "data"):
        (tmp_path / name).mkdir()
    assert shards_in(tmp_path) == {2: tmp_path / "shard_2", 10: tmp_path / "shard_10"}
    assert [shard_number(name) for name in ("shard_7", "shard_", "7")] == [7, None, None]
    assert not is_cache(tmp_path / "data")


def test_folder_of_another_program_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train_features.npy").write_bytes(b"x")
    with pytest.raises(UserError, match=r"train_features\.npy"):
        CacheFolder(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["train_features.npy"]


def test_index_of_another_version_is_refused(tmp_path: Path) -> None:
    CacheFolder(tmp_path).close()
    with (tmp_path / FILES_INDEX).open("r+b") as file:
        file.seek(4)
        file.write((99).to_bytes(4))
    with pytest.raises(UserError, match=r"files\.index .*another"):
        CacheFolder(tmp_path)


def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        CacheFolder(tmp_path / "file" / "cache")
