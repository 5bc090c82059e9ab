"""What people say of events, as a manifest with clips of its own: the next training's examples."""

import shutil
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from violence_detection.cameras.store import seconds_of
from violence_detection.clips.manifest import LABELS, ManifestRow, read_manifest, write_manifest
from violence_detection.settings.constants import CLASS_NAMES
from violence_detection.storage.files import replace_file

FOLDER, MANIFEST = "feedback", "feedback.csv"
SHORTEST = 0.1  # seconds of a row


class Feedback:
    """The labels that people have given to events; for any thread.

    The clips are copied: they stay when the events are removed.

    Args:
        events: folder of the events.
    """

    def __init__(self, events: Path):
        self.folder = events / FOLDER
        self._events = events
        self._lock = threading.Lock()

    @property
    def manifest(self) -> Path:
        """The file, which `--dataset-path` takes."""
        return self.folder / MANIFEST

    def labels(self) -> dict[str, str]:
        """Return the labels by event.

        Raises:
            UserError: somebody has edited the file, and it is no manifest any more.
        """
        return {event: CLASS_NAMES[row.label] for event, row in self._rows().items()}

    def set(self, facts: Mapping[str, Any], label: str | None) -> None:
        """Label an event anew.

        Args:
            facts: of an event with a clip.
            label: one of `CLASS_NAMES`; None: it has none any more.

        Raises:
            UserError: somebody has edited the file, and it is no manifest any more.
            RunError: the disk is full, or fails.
        """
        source = self._events / facts["clip"]
        path = self.folder / f"{facts['event']}{source.suffix}"
        with self._lock:
            rows = self._rows()
            rows.pop(facts["event"], None)
            if label is not None:
                self.folder.mkdir(parents=True, exist_ok=True)
                if not path.exists():
                    replace_file(path, lambda partial: shutil.copyfile(source, partial))
                rows[facts["event"]] = _row(path.name, facts, label)
            if rows:
                write_manifest(list(rows.values()), self.manifest)
            else:
                self.manifest.unlink(missing_ok=True)
            if label is None:
                path.unlink(missing_ok=True)

    def _rows(self) -> dict[str, ManifestRow]:
        """Return the rows by event."""
        if not self.manifest.exists():
            return {}
        return {Path(row.video).stem: row for row in read_manifest(self.manifest)}


def _row(name: str, facts: Mapping[str, Any], label: str) -> ManifestRow:
    """Return the row of an event: of its clip the part that the alarm lasted."""
    began, length = seconds_of(facts["clip_start"]), facts["clip_seconds"]
    start = max(0.0, min(seconds_of(facts["start"]) - began, length - SHORTEST))
    end = max(start + SHORTEST, min(seconds_of(facts["end"]) - began, length))
    return ManifestRow(name, LABELS[label], round(start, 3), round(end, 3), group=facts["camera"])
