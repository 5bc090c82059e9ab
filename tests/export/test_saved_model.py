import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.export.examples import (
    STREAMS,
    draw_features,
    draw_images,
    feature_clips,
    largest_difference,
    run_network,
    split_clips,
)
from violence_detection.errors import RunError
from violence_detection.export.runtimes import open_saved_model, predict_clips
from violence_detection.export.saved_model import write_saved_model

WITHOUT_THIS_PACKAGE = """
import sys
import numpy as np
import tensorflow as tf
model = tf.saved_model.load(sys.argv[1])
arrays = np.load(sys.argv[2])
for name in ("serving_default", "from_features"):
    for clips in (1, 5):
        outputs = model.signatures[name](features=tf.constant(arrays["features"][:clips]))
        assert sorted(outputs) == ["attention", "probability"]
        for output, values in outputs.items():
            np.testing.assert_allclose(values, arrays[output][:clips], atol=1e-5)
assert "violence_detection" not in sys.modules
print(sorted(model.signatures))
"""


def test_file_needs_nothing_of_this_package(
    network_of: Callable[[str], keras.Model], tmp_path: Path
) -> None:
    clips, network = feature_clips(5), network_of("attention-lstm")
    write_saved_model({"from_features": network}, tmp_path / "1")
    expected = run_network(network, clips)
    np.savez(
        tmp_path / "arrays.npz",
        features=np.concatenate([clip["features"] for clip in clips]),
        probability=expected.probabilities,
        attention=expected.attention,
    )
    command = [sys.executable, "-I", "-c", WITHOUT_THIS_PACKAGE, "1", "arrays.npz"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == "['from_features', 'serving_default']\n"
    found = predict_clips(open_saved_model(tmp_path / "1"), clips, batch_size=2)
    assert largest_difference(found, expected) < 1e-5


def test_batch_can_be_fixed(network_of: Callable[[str], keras.Model], tmp_path: Path) -> None:
    clips, network = feature_clips(4), network_of("mean")
    write_saved_model({"from_features": network}, tmp_path / "1", batch=3)
    predictor = open_saved_model(tmp_path / "1")
    assert predictor.batch == 3
    found = predict_clips(predictor, clips, batch_size=1)
    assert largest_difference(found, run_network(network, clips)) < 1e-5


def test_error_names_a_folder_that_cannot_be_written(
    network_of: Callable[[str], keras.Model], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="file"):
        write_saved_model({"from_features": network_of("mean")}, tmp_path / "file" / "1")


@pytest.mark.slow
def test_end_to_end_file_also_starts_from_features(
    end_to_end: tuple[keras.Model, keras.Model], tmp_path: Path
) -> None:
    network, head = end_to_end
    write_saved_model({"from_images": network, "from_features": head}, tmp_path / "1")
    signatures = tf.saved_model.load(str(tmp_path / "1")).signatures
    images = draw_images(2, STREAMS)
    expected = run_network(network, split_clips(images)).probabilities
    for name in ("serving_default", "from_images"):
        outputs = signatures[name](**{key: tf.constant(value) for key, value in images.items()})
        np.testing.assert_allclose(outputs["probability"], expected, atol=1e-5)
    features = draw_features(2, len(STREAMS) * 64)
    outputs = signatures["from_features"](features=tf.constant(features))
    np.testing.assert_allclose(outputs["probability"], head(features)["probability"], atol=1e-5)
