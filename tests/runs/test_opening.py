"""What is said of the clips before anything takes time."""

from contextlib import ExitStack
from pathlib import Path

import pytest

from violence_detection.clips.clip import Clip
from violence_detection.clips.loading import GIVEN, Dataset
from violence_detection.runs.opening import open_run
from violence_detection.runtime.worker import Worker
from violence_detection.settings.parser import parse_settings


@pytest.mark.parametrize(
    ("flags", "is_said"),
    [
        ([], True),
        (["--cross-validate", "5"], False),
        (["--tune", "3"], False),
        (["--find-lr"], False),
    ],
)
def test_missing_test_split_is_said_where_it_matters(
    flags: list[str], is_said: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = parse_settings(
        ["--dataset-path", "clips", "--checkpoint-dir", str(tmp_path / "run"), *flags]
    )
    clips = [Clip(tmp_path, f"{n}.mp4", n % 2, split) for split in ("train", "val") for n in (0, 1)]
    with ExitStack() as stack:
        open_run(settings, Dataset(clips, [], GIVEN, has_splits=True), Worker(), stack)
    assert ("WARNING: no test split" in capsys.readouterr().out) == is_said
