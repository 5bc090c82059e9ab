from pathlib import Path
from typing import NoReturn

import pytest

from tests.conftest import held_by_another
from violence_detection.errors import UserError
from violence_detection.storage.locks import locked


def refuse(holder: str) -> NoReturn:
    raise UserError(holder)


def test_second_is_told_who_holds_the_folder(tmp_path: Path) -> None:
    with (
        held_by_another(tmp_path) as other,
        pytest.raises(UserError, match=f"^process {other.pid}$"),
        locked(tmp_path, refuse),
    ):
        pass
    with locked(tmp_path, refuse):
        pass


def test_second_waits_if_it_is_not_refused(tmp_path: Path) -> None:
    told = []
    with held_by_another(tmp_path) as other:

        def busy(holder: str) -> None:
            told.append(holder)
            other.stdin.close()

        with locked(tmp_path, busy):
            assert other.wait(60) == 0
    assert told == [f"process {other.pid}"]


def test_lock_of_a_process_that_died_blocks_nobody(tmp_path: Path) -> None:
    with held_by_another(tmp_path) as other:
        other.kill()
        other.wait()
        with locked(tmp_path, refuse):
            assert (tmp_path / ".lock").read_text().split()[0].isdigit()


def test_holder_on_another_host_is_named(tmp_path: Path) -> None:
    with held_by_another(tmp_path):
        (tmp_path / ".lock").write_text("7\nnode9\n")  # as it would write it there
        with pytest.raises(UserError, match=r"^process 7 on node9$"), locked(tmp_path, refuse):
            pass
