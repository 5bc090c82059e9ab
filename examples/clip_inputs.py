"""What the examples run_*.py have in common: a clip as the inputs of an exported file.

Needs OpenCV and NumPy. All numbers are from the export.json in the folder of the file.
"""

import itertools
import json
from pathlib import Path

import cv2
import numpy as np


def metadata_of(model: str) -> dict:
    """Return what export.json says of a file that starts from images."""
    path = Path(model).resolve()
    folder = next((p for p in path.parents if (p / "export.json").exists()), path.parent)
    exports = json.loads((folder / "export.json").read_text(encoding="utf-8"))["exports"]
    for item in exports:
        if folder / item["file"] == path and item["end_to_end"]:
            return item["metadata"]
    raise SystemExit(f"{model} is not in {folder / 'export.json'}, or starts from features")


def inputs_of(clip: str, metadata: dict) -> dict[str, np.ndarray]:
    """Return a clip's images, `(clips, frames, height, width, 3)` uint8, by the inputs' names."""
    frames = read_frames(clip, metadata["sampling"]["frames_read"], metadata["pictures"]["size"])
    inputs = {}
    for each in metadata["inputs"]:
        images = stream_images(frames, each["name"], metadata["streams"][each["name"]])
        used = images[metadata["sampling"]["frames_used"]]
        batch = each["shape"][0]
        inputs[each["name"]] = np.stack([used] * (batch if isinstance(batch, int) else 1))
    return inputs


def read_frames(clip: str, count: int, size: list[int]) -> np.ndarray:
    """Return `count` frames, evenly spaced, `(count, height, width, 3)` uint8 RGB."""
    video, frames = cv2.VideoCapture(clip), []
    while (picture := video.read()[1]) is not None:
        frames.append(cv2.cvtColor(cv2.resize(picture, size), cv2.COLOR_BGR2RGB))
    if not frames:
        raise SystemExit(f"{clip} cannot be read")
    positions = np.linspace(0, len(frames) - 1, count).round().astype(int)
    return np.stack([frames[position] for position in positions])


def stream_images(frames: np.ndarray, stream: str, rule: dict) -> np.ndarray:
    """Return what a stream shows of frames: themselves, their differences, or optical flow."""
    if stream == "rgb" or len(frames) == 1:
        return frames if stream == "rgb" else np.zeros_like(frames)
    images = []
    for before, after in itertools.pairwise(frames):
        greys = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in (before, after)]
        shift = camera_motion(*greys, rule["camera_motion"])
        if stream == "difference":
            images.append(cv2.absdiff(moved(before, shift), after))
            continue
        search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        flow = search.calc(moved(greys[0], shift), greys[1], None)
        length = np.linalg.norm(flow, axis=2, keepdims=True)
        scaled = rule["flow_scale"] * np.concatenate([flow, length], axis=2) + [128, 128, 0]
        images.append(scaled.clip(0, 255).round().astype(np.uint8))
    return np.stack([images[0], *images])


def camera_motion(before: np.ndarray, after: np.ndarray, rule: dict) -> tuple[float, float]:
    """Return by how many pixels, right and down, the whole picture moved."""
    inner = slice(rule["margin"], -rule["margin"])
    first, second = (np.float32(grey[inner, inner]) for grey in (before, after))
    window = cv2.createHanningWindow(first.shape[::-1], cv2.CV_32F)
    shift, _ = cv2.phaseCorrelate(first, second, window)
    better = cv2.absdiff(moved(before, shift), after).mean() < cv2.absdiff(before, after).mean()
    return shift if np.hypot(*shift) >= rule["shortest"] and better else (0.0, 0.0)


def moved(image: np.ndarray, shift: tuple[float, float]) -> np.ndarray:
    """Return an image that is moved right and down."""
    matrix = np.float32([[1, 0, shift[0]], [0, 1, shift[1]]])
    size = image.shape[1::-1]
    return cv2.warpAffine(image, matrix, size, borderMode=cv2.BORDER_REPLICATE)


def report(probability: float, metadata: dict) -> None:
    """Print the calibrated probability, and what it means."""
    if not metadata["calibrated"]:
        kept = np.clip(np.float64(probability), metadata["epsilon"], 1 - metadata["epsilon"])
        probability = 1 / (1 + np.exp(-np.log(kept / (1 - kept)) / metadata["temperature"]))
    violent = probability >= metadata["threshold"]
    print(f"{probability:.6f} {metadata['labels'][int(violent)]}")
