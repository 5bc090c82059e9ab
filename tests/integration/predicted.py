"""What prediction must give for a clip that a run was tested on."""

import json
from pathlib import Path

import pytest

from tests.integration.test_remote_run import probabilities_of
from violence_detection.commands.predict import main as predict


def require_predicted_and_explained(
    run: Path, clips: Path, explanations: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fail unless a test clip is predicted as in the run's own test, and explained by a picture."""
    name, probability = next(iter(probabilities_of(run).items()))
    command = ["--checkpoint-dir", str(run), str(clips / name), "--json"]
    capsys.readouterr()
    assert predict([*command, "--explain", "--explain-dir", str(explanations)]) == 0
    (found,) = json.loads(capsys.readouterr().out)["clips"]
    assert found["probability"] == pytest.approx(probability, abs=1e-4)
    assert list(explanations.iterdir())
