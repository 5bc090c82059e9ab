"""How a run ends when it is told to, however busy it is."""

import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT

from errors import GRACE

BUSY_IN_PYTHON = "time.sleep(100)"
# One call that runs for minutes without a look at Python, as a batch of VGG19 does.
BUSY_OUTSIDE = "hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("busy", [BUSY_IN_PYTHON, BUSY_OUTSIDE])
def test_signal_ends_the_run_in_seconds_and_says_how_to_go_on(
    busy: str, number: signal.Signals, status: int
) -> None:
    program = (
        "import hashlib, sys, time; from errors import run_or_explain\n"
        f"sys.exit(run_or_explain(lambda: [print('begun', flush=True), {busy}], False))"
    )
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, cwd=ROOT, text=True, **pipes) as process:
        assert process.stdout.readline() == "begun\n"
        began = time.monotonic()
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    assert time.monotonic() - began < GRACE + 10
    assert process.returncode == status
    assert "the same command, without --fresh, goes on" in said
    assert said.count("\n") == 1
