"""A trained detector, loaded for a command."""

import argparse
import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from violence_detection.commands.output import print_message
from violence_detection.models import backbone_title, extractor_title, random_weights_warning

if TYPE_CHECKING:
    from violence_detection.inference.detector import Detector

GIVEN_THRESHOLD = "--threshold"  # stands in the place of the goal that a threshold was chosen for


def load(
    checkpoint_dir: Path,
    vgg19_weights: str | None,
    *,
    mixed_precision: bool | None,
    replicas: int | None = None,
    threshold: float | None = None,
    quiet: bool = False,
    verify: Path | None = None,
) -> "Detector":
    """Return a trained detector; TensorFlow's messages while it starts are dropped.

    Args:
        checkpoint_dir: of a finished training.
        vgg19_weights: "imagenet", "random" or a file's path; None: as in training.
        mixed_precision: whether VGG19 computes in 16 bits; None: as in training.
        replicas: number of GPUs, or of parts of the CPU; None: all GPUs, or 1.
        threshold: probability from which a clip is violent; None: as chosen in training.
        quiet: show no clock while it loads.
        verify: public key of the signature that it must have; None: none is asked for.

    Raises:
        UserError: it is not signed with that key; the folder has no finished training, or its
            weights are missing.
    """
    from violence_detection.runs.saved_detector import find_detector
    from violence_detection.runtime.tensorflow_log import loading_tensorflow

    # TensorFlow takes seconds to load: only when all is checked that can be without it.
    saved = find_detector(checkpoint_dir, vgg19_weights)
    if verify is not None:
        from violence_detection.runs.signature import verify as verify_signature

        verify_signature(saved.checkpoint_dir, verify)
    with loading_tensorflow("loading TensorFlow and the detector", quiet=quiet):
        from violence_detection.inference.detector import open_detector

        detector = open_detector(saved, mixed_precision=mixed_precision, replicas=replicas)
    if threshold is None:
        return detector
    return dataclasses.replace(detector, threshold=threshold, chosen_for=GIVEN_THRESHOLD)


def load_for(flags: argparse.Namespace, replicas: int | None = None) -> "Detector":
    """Return the detector of a command's flags, as `load` does.

    Args:
        flags: with `checkpoint_dir` and those of `add_verify`, `add_vgg19_weights`,
            `add_threshold` and `add_devices`; `quiet`, if there is one, is heeded.
        replicas: instead of those in `flags`.
    """
    return load(
        flags.checkpoint_dir,
        flags.vgg19_weights,
        mixed_precision=flags.mixed_precision,
        replicas=replicas or flags.replicas,
        threshold=flags.threshold,
        quiet=getattr(flags, "quiet", False),
        verify=flags.verify,
    )


@contextlib.contextmanager
def reported(detector: "Detector", quiet: bool) -> Iterator[None]:
    """Print warnings about a detector and what it is; in the block, explain lack of memory.

    Args:
        detector: the detector that the block uses.
        quiet: print the warnings only.

    Raises:
        RunError: the block runs out of memory.
    """
    from violence_detection.runtime.devices import gpus_left_out

    devices = list(detector.devices)
    if untrained := detector.untrained_backbones:
        print_message(f"WARNING: {random_weights_warning(untrained)}")
    if gpus_left_out(devices):
        print_message(
            "WARNING: TensorFlow does not find this machine's NVIDIA GPU:\n"
            "pip install -r requirements-gpu.txt"
        )
    if not quiet:
        print_message(describe(detector))
    with explaining_memory(detector):
        yield


def explaining_memory(detector: "Detector") -> contextlib.AbstractContextManager[None]:
    """Raise a `RunError` that says what helps if the detector runs out of memory in the block."""
    from violence_detection.runtime.devices import enough_memory

    work = f"{backbone_title(detector.backbone)} on {detector.images_per_batch} images"
    advice = "Close other programs that use this device."
    return enough_memory(list(detector.devices), work, advice)


def describe_backbones(detector: "Detector") -> str:
    """Return the networks that compute a detector's features: VGG19 to block5_pool."""
    return " and ".join(extractor_title(r.backbone, r.layer) for r in detector.by_network)


def describe(detector: "Detector") -> str:
    """Return a line on a detector: its model, threshold, devices and number format."""
    devices = ", ".join(device.name for device in detector.devices)
    goal = detector.chosen_for
    origin = "given by --threshold" if goal == GIVEN_THRESHOLD else f"chosen for {goal}"
    return (
        f"{detector.name}: threshold {detector.threshold:.3f}, {origin}; "
        f"{describe_backbones(detector)} in "
        f"{detector.computation} on {devices}"
    )
