import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from tests.conftest import ROOT
from violence_detection.clips.locations import Locations
from violence_detection.commands import export
from violence_detection.commands.export import main
from violence_detection.export.runtimes import (
    open_keras,
    open_litert,
    open_onnx,
    open_openvino,
    open_saved_model,
    predict_clips,
)
from violence_detection.export.validation_clips import cached_features, clips_of_split
from violence_detection.inference.detector import load_detector
from violence_detection.storage.files import read_json

ENDINGS = ("tflite", "onnx", "keras", "xml")


def in_run(trained: Path, output: Path, *flags: str) -> list[str]:
    return ["--checkpoint-dir", str(trained / "run"), "--output", str(output), *flags]


def exports(output: Path) -> dict[str, dict[str, Any]]:
    """Return what `export.json` says, by file."""
    return {item["file"]: item for item in read_json(output / "export.json")["exports"]}


def test_every_format_is_written_and_compared(
    trained: Path, drawn_clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(in_run(trained, tmp_path)) == 0
    output = capsys.readouterr().out
    assert all(len(line) <= 80 for line in output.splitlines() if str(tmp_path) not in line)
    files = ["saved_model/1", *(f"detector.{name}" for name in ENDINGS)]
    assert [line for line in output.splitlines() if line.startswith("/")] == [
        str(tmp_path / name) for name in files
    ]
    found = exports(tmp_path)
    assert list(found) == files
    for item in found.values():
        assert item["passed"]
        assert item["clips"] == 8
        assert item["largest_difference"] < 1e-5
        assert item["changed_verdicts"] == 0
        assert item["accuracy"] == item["original"]["accuracy"]
        assert item["latency_ms"] > 0
        if item["trained_in"] == "float32":  # on a CPU without bfloat16
            assert item["as_trained"] is None
        else:
            assert item["as_trained"]["clips"] == 8
    assert found["detector.onnx"]["opset"] == 17
    assert found["detector.tflite"]["batch"] == 1

    # What the files say is what the run's own detector says of the same features.
    detector = load_detector(trained / "run")
    locations = Locations(drawn_clips, (tmp_path, 1.0), ExitStack())
    clips = clips_of_split(trained / "run", "val", locations)
    features = np.stack(list(cached_features(detector, clips, trained / "cache").values()))
    expected = detector.predict_features(features)
    one_each = [{"features": one[None].astype(np.float32)} for one in features]
    for predictor in (
        open_saved_model(tmp_path / "saved_model" / "1"),
        open_litert(tmp_path / "detector.tflite"),
        open_onnx(tmp_path / "detector.onnx"),
        open_keras(tmp_path / "detector.keras"),
        open_openvino(tmp_path / "detector.xml"),
    ):
        probabilities, attention = predict_clips(predictor, one_each, batch_size=3)
        # The run was trained and tested in bfloat16, where the CPU has it.
        np.testing.assert_allclose(probabilities, expected.probabilities, atol=0.02)
        np.testing.assert_allclose(attention, expected.attention, atol=0.02)


def test_saved_models_are_numbered_and_earlier_files_stay_listed(
    trained: Path, tmp_path: Path
) -> None:
    (tmp_path / ".partial-of-a-killed-one").mkdir()
    assert main(in_run(trained, tmp_path, "--format", "saved_model", "--clips", "2")) == 0
    assert not list(tmp_path.glob(".partial*"))
    assert main(in_run(trained, tmp_path, "--format", "saved_model", "--clips", "3")) == 0
    assert {name: item["clips"] for name, item in exports(tmp_path).items()} == {
        "saved_model/1": 2,
        "saved_model/2": 3,
    }
    shutil.rmtree(tmp_path / "saved_model" / "1")
    flags = ("--format", "onnx", "--quantize", "dynamic", "--batch", "2", "--tolerance", "0.1")
    assert main(in_run(trained, tmp_path, *flags)) == 0
    assert list(exports(tmp_path)) == ["saved_model/2", "detector_dynamic_batch2.onnx"]
    assert exports(tmp_path)["detector_dynamic_batch2.onnx"]["batch"] == 2


@pytest.mark.parametrize("quantize", ["float16", "int8"])
def test_quantized_files_have_their_names(trained: Path, tmp_path: Path, quantize: str) -> None:
    # How far they are from an untrained VGG19's features is another matter.
    assert main(in_run(trained, tmp_path, "--quantize", quantize, "--tolerance", "0.2")) == 0
    found = exports(tmp_path)
    assert list(found) == [f"detector_{quantize}.{name}" for name in ("tflite", "onnx", "xml")]
    for item in found.values():
        assert 0 < item["largest_difference"] < 0.2
        assert item["tolerance"] == 0.2


@pytest.mark.slow
def test_end_to_end_files_are_compared_on_the_clips(exported: Path) -> None:
    found = exports(exported)
    assert list(found) == [
        "saved_model_end_to_end/1",
        *(f"detector_end_to_end.{name}" for name in ENDINGS),
    ]
    for item in found.values():
        assert item["largest_difference"] < 1e-3
        assert item["clips"] == 2


def test_uncalibrated_files_have_the_probabilities_of_best_model(
    trained: Path, tmp_path: Path
) -> None:
    flags = ("--format", "keras", "onnx", "--no-calibrated")
    assert main(in_run(trained, tmp_path, *flags)) == 0
    found = exports(tmp_path)
    assert list(found) == ["detector_uncalibrated.keras", "detector_uncalibrated.onnx"]
    random = np.random.default_rng(0)
    features = random.uniform(0, 300, (3, 4, 128)).astype(np.float32)
    classifier = keras.models.load_model(trained / "run" / "best_model.keras")
    for open_file, name in ((open_onnx, "onnx"), (open_keras, "keras")):
        path = tmp_path / f"detector_uncalibrated.{name}"
        outputs = open_file(path).predict({"features": features})
        # The classifier computes in bfloat16, where the CPU has it.
        np.testing.assert_allclose(outputs.probabilities, classifier(features)[:, 0], atol=0.02)
        # They are compared as they are used: calibrated.
        assert found[path.name]["largest_difference"] < 1e-5
        assert found[path.name]["calibrated"] is False


def test_a_file_that_differs_too_much_has_failed_in_its_name(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--format", "litert", "--quantize", "dynamic", "--tolerance")
    assert main(in_run(trained, tmp_path, *flags, "1e-12")) == 1
    captured = capsys.readouterr()
    assert "litert dynamic FAILED" in captured.out
    assert captured.err.startswith("error: detector_dynamic.failed.tflite: ")
    assert captured.err.count("\n") == 1
    assert (tmp_path / "detector_dynamic.failed.tflite").is_file()
    assert not (tmp_path / "detector_dynamic.tflite").exists()
    assert not exports(tmp_path)["detector_dynamic.failed.tflite"]["passed"]
    assert main(in_run(trained, tmp_path, *flags, "0.5")) == 0
    assert not (tmp_path / "detector_dynamic.failed.tflite").exists()
    assert list(exports(tmp_path)) == ["detector_dynamic.tflite"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ("--format", "saved_model", "onnx", "--quantize", "int8"),
            "saved_model supports none only",
        ),
        (("--batch", "0"), "--batch 0: must be 1 or more"),
        (("--clips", "0"), "--clips 0: must be 1 or more"),
        (("--tolerance", "0"), "--tolerance 0: must be above 0"),
        (("--checkpoint-dir", "nothing"), "--checkpoint-dir nothing: no such folder"),
        (("--end-to-end", "--quantize", "dynamic"), "VGG19 to block1_conv1 has none"),
        (
            ("--cache-dir", "none", "--dataset-path", "none"),
            "neither features in none nor readable files",
        ),
        (("--end-to-end", "--dataset-path", "none"), "none of the run's val clips can be read"),
        (("--output", "file"), "file cannot be written"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_status_2(
    flags: tuple[str, ...],
    message: str,
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    assert main(in_run(trained, tmp_path / "output", *flags)) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1


def test_a_missing_package_is_named_with_the_command_that_installs_it(
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(export.PACKAGES, "onnx", ("onnx", "no_such_package"))
    assert main(in_run(trained, tmp_path, "--format", "onnx")) == 2
    error = capsys.readouterr().err
    assert "no_such_package" in error
    assert "pip install -r requirements-deploy.txt" in error
    assert (ROOT / "requirements-deploy.txt").is_file()
