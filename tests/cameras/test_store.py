import errno
import json
import os
import time
from pathlib import Path

import pytest

from violence_detection.cameras.settings import ClipRule
from violence_detection.cameras.store import FACTS, EventStore


def with_events(store: EventStore, ages: list[float]) -> list[Path]:
    """Make events of 1000 bytes, so many days old."""
    folders = []
    for number, days in enumerate(ages):
        folder = store.new_folder(f"camera{number}", time.time() - days * 86400)
        folder.mkdir(parents=True)
        (folder / "clip.mp4").write_bytes(bytes(1000))
        (folder / FACTS).write_text("")
        moment = time.time() - days * 86400
        os.utime(folder / FACTS, (moment, moment))
        folders.append(folder)
    return folders


@pytest.mark.parametrize(
    ("rule", "kept"),
    [
        (ClipRule(), [True, True, True, True]),
        (ClipRule(keep_days=5), [False, False, True, True]),
        (ClipRule(keep_gb=3000 / 1e9), [False, True, True, True]),
        (ClipRule(keep_gb=0), [False, False, False, False]),
    ],
)
def test_oldest_events_are_removed_first(tmp_path: Path, rule: ClipRule, kept: list[bool]) -> None:
    store = EventStore(tmp_path / "events", rule)
    folders = with_events(store, [20, 10, 3, 0])
    store.prune()
    assert [folder.exists() for folder in folders] == kept


def test_full_disk_removes_the_oldest_event_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = EventStore(tmp_path / "events", ClipRule())
    old, recent = with_events(store, [2, 1])
    write = Path.write_bytes

    def only_without_the_old(path: Path, *arguments: object, **keywords: object) -> int:
        if old.exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, *arguments, **keywords)

    monkeypatch.setattr(Path, "write_bytes", only_without_the_old)
    new = store.new_folder("yard", time.time())
    store.write_facts(new, {"event": "yard-1"})
    assert not old.exists()
    assert recent.exists()
    assert json.loads((new / FACTS).read_text()) == {"event": "yard-1"}


def test_disk_that_stays_full_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = EventStore(tmp_path / "events", ClipRule())

    def full(*arguments: object, **keywords: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    store.write_facts(store.new_folder("yard", time.time()), {"event": "yard-1"})
    assert "No space left on device" in caplog.text
    assert json.loads((tmp_path / "events" / "events.jsonl").read_text()) == {"event": "yard-1"}


def test_other_errors_of_the_disk_remove_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = EventStore(tmp_path / "events", ClipRule())
    folders = with_events(store, [2, 1])

    def broken(*arguments: object, **keywords: object) -> int:
        raise OSError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "write_bytes", broken)
    store.write_facts(store.new_folder("yard", time.time()), {"event": "yard-1"})
    assert all(folder.exists() for folder in folders)
