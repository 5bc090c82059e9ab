import json
import re
from pathlib import Path

import pytest

from benchmarks.accuracy import main
from tests.conftest import SHORT


@pytest.mark.slow
@pytest.mark.usefixtures("features_before")
def test_variants_are_cross_validated_once_and_compared(
    drawn_clips: Path, quick_flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--dataset-path", str(drawn_clips), "--work-dir", str(tmp_path / "work")]
    command += quick_flags
    command += [*SHORT, "--folds", "2", "--seeds", "1", "--random-folds"]
    command += ["--violent-share", "0.7"]
    command += ["--json", str(tmp_path / "figures.json")]
    assert main([*command, "--variant", "one=--folds 1"]) == 0
    first = json.loads((tmp_path / "figures.json").read_text())
    assert (
        main([*command, "--variant", "one=--folds 1", "--variant", "fast=--learning-rate 0.1"]) == 0
    )
    one, other = json.loads((tmp_path / "figures.json").read_text())["variants"]
    assert one == first["variants"][0]  # its seconds, too: it was not repeated
    assert other["by_seed"] != one["by_seed"]
    assert 0 <= one["accuracy"] <= 1 and [sum(row) for row in one["confusion_matrix"]] == [6, 14]
    assert re.search(r"one +\d\.\d{3}", capsys.readouterr().out)
