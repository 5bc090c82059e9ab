import asyncio
import dataclasses
import logging
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.serving.http import LIMITS
from violence_detection.errors import UserError
from violence_detection.inference.detector import Detector, PredictedClip
from violence_detection.serving.server import replace_detector, run_server, start_service_log
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


def _raise(error: Exception) -> Detector:
    raise error


@pytest.mark.parametrize(
    ("load", "reason"),
    [
        (lambda now: dataclasses.replace(now, threshold=0.75), None),
        (lambda now: _raise(UserError("best_model.keras is missing")), "is missing"),
        (lambda now: dataclasses.replace(now, recipes=now.recipes[:1]), "shape"),
        (lambda now: dataclasses.replace(now, temperature=float("nan")), "predicts nan"),
    ],
)
def test_detector_is_replaced_while_serving_unless_the_new_one_is_broken(
    detector: Detector,
    tmp_path: Path,
    clip: bytes,
    load: Callable[[Detector], Detector],
    reason: str | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    service = Service(detector, tmp_path, LIMITS)
    (tmp_path / "clip.mp4").write_bytes(clip)

    async def reload() -> PredictedClip:
        async with service.running():
            await replace_detector(service, lambda: load(detector))
            return await service.predict_clip(tmp_path / "clip.mp4", with_pictures=False)

    with caplog.at_level(logging.INFO, "violence_detection"):
        predicted = asyncio.run(reload())
    assert predicted.prediction.probability is not None
    assert service.detector.threshold == (0.75 if reason is None else detector.threshold)
    assert (reason or "ready:") in caplog.text


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
