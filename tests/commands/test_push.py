"""A detector on the Hub: what is pushed, and what stands in the way."""

import builtins
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.hub import Hub
from violence_detection.commands.push import main
from violence_detection.runs.saved_detector import find_detector
from violence_detection.storage.files import read_json, write_json


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    constants = pytest.importorskip("huggingface_hub.constants")
    hub = Hub()
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_tests")
    yield hub
    hub.close()


def test_what_is_pushed_predicts_and_has_no_path_of_this_machine(
    hub: Hub, run_before: None, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = read_json(run / "training_config.json")
    config["settings"] |= {"mlflow": "https://user:secret@host"}
    write_json(run / "training_config.json", config)
    assert main([str(run), "me/detector", "--private"]) == 0
    assert hub.url in capsys.readouterr().err
    (created,) = hub.created
    assert created["name"] == "detector"
    # Versions of the library differ in how they ask for it.
    assert created.get("private") or created.get("visibility") == "private"
    assert hub.tokens == {"Bearer hf_of_the_tests"}
    assert set(hub.files) == {
        *("README.md", "model_card.json", "best_model.keras", "detector.json"),
        "training_config.json",
    }
    for content in hub.files.values():
        assert str(tmp_path).encode() not in content and b"secret" not in content
    copy = tmp_path / "copy"
    copy.mkdir()
    for name, content in hub.files.items():
        (copy / name).write_bytes(content)
    assert find_detector(copy).threshold == find_detector(run).threshold


@pytest.mark.parametrize(
    ("folder", "repo", "status", "message"),
    [
        ("nothing", "me/detector", 2, "no such folder"),
        ("run", "me/detector?", 2, "REPO me/detector?"),
        ("run", "me/detector", 1, "me/detector cannot be pushed"),
    ],
)
def test_what_stands_in_the_way_is_one_line(
    folder: str,
    repo: str,
    status: int,
    message: str,
    hub: Hub,
    run_before: None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    hub.refuse = 403
    assert main([str(tmp_path / folder), repo]) == status
    error = capsys.readouterr().err
    assert message in error and error.startswith("error: ") and error.count("\n") == 1


def test_nobody_logged_in(
    hub: Hub,
    run_before: None,
    run: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import huggingface_hub.constants

    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    assert main([str(run), "me/detector"]) == 2
    assert "hf auth login" in capsys.readouterr().err
    assert not hub.created


def test_missing_library_is_named_with_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = builtins.__import__

    def without_hub(name: str, *rest: Any, **named: Any) -> Any:
        if name.startswith("huggingface_hub"):
            raise ImportError(name)
        return real(name, *rest, **named)

    monkeypatch.delitem(sys.modules, "huggingface_hub", raising=False)
    monkeypatch.setattr(builtins, "__import__", without_hub)
    assert main(["checkpoints", "me/detector"]) == 2
    assert "pip install -r requirements-hub.txt" in capsys.readouterr().err
