import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import pytest
from conftest import ROOT

from errors import UserError
from folder_lock import locked


@contextmanager
def held_by_another(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Hold a folder in a process of its own until the end of the block, or its death."""
    program = (
        "import sys; from pathlib import Path; from folder_lock import locked\n"
        "with locked(Path(sys.argv[1]), print): print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(folder)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, text=True, **pipes) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.stdin.close()


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
            assert (tmp_path / ".lock").read_text().strip().isdigit()
