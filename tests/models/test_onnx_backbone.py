"""Backbones in ONNX files."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from onnx import TensorProto

from tests.onnx_files import (
    CLIPS_NETWORK,
    FRAMES_NETWORK,
    VALUES,
    weights,
    write_clips_network,
    write_frames_network,
    write_network,
)
from violence_detection.errors import UserError
from violence_detection.models.onnx_backbone import OnnxBackbone, identify_onnx


def draw_clips(count: int, frames: int) -> np.ndarray:
    """Return noise whose colours change from frame to frame."""
    random = np.random.default_rng(1)
    noise = random.integers(0, 120, (count, frames, 28, 28, 3), np.uint8)
    noise += random.integers(0, 120, (count, frames, 1, 1, 3), np.uint8)
    return noise.repeat(8, axis=2).repeat(8, axis=3)


def expected_of(pixels: np.ndarray) -> np.ndarray:
    """Return the features of `(n, anything, 3)` pixels: what the written networks compute."""
    normal = (pixels / 255 - np.array([0.4, 0.5, 0.6])) / np.array([0.2, 0.3, 0.4])
    return normal.reshape(len(pixels), -1, 3).mean(axis=1) ** 2 @ weights()


@pytest.mark.parametrize("in_json", [False, True])
def test_network_of_frames(tmp_path: Path, in_json: bool) -> None:
    path = tmp_path / "frames.onnx"
    if in_json:
        write_network(path, ["n", 3, "h", "w"], {}, [2, 3])
        path.with_suffix(".json").write_text(json.dumps(FRAMES_NETWORK | {"size": 64}))
    else:
        write_frames_network(path)
    clips = draw_clips(3, 4)
    found = OnnxBackbone(path, "last")(clips)
    assert found.shape == (3, 4, VALUES)
    small = [
        cv2.resize(frame, (64, 64), interpolation=cv2.INTER_AREA)
        for clip in clips
        for frame in clip
    ]
    np.testing.assert_allclose(
        found.reshape(12, VALUES), expected_of(np.stack(small)), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(("frames", "at_once"), [(4, 4), (8, 4), (6, "t")])
def test_network_of_clips_gives_each_frame_the_vector_of_its_part(
    tmp_path: Path, frames: int, at_once: int | str
) -> None:
    backbone = OnnxBackbone(write_clips_network(tmp_path / "clips.onnx", at_once), "features")
    clips = draw_clips(2, frames)
    found = backbone(clips)
    assert found.shape == (2, frames, VALUES)
    length = at_once if isinstance(at_once, int) else frames
    for first in range(0, frames, length):
        part = np.stack(
            [
                cv2.resize(f, (32, 32), interpolation=cv2.INTER_AREA)
                for f in clips[:, first : first + length].reshape(-1, 224, 224, 3)
            ]
        )
        expected = expected_of(part.reshape(2, -1, 3))
        for frame in range(first, first + length):
            np.testing.assert_allclose(found[:, frame], expected, rtol=1e-4, atol=1e-5)


def test_vectors_over_time_go_to_their_frames(tmp_path: Path) -> None:
    path = tmp_path / "time.onnx"
    write_network(path, ["n", 3, 8, 32, 32], CLIPS_NETWORK | {"tokens": "time"}, [3, 4])
    clips = draw_clips(1, 8)
    found = OnnxBackbone(path, "last")(clips)
    small = [cv2.resize(frame, (32, 32), interpolation=cv2.INTER_AREA) for frame in clips[0]]
    np.testing.assert_allclose(found[0], expected_of(np.stack(small)), rtol=1e-4, atol=1e-5)


def test_network_that_takes_bytes_needs_no_mean(tmp_path: Path) -> None:
    path = tmp_path / "bytes.onnx"
    write_network(path, ["n", 3, 224, 224], {"layout": "NCHW"}, [2, 3], TensorProto.UINT8)
    clips = draw_clips(1, 2)
    expected = clips[0].reshape(2, -1, 3).mean(axis=1) ** 2 @ weights()
    np.testing.assert_allclose(OnnxBackbone(path, "last")(clips)[0], expected, rtol=1e-4)


def test_weights_are_known_by_file_and_metadata(tmp_path: Path) -> None:
    path = write_frames_network(tmp_path / "net.onnx")
    before = identify_onnx(path)
    path.with_suffix(".json").write_text(json.dumps({"mean": [0, 0, 0]}))
    assert identify_onnx(path) != before


@pytest.mark.parametrize(
    ("shape", "metadata", "words"),
    [
        (["n", 3, 64, 64], {}, ["layout and mean and std missing", "net.json"]),
        (["n", 3, 64, 64], {"layout": "NCTHW"}, ["NCTHW", "[", "64", "NCHW or NHWC"]),
        (["n", 64, 64, 3], {}, ["channels", "64, not 3"]),
        (["n", 3, 64, 48], {}, ["64 high and 48 wide"]),
        (["n", 3, "h", "w"], {}, ["any size", "size"]),
        (["n", 3, 64, 64], {"size": 32}, ["size 32", "64"]),
        (["n", 3, 64, 64], {"mean": [0.5, 0.5]}, ["mean [0.5, 0.5]", "three numbers"]),
        (["n", 3, 64, 64], {"std": [1, 0, 1]}, ["std", "above 0"]),
        (["n", 3, 64, 64], {"tokens": "last"}, ["tokens 'last'", "mean, first, time"]),
        (["n", 3], {}, ["[", "3]"]),
    ],
)
def test_metadata_that_does_not_fit_is_named(
    tmp_path: Path, shape: list[int | str], metadata: dict[str, Any], words: list[str]
) -> None:
    path = tmp_path / "net.onnx"
    known = {} if words[0].startswith("layout and") else FRAMES_NETWORK
    averaged = [axis for axis, size in enumerate(shape) if axis > 0 and size != 3] or [1]
    write_network(path, shape, known | metadata, averaged)
    with pytest.raises(UserError) as error:
        OnnxBackbone(path, "last")
    assert all(word in str(error.value) for word in [str(path), *words])


def test_clips_of_another_length_are_refused_with_one_that_fits(tmp_path: Path) -> None:
    backbone = OnnxBackbone(write_clips_network(tmp_path / "clips.onnx", 13), "last")
    with pytest.raises(UserError, match="takes 13 frames at once: give --frames 13 or 26"):
        backbone(draw_clips(1, 16))


def test_file_that_is_not_onnx_is_named(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_text("not a network")
    with pytest.raises(UserError, match="cannot be read as ONNX"):
        OnnxBackbone(path, "last")
