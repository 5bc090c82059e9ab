"""Runs that several modules compare theirs with, or resume."""

from pathlib import Path

import pytest

from tests.conftest import MadeOnce, quick_flags_in
from train_rtx5000_dual_optimized import main

EPOCHS = 5
HARDER = [
    *("--augment", "reverse,mixup", "--cached-frames", "6", "--epochs", str(EPOCHS)),
    *("--batch-size", "4", "--gradient-accumulation", "2"),
]
ENSEMBLE = ["--ensemble", "2"]


@pytest.fixture(scope="package")
def alone(drawn_clips: Path, made_once: MadeOnce) -> Path:
    """Return the checkpoint directory of an ensemble that one process trained."""

    def train(folder: Path) -> None:
        flags = ["--dataset-path", str(drawn_clips), *quick_flags_in(folder), *HARDER, *ENSEMBLE]
        assert main(flags) == 0

    return made_once("alone", train) / "run"


@pytest.fixture
def interrupted(run_before: None, run: Path) -> None:
    """Put a run there that was killed just before its test."""
    (run / "training_results.json").unlink()
