import shutil
from pathlib import Path

import pytest

from violence_detection.errors import UserError
from violence_detection.features.cache.folder import CacheFolder, file_stamp, is_cache, name_of
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
        folder.remember_file(path, file_stamp(path), file_checksum(path))
        assert folder.known_contents([path]) == [file_checksum(path)]
    assert is_cache(tmp_path / "cache")
    assert file_checksum(shutil.copy(path, tmp_path / "moved.avi")) == file_checksum(path)


def test_files_that_other_workers_have_hashed_are_known(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"clip")
    with CacheFolder(tmp_path / "cache") as reader:
        with CacheFolder(tmp_path / "cache") as writer:
            writer.remember_file(path, file_stamp(path), file_checksum(path))
        reader.refresh()
        assert reader.known_contents([path]) == [file_checksum(path)]


def test_files_of_workers_have_names_of_their_own() -> None:
    assert name_of(Worker(), "log", ".txt") == "log.txt"
    assert name_of(Worker(1, 3), "log", ".txt") == "log_2_of_3.txt"


def test_folder_of_another_program_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train_features.npy").write_bytes(b"x")
    with pytest.raises(UserError, match=r"train_features\.npy"):
        CacheFolder(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["train_features.npy"]
    assert not is_cache(tmp_path)


def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        CacheFolder(tmp_path / "file" / "cache")
