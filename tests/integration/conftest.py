"""A run that those of several workers are compared with."""

from pathlib import Path

import pytest

from tests.conftest import quick_flags_in
from train_rtx5000_dual_optimized import main

EPOCHS = 7
HARDER = [
    *("--augment", "reverse,mixup", "--cached-frames", "6", "--epochs", str(EPOCHS)),
    *("--batch-size", "4", "--gradient-accumulation", "2"),
]
ENSEMBLE = ["--ensemble", "2"]


@pytest.fixture(scope="package")
def alone(drawn_clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the checkpoint directory of an ensemble that one process trained."""
    folder = tmp_path_factory.mktemp("alone")
    flags = ["--dataset-path", str(drawn_clips), *quick_flags_in(folder), *HARDER, *ENSEMBLE]
    assert main(flags) == 0
    return folder / "run"
