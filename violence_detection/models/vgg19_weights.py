"""Files of VGG19's weights: known by their content and checked without loading TensorFlow."""

import hashlib
from pathlib import Path

import h5py

from violence_detection.errors import UserError
from violence_detection.models.onnx_backbone import identify_onnx, onnx_backbone
from violence_detection.settings.constants import (
    FINE_TUNED,
    FRAME_SIZE,
    ONNX,
    PIXELS,
    VGG19,
    VGG19_LAYERS,
)
from violence_detection.settings.kinds import kinds_of
from violence_detection.settings.schema import Settings
from violence_detection.settings.setting import weights_flag

FILTERS = (64, 128, 256, 512, 512)  # per convolution of each block
# The files that keras.applications.VGG19 downloads, with and without the dense layers.
IMAGENET_URL = "https://storage.googleapis.com/tensorflow/keras-applications/vgg19/"
IMAGENET_WHOLE = (
    "vgg19_weights_tf_dim_ordering_tf_kernels.h5",
    "cbe5617147190e668d6c5d5026f83318",
)
IMAGENET_NO_TOP = (
    "vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5",
    "253f8cb515780f3b799900260a226db6",
)
RANDOM_WEIGHTS_SEED = 0  # independent of --seed, so that cached features stay valid


def layers_with_weights(feature_layer: str) -> list[str]:
    """Return the names of the layers up to `feature_layer` that have a kernel and a bias."""
    needed = VGG19_LAYERS[: VGG19_LAYERS.index(feature_layer) + 1]
    return [name for name in needed if "conv" in name or name in ("fc1", "fc2", "predictions")]


def feature_size(feature_layer: str, pooling: str = "mean") -> int:
    """Return the number of values per frame at `feature_layer`."""
    if feature_layer.startswith("block"):
        block = int(feature_layer[len("block")])
        size = FRAME_SIZE // 2 ** (block if feature_layer.endswith("pool") else block - 1)
        per_channel = {"mean+max": 2, "grid": 4, "flat": size**2}.get(pooling, 1)
        return per_channel * FILTERS[block - 1]
    return {"flatten": 25088, "fc1": 4096, "fc2": 4096, "predictions": 1000}[feature_layer]


def identify_weights(weights: str, feature_layer: str, backbone: str = VGG19) -> str:
    """Return an identifier of weights: the MD5 checksum of their file; empty for `PIXELS`.

    Args:
        weights: "imagenet", "random" or a file's path.
        feature_layer: a name from `VGG19_LAYERS`; of another backbone, any.
        backbone: the network, one of `BACKBONES`.

    Raises:
        UserError: as `check_weights`.
    """
    if backbone == PIXELS:
        return ""
    if backbone.endswith(ONNX):
        check_weights(weights, feature_layer, backbone)
        return identify_onnx(Path(weights))
    if weights == "random":
        return f"random-{RANDOM_WEIGHTS_SEED}"
    if weights == "imagenet":  # as published: known without the file
        return "md5-" + imagenet_file(feature_layer)[1] if backbone == VGG19 else "imagenet"
    check_weights(weights, feature_layer, backbone)
    with Path(weights).open("rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False))
    return "md5-" + digest.hexdigest()


def imagenet_file(feature_layer: str) -> tuple[str, str]:
    """Return the name and the MD5 checksum of the file that `feature_layer` needs."""
    return IMAGENET_NO_TOP if feature_layer.startswith("block") else IMAGENET_WHOLE


def weight_names(group: h5py.Group) -> list[str]:
    """Return the names of a layer's kernel and bias, in this order."""
    names = group.attrs.get("weight_names", list(group))
    return [name.decode() if isinstance(name, bytes) else str(name) for name in names]


def check_all_weights(settings: Settings) -> None:
    """Check the weights of all networks that a run needs, as `check_weights` does."""
    for kind in kinds_of(settings):
        tuned = FINE_TUNED.get(kind.model.fine_tune)
        for backbone in kind.features.backbones:
            check_weights(backbone.weights, tuned[-1] if tuned else backbone.layer, backbone.name)


def check_weights(weights: str, feature_layer: str, backbone: str = VGG19) -> None:
    """Check a file of weights without reading them.

    Args:
        weights: "imagenet", "random" or a file's path.
        feature_layer: a name from `VGG19_LAYERS`; of another backbone, any.
        backbone: the network, one of `BACKBONES`; what is in a file of another one than VGG19 is
            checked when it is loaded.

    Raises:
        UserError: there is no such file, it is not HDF5, or lacks a layer up to `feature_layer`;
            an ONNX file is not as `OnnxBackbone` needs it.
    """
    if backbone == PIXELS or weights in ("imagenet", "random"):
        return
    path = Path(weights)
    if not path.is_file():
        raise UserError(
            f"{weights_flag(backbone)} {weights}: no such file (imagenet, random, or the path of "
            "an .h5 file)"
        )
    if backbone.endswith(ONNX):
        onnx_backbone(weights, feature_layer)
    if backbone != VGG19:
        return
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise UserError(
            f"--vgg19-weights {path}: not an HDF5 file; it must have the layout of Keras's own "
            "VGG19 files"
        ) from error
    with file:
        kernel_inputs = 3
        for name in layers_with_weights(feature_layer):
            group = file.get(name)
            if not isinstance(group, h5py.Group) or len(weight_names(group)) != 2:
                raise UserError(
                    f"--vgg19-weights {path}: layer {name} is missing, but --feature-layer "
                    f"{feature_layer} needs it; choose a lower layer or the full file"
                )
            kernel, bias = (group[key] for key in weight_names(group))
            expected = _kernel_shape(name, kernel_inputs)
            if kernel.shape != expected or bias.shape != expected[-1:]:
                raise UserError(
                    f"--vgg19-weights {path}: the kernel of {name} is {kernel.shape}, "
                    f"VGG19 has {expected}"
                )
            kernel_inputs = expected[-1]


def _kernel_shape(name: str, inputs: int) -> tuple[int, ...]:
    if name.startswith("block"):
        return (3, 3, inputs, feature_size(name))
    return (25088 if name == "fc1" else inputs, feature_size(name))
