"""Made-up runs, and their pages."""

from pathlib import Path
from typing import Any

import pytest

from tests.reporting.made_up_runs import (
    LEAK,
    MEMBER,
    Make,
    Page,
    Reported,
    page_of,
    write_run,
)
from violence_detection.storage.files import read_json


@pytest.fixture
def make_run(tmp_path: Path, drawn_clips: Path) -> Make:
    """Return a function that writes a finished run on the drawn clips."""

    def make(name: str = "run", dataset: Path = drawn_clips, **changes: Any) -> Path:
        return write_run(tmp_path / name, dataset, **changes)

    return make


@pytest.fixture(scope="session")
def usual(drawn_clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Reported:
    """Return a run without problems."""
    run = write_run(tmp_path_factory.mktemp("usual") / "run", drawn_clips)
    return Reported(run, read_json(run / "training_results.json"), page_of(run))


@pytest.fixture(scope="session")
def troubled(drawn_clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Page:
    """Return the page of a run with every problem that data and weights can have."""
    bad = [
        {"clip": f"train/violent/bad{n}.mp4", "split": "train", "reason": "the file is <0>"}
        for n in range(300)
    ]
    results = {
        "untrained_vgg19": True,
        "leakage": [{**LEAK, "similarity": 0.9987, "reason": "near duplicate"}],
        "bad_clips": bad,
        "one_file_under_both_labels": [["train/violent/a.mp4", "train/nonviolent/b.mp4"]],
        "static_clips": ["val/violent/still.mp4"],
        "groups_on_two_sides": {"camera 1": ["train", "test"]},
        "members_at_0.5": [MEMBER],
        "pseudo_labels": [{"unlabeled": 50, "taken": {"nonviolent": 12, "violent": 1}}],
    }
    settings = {"mlflow": "https://user:secret@host/path"}
    folder = tmp_path_factory.mktemp("troubled") / "run"
    return page_of(write_run(folder, drawn_clips, settings, results, split="val", wrong=0))
