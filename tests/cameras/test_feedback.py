import shutil
from pathlib import Path

import pytest

from tests.cameras.kept import keep_event
from violence_detection.cameras.feedback import Feedback
from violence_detection.cameras.settings import ClipRule
from violence_detection.cameras.store import EventStore
from violence_detection.clips.manifest import read_manifest


@pytest.fixture
def store(tmp_path: Path) -> EventStore:
    return EventStore(tmp_path / "events", ClipRule())


def test_labels_are_a_manifest_whose_clips_outlast_the_events(
    store: EventStore, drawn_clips: Path
) -> None:
    clip = drawn_clips / "test" / "violent" / "violent0.mp4"
    first = keep_event(store, "yard", clip, 120)
    second = keep_event(store, "gate", clip, 60)
    feedback = Feedback(store.folder)
    feedback.set(first, "nonviolent")
    feedback.set(second, "violent")
    feedback.set(first, "violent")
    feedback.set(first, "nonviolent")
    for day in store.folder.glob("20*"):
        shutil.rmtree(day)
    rows = {row.group: row for row in read_manifest(feedback.manifest)}
    assert {name: row.label for name, row in rows.items()} == {"yard": 0, "gate": 1}
    for row in rows.values():
        assert (feedback.folder / row.video).read_bytes() == clip.read_bytes()
        assert (row.start, row.end) == (0.5, 1.5)
    assert Feedback(store.folder).labels() == {
        first["event"]: "nonviolent",
        second["event"]: "violent",
    }


def test_label_that_is_taken_back_leaves_nothing(store: EventStore, drawn_clips: Path) -> None:
    facts = keep_event(store, "yard", drawn_clips / "test" / "violent" / "violent0.mp4")
    feedback = Feedback(store.folder)
    feedback.set(facts, "violent")
    feedback.set(facts, None)
    assert list(feedback.folder.iterdir()) == []
    assert feedback.labels() == {}
