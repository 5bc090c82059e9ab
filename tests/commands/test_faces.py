"""The two modules at the top that are also commands."""

import json
from pathlib import Path

import pytest

import config
import model_architecture

DATASET = ["--dataset-path", "/clips", "--vgg19-weights", "random"]


def test_resolved_settings_are_printed_with_what_was_changed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert config.main([*DATASET, "--batch-size", "96", "--epochs", "100"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["batch_size"], printed["epochs"]) == (96, 100)
    assert printed["changed"] == ["dataset_path", "vgg19_weights", "batch_size"]


def test_settings_that_contradict_each_other_are_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert config.main([*DATASET, "--epochs", "5", "--warmup-epochs", "5"]) == 2
    assert "--warmup-epochs 5" in capsys.readouterr().err


def test_page_of_flags_is_written(tmp_path: Path) -> None:
    page = tmp_path / "flags.md"
    assert config.main(["--write-flags-page", str(page)]) == 0
    assert "### `--batch-size N`" in page.read_text(encoding="utf-8")


def test_networks_are_printed_for_the_flags_given(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--vgg19-weights", "random", "--feature-layer", "block1_pool", "--head", "mean"]
    assert model_architecture.main(flags) == 0
    printed = capsys.readouterr().out
    assert "block1_conv2" in printed and "block2" not in printed
    assert "Memory per GPU" in printed
