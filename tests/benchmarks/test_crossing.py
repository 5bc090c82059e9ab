import json
import shutil
from pathlib import Path

import pytest

from benchmarks.crossing import main


@pytest.mark.slow
def test_each_data_set_is_the_test_of_a_detector_trained_on_the_other(
    drawn_clips: Path, quick_flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The other set has the drawn test clips with their classes exchanged."""
    own, other = tmp_path / "own", tmp_path / "other"
    shutil.copytree(drawn_clips, own)
    for name, opposite in (("violent", "nonviolent"), ("nonviolent", "violent")):
        shutil.copytree(drawn_clips / "test" / name, other / opposite)
    command = ["--dataset-path", str(own), "--dataset-path", str(other), *quick_flags]
    command += ["--streams", "difference", "--seeds", "1", "--together", "2", "--epochs", "8"]
    command += ["--json", str(tmp_path / "figures.json")]
    assert main([*command, "--work-dir", str(tmp_path / "work")]) == 0
    rows = json.loads((tmp_path / "figures.json").read_text())["rows"]
    assert [(row["trained_on"], row["tested_on"], row["clips"]) for row in rows] == [
        ("own", "other", 8),
        ("other", "own", 28),
        ("both", "own", 28),
        ("both", "other", 8),
    ]
    assert rows[0]["roc_auc"] < 0.3
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80
