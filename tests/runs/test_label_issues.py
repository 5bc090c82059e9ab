import csv
from pathlib import Path

import numpy as np
import pytest

from violence_detection.clips.clip import Clip
from violence_detection.runs.label_issues import write_label_issues

CLIPS = [
    Clip(Path("/"), f"{n}.mp4", n % 2, "train", "camera" if n == 3 else None) for n in range(8)
]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_clip_has_a_row_the_most_suspect_first(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    probabilities = np.array([0.1, 0.9, 0.2, 0.03, 0.1, 0.8, 0.4, 0.9])
    with caplog.at_level("INFO"):
        write_label_issues(CLIPS, probabilities, 0.5, tmp_path / "label_issues.csv")
    assert "1 suspect label in 8 clips" in caplog.text
    first, second, *rest = rows(tmp_path / "label_issues.csv")
    assert first == {
        "rank": "1",
        "clip": "3.mp4",
        "group": "camera",
        "label": "violent",
        "predicted": "nonviolent",
        "probability": "0.030000",
        "quality": "0.030000",
        "suspect": "yes",
    }
    assert (second["clip"], second["quality"], second["suspect"]) == ("6.mp4", "0.600000", "no")
    assert len(rest) == 6 and not any(row["suspect"] == "yes" for row in rest)
    assert {row["clip"] for row in rest[-2:]} < {"0.mp4", "1.mp4", "4.mp4", "7.mp4"}


def test_label_that_a_fold_predicts_at_its_threshold_is_not_suspect(tmp_path: Path) -> None:
    probabilities = np.array([0.1, 0.9, 0.2, 0.3, 0.1, 0.8, 0.9, 0.9])
    thresholds = np.full(8, 0.5)
    thresholds[3] = 0.25
    write_label_issues(CLIPS, probabilities, thresholds, tmp_path / "label_issues.csv")
    found = {row["clip"]: row for row in rows(tmp_path / "label_issues.csv")}
    assert (found["3.mp4"]["predicted"], found["3.mp4"]["suspect"]) == ("violent", "no")
    assert (found["6.mp4"]["rank"], found["6.mp4"]["suspect"]) == ("1", "yes")
