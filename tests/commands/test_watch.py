"""The command that watches cameras, in a process of its own."""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import pytest

from tests.cameras.streams import RATE, cameras
from tests.conftest import ROOT
from tests.waiting import wait_until
from tests.warm_start import ForkedProcess
from violence_detection.clips.recorder import segments_in

SETTINGS = """
events = "{folder}/events"
silence = 5
frozen = 2
[clips]
before = 2
after = 1
[defaults]
window = 1
[[camera]]
name = "yard"
source = "{address}/moving"
threshold = 0.0
[[camera]]
name = "gate"
source = "{address}/still"
threshold = 1.0
"""


@pytest.fixture
def address() -> Iterator[str]:
    with cameras() as address:
        yield address


@contextmanager
def watching(run: Path, folder: Path) -> Iterator[ForkedProcess]:
    command = [str(ROOT / "watch.py"), str(folder / "cameras.toml"), "--checkpoint-dir", str(run)]
    with (folder / "log").open("ab") as log:
        process = ForkedProcess(command, os.environ, merged=True, stdout=log.fileno())
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def lines_of(folder: Path) -> list[dict[str, Any]]:
    path = folder / "events" / "events.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def wait_for(folder: Path, is_there: Callable[[dict[str, Any]], bool], seconds: float = 90) -> None:
    wait_until(lambda: any(map(is_there, lines_of(folder))), seconds)


def frames_of(path: Path) -> int:
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def is_alarm(line: dict[str, Any], state: str) -> bool:
    return line["kind"] == "alarm" and line["state"] == state


@pytest.mark.slow
def test_alarm_has_a_clip_of_the_cameras_own_pictures(
    trained: Path, tmp_path: Path, address: str
) -> None:
    """Ended by a signal; then killed in an alarm, and started again."""
    file = tmp_path / "cameras.toml"
    file.write_text(SETTINGS.format(folder=tmp_path, address=address))
    with watching(trained / "run", tmp_path) as process:
        wait_for(tmp_path, lambda line: is_alarm(line, "started"))
        wait_for(tmp_path, lambda line: line["kind"] == "frozen")
        # A changed camera is taken up; the other one is watched on.
        changed = file.read_text().replace('name = "gate"', 'name = "door"')
        file.write_text(changed.replace("/still", "/short"))
        process.send_signal(signal.SIGHUP)
        wait_for(tmp_path, lambda line: line["camera"] == "door" and line["kind"] == "lost")
        wait_for(tmp_path, lambda line: line["camera"] == "door" and line["kind"] == "back")
        process.send_signal(signal.SIGINT)
        assert process.wait() == 0
    lines = lines_of(tmp_path)
    alarms = [line for line in lines if line["kind"] == "alarm"]
    assert [line["state"] for line in alarms] == ["started", "ended"]
    assert {line["camera"] for line in alarms} == {"yard"}
    assert [line["camera"] for line in lines if line["kind"] == "frozen"] == ["gate"]
    ended = alarms[-1]
    clip, snapshot = (tmp_path / "events" / ended[name] for name in ("clip", "snapshot"))
    assert frames_of(clip) >= 3 * RATE
    assert snapshot.read_bytes()[:2] == b"\xff\xd8"
    assert json.loads((clip.parent / "event.json").read_text()) == ended
    assert "Traceback" not in (tmp_path / "log").read_text()

    again = time.time()
    with watching(trained / "run", tmp_path) as process:
        wait_until(lambda: sum(is_alarm(line, "started") for line in lines_of(tmp_path)) == 2, 90)
        recent = tmp_path / "events" / ".recent" / "yard"
        wait_until(lambda: any(each.start > again for each in segments_in(recent)), 30)
        process.kill()
        process.wait()
    with watching(trained / "run", tmp_path):
        wait_until(lambda: sum(is_alarm(line, "ended") for line in lines_of(tmp_path)) >= 2, 90)
    (recovered,) = [line for line in lines_of(tmp_path) if line.get("interrupted")]
    assert frames_of(tmp_path / "events" / recovered["clip"]) >= RATE
