"""Events as a watcher keeps them."""

import shutil
import time
from pathlib import Path
from typing import Any

from violence_detection.cameras.store import EventStore, iso_of


def keep_event(store: EventStore, camera: str, clip: Path, age: float = 60.0) -> dict[str, Any]:
    """Keep a copy of a clip of two seconds as an event's, so many seconds old; return its facts.

    The alarm lasts from 0.5 s of the clip to 1.5 s.
    """
    began = time.time() - age
    folder = store.new_folder(camera, began)
    folder.mkdir(parents=True)
    shutil.copy(clip, folder / f"clip{clip.suffix}")
    name = folder.relative_to(store.folder).as_posix()
    facts = {
        "event": f"{camera}-{int(began * 1000)}",
        "camera": camera,
        "kind": "alarm",
        "start": iso_of(began + 0.5),
        "end": iso_of(began + 1.5),
        "probability": 0.9,
        "clip": f"{name}/clip{clip.suffix}",
        "snapshot": None,
        "clip_start": iso_of(began),
        "clip_seconds": 2.0,
    }
    store.write_facts(folder, facts)
    return facts
