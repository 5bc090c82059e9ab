"""How a run ends on a signal, however busy it is."""

import errno
import os
import pty
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from tests.conftest import ROOT
from violence_detection.errors import RunError, UserError
from violence_detection.runtime.interrupts import GRACE, raise_if_interrupted, run_or_explain
from violence_detection.storage.files import replace_file

BUSY_IN_PYTHON = "time.sleep(100)"
# One call that runs for minutes without returning to Python, like a batch of VGG19.
BUSY_OUTSIDE = "hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("busy", [BUSY_IN_PYTHON, BUSY_OUTSIDE])
def test_signal_ends_the_run_in_seconds_and_prints_how_to_resume(
    busy: str, number: signal.Signals, status: int
) -> None:
    program = (
        "import hashlib, sys, time\n"
        "from violence_detection.runtime.interrupts import run_or_explain\n"
        f"sys.exit(run_or_explain(lambda: [print('started', flush=True), {busy}], False, True))"
    )
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, cwd=ROOT, text=True, **pipes) as process:
        assert process.stdout.readline() == "started\n"
        began = time.monotonic()
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    assert time.monotonic() - began < GRACE + 10
    assert process.returncode == status
    assert errors.endswith("ed. Run the same command again to resume.\n")
    assert errors.count("\n") == 1


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_work_in_progress_is_finished_after_a_signal(
    tmp_path: Path, number: signal.Signals, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """An exception out of nowhere crashes TensorFlow, and a half-written .npz raises its own."""

    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive, archive.open("values", "w") as values:
            signal.raise_signal(number)
            values.write(b"whole")

    def job() -> int:
        replace_file(tmp_path / "weights.npz", write)
        raise_if_interrupted()
        return 0

    assert run_or_explain(job, False, resumable=True) == status
    assert zipfile.ZipFile(tmp_path / "weights.npz").read("values") == b"whole"
    assert "Run the same command again to resume." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (UserError("--epochs 0: must be 1 or more"), 2, "error: --epochs 0: must be 1 or more"),
        (RunError("the disk failed"), 1, "error: the disk failed"),
        (OSError(errno.ENOSPC, "No space left", "/data/x"), 1, "error: /data/x: No space left. "),
        (ValueError("first line\nsecond"), 1, "error: ValueError: first line (traceback: --debug"),
    ],
)
def test_error_is_one_line_and_the_exit_status(
    error: Exception, status: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def job() -> int:
        raise error

    assert run_or_explain(job, debug=False) == status
    printed = capsys.readouterr().err
    assert printed.startswith(message)
    assert printed.count("\n") == 1
    with pytest.raises(type(error)):
        run_or_explain(job, debug=True)


def test_on_a_terminal_ctrl_c_is_followed_by_a_line_of_its_own() -> None:
    program = (
        "import signal, sys\n"
        "from violence_detection.runtime.interrupts import *\n"
        "def job():\n"
        "    print('^C', end='', file=sys.stderr)\n"  # as the terminal echoes it
        "    signal.raise_signal(signal.SIGINT)\n"
        "    raise_if_interrupted()\n"
        "sys.exit(run_or_explain(job, False, True))"
    )
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        command = [sys.executable, "-c", program]
        with subprocess.Popen(command, cwd=ROOT, stderr=theirs) as process:
            assert process.wait(60) == 130
        os.close(theirs)
        shown = terminal.read(1000).decode()
    assert shown == "^C\r\nInterrupted. Run the same command again to resume.\r\n"
