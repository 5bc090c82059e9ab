"""What is found to differ between two workers, and how it is named."""

import re
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.conftest import ROOT
from violence_detection.clips.dataset import find_clips
from violence_detection.runs.agreement import compared_values
from violence_detection.runtime.cluster import first_difference
from violence_detection.settings.parser import parse_settings

SCRIPT = ROOT / "train_rtx5000_dual_optimized.py"


def difference(chiefs: list[str], theirs: list[str], precision: str = "float32") -> str | None:
    """Return what differs between two workers with these flags."""
    values = []
    for flags, used in ((chiefs, "float32"), (theirs, precision)):
        settings = parse_settings(flags)
        dataset = settings.data.dataset_path
        assert isinstance(dataset, Path)
        clips = find_clips(dataset, 0)
        values.append(compared_values(settings, clips, ["CPU"], used, False, SCRIPT))
    return first_difference(*values)


def test_folders_may_differ(flags: list[str], drawn_clips: Path, tmp_path: Path) -> None:
    dataset = shutil.copytree(drawn_clips, tmp_path / "clips")
    theirs = ["--dataset-path", str(dataset), "--cache-dir", str(tmp_path / "elsewhere")]
    assert difference(flags, [*flags, *theirs]) is None


@pytest.mark.parametrize(
    ("theirs", "words"),
    [
        (
            ["--learning-rate", "0.002"],
            r"the settings, learning_rate: it has 0\.002, the chief has 0\.001",
        ),
        (
            ["--cache-dir", "s3://a/cache"],
            "the cache location: it has s3://a/cache, the chief has a folder",
        ),
    ],
)
def test_flags_that_differ_are_named(flags: list[str], theirs: list[str], words: str) -> None:
    assert re.fullmatch(words, difference(flags, [*flags, *theirs]) or "")


def test_weights_that_differ_are_named(flags: list[str], tmp_path: Path) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as file:
        kernels = file.create_group("block1_conv1")
        kernels["kernel"], kernels["bias"] = np.ones((3, 3, 3, 64)), np.zeros(64)
        kernels.attrs["weight_names"] = ["kernel", "bias"]
    theirs = [*flags, "--vgg19-weights", str(tmp_path / "other.h5")]
    words = r"the VGG19 weights: it has \['md5-\w+'\], the chief has \['random-\w+'\]"
    assert re.fullmatch(words, difference(flags, theirs) or "")


def test_clips_that_differ_are_named(flags: list[str], drawn_clips: Path, tmp_path: Path) -> None:
    dataset = Path(shutil.copytree(drawn_clips, tmp_path / "clips"))
    (dataset / "val" / "violent" / "violent0.mp4").unlink()
    found = difference(flags, [*flags, "--dataset-path", str(dataset)])
    assert found is not None and found.startswith("the clips: it has ")


def test_precision_that_differs_is_named(flags: list[str]) -> None:
    found = difference(flags, flags, "bfloat16")
    assert found == "the precision: it has bfloat16, the chief has float32"
