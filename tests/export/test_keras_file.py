"""Exported files that Keras loads without this project."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import keras
import pytest

from tests.export.examples import (
    FRAMES,
    KINDS,
    draw_images,
    feature_clips,
    largest_difference,
    make_classifier,
    run_network,
    split_clips,
)
from violence_detection.export.graph import Source, detector_network, end_to_end_network
from violence_detection.export.runtimes import open_keras, predict_clips
from violence_detection.models.extractor import build_extractor

LOADED = """
import sys
import keras
for path in sys.argv[1:]:
    keras.models.load_model(path)
assert "violence_detection" not in sys.modules
"""


def require_loaded_by_keras_alone(folder: Path) -> None:
    paths = map(str, folder.glob("*.keras"))
    command = [sys.executable, "-I", "-c", LOADED, *paths]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.slow
def test_files_of_classifiers_predict_as_the_networks_without_loops(
    network_of: Callable[[str], keras.Model], tmp_path: Path
) -> None:
    clips = feature_clips(2)
    for kind in KINDS:
        path = tmp_path / f"{kind}.keras"
        detector_network(make_classifier(kind), 1.5, only_keras=True).save(path)
        found = predict_clips(open_keras(path), clips, batch_size=2)
        assert largest_difference(found, run_network(network_of(kind), clips)) < 1e-5, kind
    require_loaded_by_keras_alone(tmp_path)


@pytest.mark.slow
def test_end_to_end_file_of_pixels_and_a_backbone(tmp_path: Path) -> None:
    backbone = build_extractor("EfficientNetB0", "block1a_project_conv", "random")
    sources = [
        Source(build_extractor("pixels", "100", None), "pixels", ["rgb"], [0], "uint8"),
        Source(backbone, "EfficientNetB0", ["rgb", "flow"], [1, 2]),
    ]
    width = 100 * 100 * 3 + 2 * 16
    classifier = make_classifier("bidirectional", width)
    network, expected = (
        end_to_end_network(detector_network(classifier, 1.5, only_keras), sources, FRAMES)
        for only_keras in (True, False)
    )
    network.save(tmp_path / "end_to_end.keras")
    clips = split_clips(draw_images(2, ["rgb", "flow"]))
    found = predict_clips(open_keras(tmp_path / "end_to_end.keras"), clips, batch_size=1)
    assert largest_difference(found, run_network(expected, clips)) < 1e-4
    require_loaded_by_keras_alone(tmp_path)
