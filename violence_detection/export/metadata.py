"""What somebody who has only an exported file needs to know to feed it, as JSON.

The same object is in `export.json` and, where the format has a place for it, in the file itself.
"""

import dataclasses
import json
import zipfile
from pathlib import Path
from typing import Any

import keras

from violence_detection.clips.streams import FLOW_SCALE, MARGIN, MIN_SHIFT
from violence_detection.errors import failing_as
from violence_detection.export.graph import (
    ATTENTION,
    EPSILON,
    FEATURES,
    PROBABILITY,
    input_specs,
)
from violence_detection.features.cache.feature_cache import Recipe
from violence_detection.inference.detector import Detector
from violence_detection.models.backbones import preprocessing
from violence_detection.models.onnx_backbone import onnx_backbone
from violence_detection.settings.constants import (
    BACKBONES,
    CLASS_NAMES,
    FRAME_SIZE,
    LONG_CLIP,
    ONNX,
    PIXELS,
)

KEY = "violence_detection"  # of the JSON in ONNX's metadata_props and OpenVINO's rt_info
MEMBER = "export.json"  # its name in files that are or become zip archives, and in a SavedModel
CLIPS = "clips"  # stands for any number of clips in a shape

STREAM_RULES = {
    "rgb": "the frames themselves",
    "difference": "the absolute difference of each frame to the one read before it, by channel, "
    "the earlier one moved by the camera's motion first; the first frame has the image of the "
    "second",
    "flow": "the dense optical flow to each frame from the one read before it, in grey, the "
    "earlier one moved by the camera's motion first: cv2.DISOpticalFlow, preset medium; the "
    "channels are 128 + flow_scale * right, 128 + flow_scale * down and flow_scale * length, "
    "clipped to 0 to 255 and rounded; the first frame has the image of the second",
}
CAMERA_MOTION = {
    "rule": "cv2.phaseCorrelate from the earlier frame to the later one, in grey "
    "(cv2.COLOR_RGB2GRAY), float32, without margin pixels at each edge, with a Hanning window; "
    "none if it is shorter than shortest pixels, or if the mean absolute difference of the grey "
    "frames is not smaller with it; moved by cv2.warpAffine, bilinear, the edges replicated",
    "margin": MARGIN,
    "shortest": MIN_SHIFT,
}
RESIZED = "cv2.INTER_LINEAR, without antialiasing"


def describe(
    detector: Detector, network: keras.Model, batch: int | None, calibrated: bool
) -> dict[str, Any]:
    """Return how a file is fed, and what its outputs mean.

    Args:
        detector: that was exported.
        network: that is in the file.
        batch: clips per call, if that is fixed; None: any number.
        calibrated: whether its probability is.
    """
    from_features = [tensor.name for tensor in network.inputs] == [FEATURES]
    return {
        "model": detector.model_path.name,
        "model_checksum": detector.model_checksum,
        "end_to_end": not from_features,
        "inputs": _inputs(network, batch, from_features),
        "outputs": _outputs(detector.frames, batch, calibrated),
        "labels": list(CLASS_NAMES),
        "probability_of": CLASS_NAMES[1],
        "calibrated": calibrated,
        "temperature": detector.temperature,
        "calibration": "in the file: nothing is to be done"
        if calibrated
        else "p is kept between epsilon and 1 - epsilon; the calibrated probability is "
        "1 / (1 + exp(-log(p / (1 - p)) / temperature))",
        "epsilon": EPSILON,
        "threshold": detector.threshold,
        "decision": "violent if the calibrated probability is at least the threshold",
        "sampling": _sampling(detector),
        "pictures": _pictures(from_features),
        "streams": {name: _stream(name) for name in detector.streams},
        **({"features": _features(detector)} if from_features else {}),
    }


def _inputs(network: keras.Model, batch: int | None, from_features: bool) -> list[dict[str, Any]]:
    axes = ["clip", "frame", *(["value"] if from_features else ["row", "column", "channel"])]
    return [
        {
            "name": spec.name,
            "shape": [batch or CLIPS, *spec.shape[1:]],
            "dtype": spec.dtype.name,
            "axes": axes,
            "content": "see features" if from_features else f"the images of stream {spec.name}",
        }
        for spec in input_specs(network, batch)
    ]


def _outputs(frames: int, batch: int | None, calibrated: bool) -> list[dict[str, Any]]:
    kind = "calibrated" if calibrated else "not calibrated"
    return [
        {
            "name": PROBABILITY,
            "shape": [batch or CLIPS],
            "dtype": "float32",
            "content": f"the probability that the clip is {CLASS_NAMES[1]}, {kind}",
        },
        {
            "name": ATTENTION,
            "shape": [batch or CLIPS, frames],
            "dtype": "float32",
            "content": "the weights of the frames, which sum to 1",
        },
    ]


def _sampling(detector: Detector) -> dict[str, Any]:
    seconds = detector.clip_seconds
    return {
        "frames_read": detector.cached_frames,
        "rule": "frame round(i * (n - 1) / (frames_read - 1)) of a clip's n frames, for i from 0 "
        "to frames_read - 1, halves to even; the first if only one is read; of a variable frame "
        "rate, the frames nearest to moments that are evenly spaced in time",
        "frames_used": detector.frame_indices.tolist(),
        "used": "streams are computed of all frames that are read; the indices in frames_used "
        "say which of their images are the input",
        "training_clip_seconds": seconds,
        "longest_clip_seconds": seconds and LONG_CLIP * seconds,
        "longer": "videos that are longer are cut into windows of training_clip_seconds, each "
        "of which is a clip",
    }


def _pictures(from_features: bool) -> dict[str, Any]:
    return {
        "size": [FRAME_SIZE, FRAME_SIZE],
        "resize": f"{RESIZED}, both sides to size: stretched, neither cropped nor padded",
        "orientation": "as displayed: turned, mirrored and cropped as the video file says",
        "channels": "RGB",
        "dtype": "uint8",
        "values": [0, 255],
        "normalization": "see features" if from_features else "in the file: nothing is to be done",
    }


def _stream(name: str) -> dict[str, Any]:
    rule: dict[str, Any] = {"rule": STREAM_RULES[name]}
    if name != "rgb":
        rule["camera_motion"] = CAMERA_MOTION
    if name == "flow":
        rule["flow_scale"] = FLOW_SCALE
    return rule


def _features(detector: Detector) -> list[dict[str, Any]]:
    """Return what computes which of the values of a frame."""
    return [
        {
            "values": [part.start, part.stop],
            "stream": recipe.stream,
            "backbone": recipe.backbone,
            "layer": recipe.layer,
            "pooling": recipe.pooling,
            "weights": recipe.weights,
            "rounded_to": recipe.dtype,
            **_preparation(recipe, detector.weights[recipe.network]),
        }
        for recipe, part in zip(detector.recipes, detector.parts, strict=True)
    ]


def _preparation(recipe: Recipe, weights: str) -> dict[str, Any]:
    """Return what is done to the pictures before a backbone sees them."""
    if recipe.backbone == PIXELS:
        size = int(recipe.layer)
        return {
            "size": [size, size],
            "resize": "each pixel is the mean of the area that it covers, rounded; the values "
            "are those of rows of pixels, red, green and blue each",
        }
    if recipe.backbone.endswith(ONNX):
        known = dataclasses.asdict(onnx_backbone(weights, recipe.layer).takes)
        size = known.pop("size")
        return {
            "size": [size, size],
            "resize": "cv2.INTER_AREA to a smaller size, cv2.INTER_LINEAR to a larger one",
            "preprocessing": "(pixel * scale - mean) / std",
            **known,
        }
    size, pixel = BACKBONES[recipe.backbone], preprocessing(recipe.backbone)
    return {
        "size": [size, size],
        "resize": RESIZED,
        "preprocessing": "pixel[order] * scale + offset",
        "order": pixel.order,
        "scale": pixel.scale.tolist(),
        "offset": pixel.offset.tolist(),
    }


def as_text(metadata: dict[str, Any]) -> str:
    """Return metadata as they stand in a file."""
    return json.dumps(metadata)


def add_to_zip(path: Path, metadata: dict[str, Any]) -> None:
    """Add metadata as `MEMBER` to a zip archive; another file becomes one, as it is before it.

    Args:
        path: of a `.keras` file, which is an archive, or of a `.tflite` file, which is read from
            its start, and archives from their end.
        metadata: from `describe`.

    Raises:
        RunError: the file cannot be written.
    """
    with failing_as(path), zipfile.ZipFile(path, "a") as archive:
        archive.writestr(MEMBER, as_text(metadata))


def add_to_onnx(path: Path, metadata: dict[str, Any]) -> None:
    """Add metadata to the `metadata_props` of an ONNX file.

    Raises:
        RunError: the file cannot be written.
    """
    import onnx

    entry = onnx.StringStringEntryProto(key=KEY, value=as_text(metadata))
    # Messages that follow one another in a file are merged: the weights need not be read.
    with failing_as(path), path.open("ab") as file:
        file.write(onnx.ModelProto(metadata_props=[entry]).SerializeToString())


def add_to_saved_model(folder: Path, metadata: dict[str, Any]) -> None:
    """Add metadata to a SavedModel, in the folder that TensorFlow leaves to others.

    Raises:
        RunError: the folder cannot be written.
    """
    path = folder / "assets.extra" / MEMBER
    with failing_as(path):
        path.parent.mkdir()
        path.write_text(as_text(metadata), encoding="utf-8")
