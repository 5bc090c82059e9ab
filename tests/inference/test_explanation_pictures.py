from pathlib import Path

import cv2
import numpy as np
import pytest

from violence_detection.commands.predict import main
from violence_detection.inference.detector import Detector
from violence_detection.inference.explanation_pictures import ExplanationWriter, overlay


def test_overlay_shows_the_picture_where_nothing_speaks_for_violence() -> None:
    picture = np.full((8, 8, 3), 100, np.uint8)
    heat = np.zeros((8, 8))
    heat[2, 3] = 1
    shown = overlay(picture, heat)
    changed = (shown != picture).any(axis=2)
    assert np.argwhere(changed).tolist() == [[2, 3]]


def test_pictures_lie_as_the_clips_do(
    drawn_clips: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [drawn_clips / "test" / name / f"{name}1.mp4" for name in ("violent", "nonviolent")]
    bad = tmp_path / "bad.mp4"
    bad.touch()
    command = ["--checkpoint-dir", str(trained / "run"), *map(str, [*paths, bad]), "--explain"]
    assert main([*command, "--explain-dir", str(tmp_path / "why")]) == 3
    assert "why" in capsys.readouterr().err
    drawn = sorted((tmp_path / "why").rglob("*.jpg"))
    assert [path.parent.name for path in drawn] == ["nonviolent", "violent"]
    for path in drawn:
        height, width, _ = cv2.imread(str(path)).shape
        assert width == 1200
        assert height > 3 * 300  # three frames with their maps, and the strip


def test_long_names_have_a_picture_of_their_own(detector: Detector, tmp_path: Path) -> None:
    clips = [tmp_path / f"{'x' * 240}{n}.mp4" for n in range(2)]
    explanations = ExplanationWriter(detector, tmp_path / "why", clips)
    first, second = map(explanations.path_of, clips)
    assert first != second
    assert max(len(path.name) for path in (first, second)) < 230
