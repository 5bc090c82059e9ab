"""Event files, read back as TensorBoard reads them."""

import os
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator

from violence_detection.errors import RunError
from violence_detection.reporting.event_files import (
    EventFile,
    event_files,
    histogram_pb,
    image_pb,
    scalar_pb,
    steps_in,
)


def write_steps(folder: Path, first: int, last: int) -> None:
    file = EventFile.start_in(folder, first)
    for step in range(first, last + 1):
        file.write(step, scalar_pb("loss", 1.0 / (step + 1)))
    file.close()


def shown(folder: Path) -> list[int]:
    return [event.step for event in EventAccumulator(str(folder)).Reload().Tensors("loss")]


def test_new_file_discards_later_steps_of_earlier_ones(tmp_path: Path) -> None:
    write_steps(tmp_path, 0, 5)
    write_steps(tmp_path, 3, 4)
    assert steps_in(tmp_path)["loss"] == set(range(5))
    assert shown(tmp_path) == list(range(5))


def test_new_file_is_the_last_even_if_the_clock_was_set_back(tmp_path: Path) -> None:
    earlier = tmp_path / "events.out.tfevents.99999999999.1"
    EventFile(earlier).close()
    write_steps(tmp_path, 0, 1)
    files = event_files(tmp_path)
    assert files[0] == earlier and len(files) == 2


def test_torn_record_ends_a_file(tmp_path: Path) -> None:
    write_steps(tmp_path, 0, 3)
    (path,) = event_files(tmp_path)
    os.truncate(path, path.stat().st_size - 3)
    assert steps_in(tmp_path)["loss"] == {0, 1, 2}


def written(folder: Path, summary: object) -> np.ndarray:
    """Return what TensorBoard makes of a summary."""
    file = EventFile.start_in(folder, 0)
    file.write(0, summary)
    file.close()
    (event,) = EventAccumulator(str(folder)).Reload().Tensors("shown")
    return tf.make_ndarray(event.tensor_proto)


def test_histogram_leaves_out_what_is_not_finite(tmp_path: Path) -> None:
    values = np.array([[0.0, 1.0], [np.nan, np.inf]])
    buckets = written(tmp_path, histogram_pb("shown", values, "some weights"))
    assert buckets[:, 2].sum() == 2
    assert (buckets[0, 0], buckets[-1, 1]) == (0, 1)


def test_image_is_a_png_of_its_size(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (3, 5, 4), np.uint8)
    width, height, png = written(tmp_path, image_pb("shown", image, ""))
    assert (width, height) == (b"5", b"3")
    np.testing.assert_array_equal(tf.io.decode_png(png), image)


def test_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunError, match=r"file/train cannot be written"):
        EventFile.start_in(tmp_path / "file" / "train", 0)
