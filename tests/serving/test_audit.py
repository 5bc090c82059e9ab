"""The audit log, and what its check finds."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.serving.detectors import ScriptedDetector
from tests.serving.http import LIMITS, form_of, problem_detail, ready
from violence_detection.errors import RunError
from violence_detection.serving.audit import AuditLog, main
from violence_detection.serving.service import Service


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Return a log of four lines, written by two servers one after the other."""
    (tmp_path / "clip.mp4").write_bytes(b"a clip")
    for _ in range(2):
        audit = AuditLog(tmp_path / "audit.jsonl")
        for probability in (0.25, 0.75):
            audit.write(tmp_path / "clip.mp4", client="10.0.0.7", probability=probability)
    return tmp_path / "audit.jsonl"


def test_untouched_log_is_found_unchanged(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(log)]) == 0
    last = json.loads(log.read_text().splitlines()[-1])
    assert f"4 lines, unchanged; the last hash is {last['hash']}" in capsys.readouterr().out
    assert last["clip_sha256"] == hashlib.sha256(b"a clip").hexdigest()


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda lines: [lines[0], lines[1].replace("0.75", "0.05"), *lines[2:]], 2),
        (lambda lines: lines[1:], 1),
        (lambda lines: [lines[0], *lines[2:]], 2),
        (lambda lines: [lines[0], lines[2], lines[1], lines[3]], 2),
        (lambda lines: [*lines[:3], "{}"], 4),
        (lambda lines: [*lines, "not JSON"], 5),
        (lambda lines: [lines[0], lines[0], *lines[1:]], 2),
    ],
)
def test_line_that_was_changed_or_cut_out_is_found(
    log: Path,
    change: Callable[[list[str]], list[str]],
    line: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    log.write_text("".join(f"{text}\n" for text in change(log.read_text().splitlines())))
    assert main([str(log)]) == 1
    assert f"line {line} was changed" in capsys.readouterr().out
    with pytest.raises(RunError, match=f"line {line} was changed"):
        AuditLog(log)  # nothing is added to a broken chain


def test_predictions_are_logged_without_pictures(
    scripted_detector: ScriptedDetector, uploads: Path, clip: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "audit.jsonl"
    service = Service(scripted_detector, uploads, LIMITS, audit=AuditLog(path))
    with ready(service) as client:
        answer = client.post("/predict", **form_of(clip, "/home/me/private.mp4")).json()
        assert client.post("/predict/timeline", **form_of(clip)).status_code == 200
        assert client.post("/predict", **form_of(b"no video" * 99)).status_code == 415
    whole, windows = map(json.loads, path.read_text().splitlines())
    assert whole["probability"] == pytest.approx(answer["probability"])
    assert whole["clip_sha256"] == hashlib.sha256(clip).hexdigest()
    assert whole["model_sha256"] == scripted_detector.model_sha256
    assert len(windows["windows"]) >= 1
    assert "private" not in path.read_text()
    assert main([str(path)]) == 0


def test_without_its_line_no_prediction_is_given_out(
    scripted_detector: ScriptedDetector, uploads: Path, clip: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "audit.jsonl"
    service = Service(scripted_detector, uploads, LIMITS, audit=AuditLog(path))
    with ready(service) as client:
        path.unlink()
        path.mkdir()
        response: httpx.Response = client.post("/predict", **form_of(clip))
    assert "audit log" in problem_detail(response, 503)
