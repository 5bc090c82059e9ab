from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest

from tests.export.examples import (
    FRAMES,
    draw_images,
    feature_clips,
    largest_difference,
    run_network,
    split_clips,
)
from violence_detection.errors import RunError
from violence_detection.export.graph import Source, end_to_end_network
from violence_detection.export.openvino import write_openvino
from violence_detection.export.runtimes import open_openvino, predict_clips
from violence_detection.models.vgg19 import load_vgg19_weights, vgg19


@pytest.mark.parametrize("batch", [None, 3])
def test_file_predicts_as_the_network(
    batch: int | None, network_of: Callable[[str], keras.Model], tmp_path: Path
) -> None:
    """In other tests the ONNX file, from which it is made, is run of each kind of classifier."""
    path, clips = tmp_path / "detector.xml", feature_clips(7)
    write_openvino(network_of("mean"), path, batch=batch)
    predictor = open_openvino(path)
    assert predictor.batch == batch
    found = predict_clips(predictor, clips, batch_size=2)
    assert largest_difference(found, run_network(network_of("mean"), clips)) < 1e-5
    assert sorted(each.name for each in tmp_path.iterdir()) == ["detector.bin", "detector.xml"]


def test_end_to_end_file_rounds_features_as_the_cache(tmp_path: Path) -> None:
    """Seen in the place of the attention; OpenVINO itself drops casts to float16 and back."""
    extractor = vgg19("block1_conv1")
    load_vgg19_weights(extractor, "random", "block1_conv1")
    features = keras.Input((FRAMES, 64), name="features")
    shown = {"probability": features[:, 0, 0], "attention": features[:, 0]}
    source = Source(extractor, "vgg19", ["rgb"], [0])
    detector = keras.Model(features, shown)
    network = end_to_end_network(detector, [source], FRAMES, by_casts=False)
    write_openvino(network, tmp_path / "detector.xml")
    clips = split_clips(draw_images(1, ["rgb"]))
    found = predict_clips(open_openvino(tmp_path / "detector.xml"), clips, batch_size=1).attention
    assert (found > 0.1).sum() >= 20
    np.testing.assert_array_equal(found, found.astype(np.float16))
    expected = run_network(end_to_end_network(detector, [source], FRAMES), clips).attention
    np.testing.assert_allclose(found, expected, rtol=2e-3)  # a sum next to a half is rounded away


def test_error_names_a_file_that_cannot_be_written(
    network_of: Callable[[str], keras.Model], tmp_path: Path
) -> None:
    (tmp_path / "detector.xml").mkdir()
    with pytest.raises(RunError, match=r"detector\.xml"):
        write_openvino(network_of("mean"), tmp_path / "detector.xml")
