import asyncio
import dataclasses
import logging
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serving.http import LIMITS
from violence_detection.inference.detector import Detector
from violence_detection.serving.server import run_server, start_service_log
from violence_detection.serving.service import Service


@pytest.fixture
def restored_loggers() -> Iterator[None]:
    """Put back what `start_service_log` changes."""
    loggers = [logging.getLogger(name) for name in ("violence_detection", "uvicorn")]
    before = [(logger.handlers, logger.propagate, logger.level) for logger in loggers]
    yield
    for logger, (handlers, propagate, level) in zip(loggers, before, strict=True):
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)


def test_networks_that_cannot_be_made_end_the_server(detector: Detector, tmp_path: Path) -> None:
    broken = dataclasses.replace(detector, frames=3)  # as features of another layer would be
    with socket.socket() as listening, pytest.raises(ValueError, match="shape"):
        listening.bind(("127.0.0.1", 0))
        asyncio.run(run_server(Service(broken, tmp_path, LIMITS), listening, 1.0, lambda: broken))


@pytest.mark.parametrize("tracebacks", [False, True])
def test_a_log_record_is_free_of_control_characters(
    restored_loggers: None, capsys: pytest.CaptureFixture[str], tracebacks: bool
) -> None:
    start_service_log(tracebacks)
    try:
        raise ValueError("reason")
    except ValueError:
        logging.getLogger("violence_detection.serving").exception("failed \x1b[2J%s", "clip")
    written = capsys.readouterr().err
    assert "ERROR failed \\x1b[2Jclip" in written
    assert ("Traceback" in written) == tracebacks
