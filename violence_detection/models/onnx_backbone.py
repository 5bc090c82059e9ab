"""A frozen network in an ONNX file in the place of VGG19: it sees frames, or whole clips."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from violence_detection.errors import UserError
from violence_detection.settings.constants import FRAME_SIZE, LAST_LAYER

LAYOUTS = {4: ("NCHW", "NHWC"), 5: ("NCTHW", "NTCHW", "NTHWC")}  # by the rank of the input
TOKENS = ("mean", "first", "time")
KEYS = ("layout", "size", "frames", "mean", "std", "scale", "tokens")
TYPES = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(uint8)": "uint8"}
IMAGES_AT_ONCE = 32


@dataclass(frozen=True)
class OnnxInput:
    """What the network of a file takes, from its metadata or the JSON file beside it.

    Pixels are red, green, blue; each becomes `(pixel * scale - mean) / std`.
    """

    layout: str  # the axes: N clips or frames, T time, C channels, H, W
    size: int  # pixels, both sides
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    scale: float
    tokens: str  # what becomes of `(n, tokens, values)`: one of `TOKENS`
    frames: int | None  # per pass; None: as many as a clip has

    @property
    def takes_clips(self) -> bool:
        """Whether the network sees several frames at once."""
        return "T" in self.layout


class OnnxBackbone:
    """Computes the features of clips by ONNX Runtime.

    A network of whole clips gives one or a few vectors per clip; each frame of the cache has that
    of its part of the clip.

    Args:
        path: of the file.
        layer: the name of an output, or `LAST_LAYER` for the only or first one.

    Raises:
        UserError: ONNX Runtime is not installed; the file cannot be read; its metadata is missing
            or does not fit to its input; it has no such output.
    """

    def __init__(self, path: Path, layer: str):
        self.path = path
        self._sessions = _sessions(path)
        first = self._sessions[0]
        if len(first.get_inputs()) != 1:
            inputs = ", ".join(item.name for item in first.get_inputs())
            raise UserError(f"--backbone {path}: has several inputs ({inputs}); one is possible")
        (self._input,) = first.get_inputs()
        if self._input.type not in TYPES:
            raise UserError(f"--backbone {path}: takes {self._input.type}, not pixels")
        self._dtype = TYPES[self._input.type]
        metadata = first.get_modelmeta().custom_metadata_map
        self.takes = read_input(path, self._input.shape, metadata, self._dtype == "uint8")
        names = [item.name for item in first.get_outputs()]
        self._output: str = names[0] if layer == LAST_LAYER else layer
        if self._output not in names:
            raise UserError(
                f"--feature-layer {layer}: {path} has no such output; it has {', '.join(names)}"
            )

    def __call__(self, clips: np.ndarray, pooling: str = "mean") -> np.ndarray:
        """Return `(clips, frames, features)` float32.

        Args:
            clips: `(clips, frames, 224, 224, 3)` uint8 RGB.
            pooling: of maps, see `models.pooling.pooled`.

        Raises:
            UserError: the network takes clips of another number of frames; its output is neither
                vectors nor maps; it cannot be run.
        """
        count, frames = clips.shape[:2]
        at_once = (self.takes.frames or frames) if self.takes.takes_clips else 1
        if frames % at_once:
            raise UserError(
                f"--frames {frames}: {self.path} takes {at_once} frames at once: give "
                f"--frames {at_once} or {2 * at_once}"
            )
        pieces = clips.reshape(-1, at_once, *clips.shape[2:])
        batch = self._input.shape[0]
        size = batch if isinstance(batch, int) else max(1, IMAGES_AT_ONCE // at_once)
        parts = [pieces[first : first + size] for first in range(0, len(pieces), size)]
        with ThreadPoolExecutor(len(self._sessions)) as threads:
            jobs = [
                threads.submit(self._run, self._sessions[number % len(self._sessions)], part, size)
                for number, part in enumerate(parts)
            ]
            outputs = [job.result() for job in jobs]
        vectors = np.concatenate([self._vectors(output, pooling) for output in outputs])
        steps = vectors.reshape(count, -1, vectors.shape[-1])
        return steps[:, np.arange(frames) * steps.shape[1] // frames]

    def _run(self, session: Any, pieces: np.ndarray, size: int) -> np.ndarray:
        """Return the output for some pieces, of which the last call has fewer."""
        padding = np.zeros((size - len(pieces), *pieces.shape[1:]), np.uint8)
        prepared = self._prepared(np.concatenate([pieces, padding]))
        try:
            (output,) = session.run([self._output], {self._input.name: prepared})
        except Exception as error:  # of ONNX Runtime, which has its own for each kind
            reason = str(error).splitlines()[0][:200]
            raise UserError(
                f"--backbone {self.path}: cannot be run on {prepared.shape} ({self.takes.layout}): "
                f"{reason}"
            ) from error
        return output[: len(pieces)].astype(np.float32)

    def _prepared(self, pieces: np.ndarray) -> np.ndarray:
        """Return `(pieces, frames, 224, 224, 3)` uint8 as the network takes them."""
        takes = self.takes
        if takes.size != FRAME_SIZE:
            import cv2  # VGG19 does without

            smaller = takes.size < FRAME_SIZE
            way = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
            size = (takes.size, takes.size)
            resized = [cv2.resize(frame, size, interpolation=way) for p in pieces for frame in p]
            pieces = np.stack(resized).reshape(*pieces.shape[:2], *size, 3)
        if self._dtype != "uint8":
            mean, std = (np.array(values, np.float32) for values in (takes.mean, takes.std))
            pieces = ((pieces * np.float32(takes.scale) - mean) / std).astype(self._dtype)
        if not takes.takes_clips:
            pieces = pieces[:, 0]
        stored = "NTHWC" if takes.takes_clips else "NHWC"
        return np.ascontiguousarray(pieces.transpose([stored.index(axis) for axis in takes.layout]))

    def _vectors(self, output: np.ndarray, pooling: str) -> np.ndarray:
        """Return `(pieces, vectors, values)` for the output: vectors, tokens or maps."""
        from violence_detection.models.pooling import pooled  # loads TensorFlow

        channels_last = self.takes.layout.endswith("C")
        if output.ndim == 2:
            return output[:, np.newaxis]
        if output.ndim == 3:
            if self.takes.tokens == "time":
                return output
            chosen = output[:, 0] if self.takes.tokens == "first" else output.mean(axis=1)
            return chosen[:, np.newaxis]
        if output.ndim == 4 and not self.takes.takes_clips:
            maps = output if channels_last else output.transpose(0, 2, 3, 1)
            return np.asarray(pooled(maps, pooling))[:, np.newaxis]
        if output.ndim == 5 and self.takes.takes_clips:
            maps = output if channels_last else output.transpose(0, 2, 3, 4, 1)
            return maps.mean(axis=(2, 3))
        raise UserError(
            f"--backbone {self.path}: its output {self._output} is {output.shape}, neither "
            "vectors, tokens nor maps"
        )


@cache
def onnx_backbone(path: str, layer: str) -> OnnxBackbone:
    """Return the network of a file; it is loaded once."""
    return OnnxBackbone(Path(path), layer)


def onnx_features(path: str, layer: str, pooling: str, frames: int) -> int:
    """Return the number of values per frame; the network is run once to find out.

    Raises:
        UserError: as `OnnxBackbone` and its call.
    """
    blank = np.zeros((1, frames, FRAME_SIZE, FRAME_SIZE, 3), np.uint8)
    return onnx_backbone(path, layer)(blank, pooling).shape[-1]


def identify_onnx(path: Path) -> str:
    """Return the MD5 checksum of a file and of the JSON file beside it."""
    digest = hashlib.md5(usedforsecurity=False)
    for part in (path, *_beside(path)):
        digest.update(part.read_bytes())
    return "md5-" + digest.hexdigest()


def _beside(path: Path) -> list[Path]:
    """Return the JSON file beside an ONNX file, if there is one."""
    candidates = (path.with_name(path.name + ".json"), path.with_suffix(".json"))
    return [candidate for candidate in candidates if candidate.is_file()][:1]


def _sessions(path: Path) -> list[Any]:
    """Return a session of ONNX Runtime on each GPU, or one on the CPU."""
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError(
            f"--backbone {path}: needs ONNX Runtime: pip install onnxruntime, or onnxruntime-gpu "
            "for a GPU"
        ) from error
    onnxruntime.set_default_logger_severity(3)
    providers: list[Any] = ["CPUExecutionProvider"]
    devices = [providers]
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        from violence_detection.runtime.devices import find_devices

        gpus = [device for device in find_devices(None) if device.device_type == "GPU"]
        devices = [
            [("CUDAExecutionProvider", {"device_id": number}), *providers]
            for number in range(len(gpus))
        ] or devices
    try:
        return [onnxruntime.InferenceSession(str(path), providers=each) for each in devices]
    except Exception as error:  # of ONNX Runtime, which has its own for each kind
        reason = str(error).splitlines()[0][:200]
        raise UserError(f"--backbone {path}: cannot be read as ONNX ({reason})") from error


def read_input(
    path: Path,
    shape: Sequence[int | str | None],
    metadata: Mapping[str, str],
    takes_bytes: bool = False,
) -> OnnxInput:
    """Return what a network takes, by its metadata, by the JSON file beside it, and its shape.

    Args:
        path: of the ONNX file.
        shape: of its input; names and None stand for any size.
        metadata: of the file; what the JSON file says goes before it.
        takes_bytes: its input is the pixels as they are, without mean and deviation.

    Raises:
        UserError: something is missing, of the wrong kind, or does not fit to the shape.
    """
    found: dict[str, Any] = {key: _plain(metadata[key]) for key in KEYS if key in metadata}
    for beside in _beside(path):
        try:
            found |= json.loads(beside.read_text(encoding="utf-8"))
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"{beside}: cannot be read as a JSON object: {error}") from error

    def wrong(what: str) -> UserError:
        return UserError(f"--backbone {path}: {what}; see docs/backbones.md")

    if unknown := found.keys() - set(KEYS):
        raise wrong(f"{sorted(unknown)[0]!r} in its JSON file is none of {', '.join(KEYS)}")
    if takes_bytes:
        found = {"mean": [0, 0, 0], "std": [1, 1, 1]} | found
    if missing := [key for key in ("layout", "mean", "std") if key not in found]:
        raise wrong(
            f"{' and '.join(missing)} missing: neither in its metadata nor in "
            f"{path.with_suffix('.json').name} beside it"
        )
    layout = found["layout"]
    if layout not in LAYOUTS.get(len(shape), ()):
        possible = " or ".join(LAYOUTS.get(len(shape), ("an image or a clip",)))
        raise wrong(f"layout {layout!r} for an input of shape {list(shape)}: must be {possible}")
    axes = dict(zip(layout, shape, strict=True))
    checks = _Checks(axes, wrong)
    checks.require_channels()
    size = checks.length("H", found.get("size"), "size")
    checks.require_same("W", size)
    frames = None
    if "T" in layout:
        frames = checks.length("T", found.get("frames"), "frames", required=False)
    tokens = found.get("tokens", "mean")
    if tokens not in TOKENS:
        raise wrong(f"tokens {tokens!r} is none of {', '.join(TOKENS)}")
    mean, std = (checks.three(found[key], key) for key in ("mean", "std"))
    if min(std) <= 0:
        raise wrong("std must be above 0")
    scale = found.get("scale", 1 / 255)
    if not isinstance(scale, int | float):
        raise wrong(f"scale {scale!r} is not a number")
    return OnnxInput(layout, size, mean, std, float(scale), tokens, frames)


@dataclass(frozen=True)
class _Checks:
    """Compares what metadata says with the shape of the input."""

    axes: Mapping[str, int | str | None]
    wrong: Callable[[str], UserError]

    def require_channels(self) -> None:
        """Raise `UserError` unless there may be three channels."""
        channels = self.axes["C"]
        if isinstance(channels, int) and channels != 3:
            raise self.wrong(f"its channels, axis C of the layout, are {channels}, not 3")

    def require_same(self, axis: str, size: int) -> None:
        """Raise `UserError` if an axis is of another length."""
        length = self.axes[axis]
        if isinstance(length, int) and length != size:
            raise self.wrong(f"its pictures are {size} high and {length} wide, not square")

    def length(self, axis: str, given: Any, name: str, required: bool = True) -> Any:
        """Return the length of an axis, from the shape or as it is given."""
        length = self.axes[axis]
        if given is not None and (not isinstance(given, int) or given < 1):
            raise self.wrong(f"{name} {given!r} is not a whole number above 0")
        if isinstance(length, int):
            if given not in (None, length):
                raise self.wrong(f"{name} {given}, but its input has {length}")
            return length
        if given is None and required:
            raise self.wrong(f"takes pictures of any size: give {name} in its metadata")
        return given

    def three(self, values: Any, name: str) -> tuple[float, float, float]:
        """Return three numbers."""
        is_numbers = isinstance(values, list) and all(isinstance(v, int | float) for v in values)
        if not is_numbers or len(values) != 3:
            raise self.wrong(f"{name} {values!r} is not three numbers")
        return float(values[0]), float(values[1]), float(values[2])


def _plain(text: str) -> Any:
    """Return a value of ONNX metadata, which are texts: JSON where it is, else the text."""
    try:
        return json.loads(text)
    except ValueError:
        return text
