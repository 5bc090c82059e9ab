"""What exported files say of themselves, and whether it is so."""

import importlib.util
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from violence_detection.commands.export import PACKAGES
from violence_detection.commands.export import main as export
from violence_detection.export.metadata import describe
from violence_detection.inference.detector import load_detector
from violence_detection.storage.files import read_json


def from_zip(path: Path) -> str:
    with zipfile.ZipFile(path) as archive:
        return archive.read("export.json").decode()


def from_onnx(path: Path) -> str:
    import onnxruntime

    metadata = onnxruntime.InferenceSession(path).get_modelmeta().custom_metadata_map
    return metadata["violence_detection"]


def from_openvino(path: Path) -> str:
    import openvino

    return openvino.Core().read_model(path).get_rt_info(["violence_detection"]).value


READERS: dict[str, Callable[[Path], str]] = {
    "saved_model": lambda path: (path / "assets.extra" / "export.json").read_text(),
    "litert": from_zip,
    "keras": from_zip,
    "onnx": from_onnx,
    "openvino": from_openvino,
}


def exports_of(folder: Path) -> dict[str, dict[str, Any]]:
    """Return what an export.json says, by format."""
    return {item["format"]: item for item in read_json(folder / "export.json")["exports"]}


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_files_have_the_metadata_of_export_json(name: str, exported: Path) -> None:
    if missing := [each for each in PACKAGES[name] if importlib.util.find_spec(each) is None]:
        pytest.skip(f"{missing[0]} is not installed")
    item = exports_of(exported)[name]
    assert json.loads(READERS[name](exported / item["file"])) == item["metadata"]
    assert item["metadata"]["calibrated"] is item["calibrated"] is True


@pytest.mark.slow
def test_inputs_and_outputs_are_those_of_the_file(exported: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    item = exports_of(exported)["onnx"]
    session = onnxruntime.InferenceSession(exported / item["file"])
    types = {"tensor(uint8)": "uint8", "tensor(float)": "float32"}
    for said, found in (
        (item["metadata"]["inputs"], session.get_inputs()),
        (item["metadata"]["outputs"], session.get_outputs()),
    ):
        described = {(each["name"], *each["shape"], each["dtype"]) for each in said}
        assert described == {(each.name, *each.shape, types[each.type]) for each in found}


@pytest.mark.slow
def test_sampling_and_threshold_are_those_of_the_detector(trained: Path, exported: Path) -> None:
    metadata = exports_of(exported)["keras"]["metadata"]
    saved = json.loads((trained / "run" / "detector.json").read_text())
    assert metadata["threshold"] == saved["threshold"]
    assert metadata["temperature"] == saved["temperature"]
    assert metadata["labels"] == ["nonviolent", "violent"]
    assert metadata["sampling"]["frames_read"] == 6
    assert metadata["sampling"]["frames_used"] == [0, 2, 3, 5]
    assert metadata["sampling"]["longest_clip_seconds"] == 3 * saved["clip_seconds"]
    assert list(metadata["streams"]) == ["difference", "flow"]


def test_values_of_features_are_described(trained: Path, tmp_path: Path) -> None:
    flags = ["--format", "keras", "--clips", "2", "--output", str(tmp_path)]
    assert export(["--checkpoint-dir", str(trained / "run"), *flags]) == 0
    metadata = exports_of(tmp_path)["keras"]["metadata"]
    (features,) = metadata["inputs"]
    assert features["shape"] == ["clips", 4, 128]
    parts = metadata["features"]
    assert [(each["stream"], each["values"]) for each in parts] == [
        ("difference", [0, 64]),
        ("flow", [64, 128]),
    ]
    pixel = np.array([10.0, 20.0, 30.0])
    for part in parts:
        assert (part["backbone"], part["layer"]) == ("vgg19", "block1_conv1")
        # Blue, green, red, less the means of ImageNet.
        prepared = pixel[part["order"]] * part["scale"] + part["offset"]
        np.testing.assert_allclose(prepared, [30 - 103.939, 20 - 116.779, 10 - 123.68], rtol=1e-6)


def test_an_uncalibrated_file_says_how_to_calibrate(trained: Path) -> None:
    from violence_detection.evaluation.calibration import calibrate
    from violence_detection.export.graph import detector_network

    detector = load_detector(trained / "run")
    network = detector_network(detector.classifier, 1.0)
    metadata = describe(detector, network, 2, calibrated=False)
    assert metadata["inputs"][0]["shape"][0] == metadata["outputs"][0]["shape"][0] == 2
    formula = metadata["calibration"].rpartition("probability is ")[2]
    known = {"exp": np.exp, "log": np.log, "temperature": metadata["temperature"]}
    for p in (0.01, 0.4, 0.97):
        expected = calibrate(np.array([p]), detector.temperature)[0]
        assert eval(formula, known | {"p": p}) == pytest.approx(expected)
