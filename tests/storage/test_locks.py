import os
from pathlib import Path
from typing import NoReturn

import pytest

from tests.conftest import held_by_another
from violence_detection.errors import UserError
from violence_detection.storage.locks import locked, process_folder, try_lock


def refuse(holder: str) -> NoReturn:
    raise UserError(holder)


def test_lock_is_refused_with_the_holder_while_another_process_has_it(tmp_path: Path) -> None:
    with (
        held_by_another(tmp_path) as other,
        pytest.raises(UserError, match=f"^process {other.pid}$"),
        locked(tmp_path, refuse),
    ):
        pass
    with locked(tmp_path, refuse):
        pass


def test_lock_is_waited_for(tmp_path: Path) -> None:
    holders = []
    with held_by_another(tmp_path) as other:

        def release_other(holder: str) -> None:
            holders.append(holder)
            other.stdin.close()

        with locked(tmp_path, on_wait=release_other):
            assert other.wait(60) == 0
    assert holders == [f"process {other.pid}"]


def test_lock_of_a_process_that_died_is_free(tmp_path: Path) -> None:
    with held_by_another(tmp_path) as other:
        other.kill()
        other.wait()
        with locked(tmp_path, refuse):
            assert (tmp_path / ".lock").read_text().split()[0] == str(os.getpid())


def test_holder_on_another_host_is_named(tmp_path: Path) -> None:
    with held_by_another(tmp_path):
        (tmp_path / ".lock").write_text("7\nnode9\n")  # as a process there would write it
        with pytest.raises(UserError, match=r"^process 7 on node9$"), locked(tmp_path, refuse):
            pass


def test_trying_a_lock_does_not_wait(tmp_path: Path) -> None:
    with held_by_another(tmp_path):
        assert try_lock(tmp_path) is None
    lock = try_lock(tmp_path)
    assert lock is not None
    with lock:
        assert try_lock(tmp_path) is None
    assert try_lock(tmp_path) is not None


def test_process_folder_is_kept_from_others_and_removed_at_the_end(tmp_path: Path) -> None:
    with process_folder(tmp_path, prefix="mine-") as folder:
        assert folder.parent == tmp_path
        assert folder.name.startswith("mine-")
        (folder / "file").touch()
        with process_folder(tmp_path) as second:
            assert second != folder
            assert (folder / "file").exists()
        assert not second.exists()
    assert not folder.exists()


def test_process_folders_of_killed_processes_are_removed(tmp_path: Path) -> None:
    left, living = tmp_path / "left", tmp_path / "living"
    for folder in (left, living):
        folder.mkdir()
        (folder / "file").touch()
    with held_by_another(living), process_folder(tmp_path):
        assert not left.exists()
        assert (living / "file").exists()
