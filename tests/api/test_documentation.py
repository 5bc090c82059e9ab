"""docs/api.md and the notebook: their code runs, and the fields are those that there are."""

import dataclasses
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from violence_detection import api

PAGE = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
NOTEBOOK = ROOT / "examples" / "quickstart.ipynb"


@pytest.mark.slow
def test_example_runs(drawn_clips: Path, tmp_path: Path) -> None:
    (example,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)
    shutil.copytree(drawn_clips, tmp_path / "clips")
    shutil.copy(drawn_clips / "test" / "violent" / "violent0.mp4", tmp_path / "clip.mp4")
    (tmp_path / "example.py").write_text(example)
    done = subprocess.run(
        [sys.executable, "-W", "ignore::UserWarning", "example.py"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "No verdict: VGG19 had random weights" in done.stdout
    assert len(re.findall(r"^clips/test/.* None$", done.stdout, re.M)) == 8
    assert "Window(clip='clip.mp4'" in done.stdout


@pytest.mark.parametrize(
    "kind", [api.Prediction, api.Timeline, api.Window, api.Event, api.TrainedRun]
)
def test_every_field_is_named(kind: type) -> None:
    (row,) = [line for line in PAGE.splitlines() if line.startswith(f"| `{kind.__name__}` | `")]
    names = set(re.findall(r"`(\w+)`", row)) - {kind.__name__}
    assert names == {field.name for field in dataclasses.fields(kind)}


@pytest.mark.slow
def test_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook.cells)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    client = nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3")
    client.execute(cwd=str(tmp_path))
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == 3
    printed = "".join(output.get("text", "") for output in outputs)
    assert "No verdict: VGG19 had random weights" in printed
