"""Every setting of a run, once: its flag, default, unit, meaning and check.

Imports nothing heavy, so that `--help` answers at once and a wrong flag is told before
TensorFlow is loaded.
"""

import argparse
import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from errors import UserError

FRAME_SIZE = 224  # pixels, both sides: what VGG19 was trained on
FINAL_LEARNING_RATE = 1e-7  # where the cosine ends
CHECKPOINT_EVERY = 5  # epochs
UNREADABLE_LIMIT = 0.1  # share of a split's clips; above it the run stops
SPLITS = ("train", "val", "test")
SPLIT_SHARES = {"train": 0.70, "val": 0.15, "test": 0.15}  # when the folder has no splits
CLASS_NAMES = ("nonviolent", "violent")  # the position is the label

VGG19_CONVOLUTIONS = (2, 2, 4, 4, 4)  # per block
VGG19_LAYERS = (
    *(
        name
        for block, convolutions in enumerate(VGG19_CONVOLUTIONS, start=1)
        for name in (
            *(f"block{block}_conv{i}" for i in range(1, convolutions + 1)),
            f"block{block}_pool",
        )
    ),
    *("flatten", "fc1", "fc2", "predictions"),
)

Check = tuple[Callable[[Any], bool], str]  # what must hold, and that in words
AT_LEAST_0: Check = (lambda value: value >= 0, "must be 0 or more")
AT_LEAST_1: Check = (lambda value: value >= 1, "must be 1 or more")
SHARE: Check = (lambda value: 0 <= value < 1, "must be at least 0 and below 1")


def setting(group: str, default: Any, meaning: str, check: Check | None = None, **flag: Any) -> Any:
    """Declare one setting: its help group, default, meaning, check and argparse's own options."""
    metadata = {"group": group, "meaning": meaning, "check": check, "flag": flag}
    return field(default=default, metadata=metadata)


def finite(text: str) -> float:
    """Return the float that `text` spells; raises ValueError for nan and infinities."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


finite.__name__ = "number"  # argparse says "invalid number value"

THRESHOLD_GOALS = ("accuracy", "balanced", "f1", "recall=SHARE", "fpr=SHARE")


def parse_threshold_goal(text: str) -> tuple[str, float]:
    """Return the goal and its share (1 where it has none); raises ValueError for any other text."""
    name, equals, share = text.partition("=")
    if name in ("accuracy", "balanced", "f1") and not equals:
        return name, 1.0
    if name in ("recall", "fpr") and 0 <= finite(share) <= 1:
        return name, finite(share)
    raise ValueError(text)


def is_threshold_goal(text: str) -> bool:
    """Return whether `parse_threshold_goal` understands it."""
    try:
        parse_threshold_goal(text)
    except ValueError:
        return False
    return True


@dataclass(frozen=True)
class Settings:
    """The settings of one run. A field's name is its flag: `batch_size` is `--batch-size`."""

    dataset_path: Path = setting(
        "data",
        None,
        "folder of clips: DIR/{train,val,test}/{violent,nonviolent} or DIR/{violent,nonviolent}; "
        "required, unless --demo",
        type=Path,
        metavar="DIR",
    )
    cache_dir: Path = setting(
        "data",
        Path("feature_cache"),
        "where features are kept; may be shared by runs",
        type=Path,
        metavar="DIR",
    )
    checkpoint_dir: Path = setting(
        "data",
        Path("checkpoints"),
        "everything that the run writes",
        type=Path,
        metavar="DIR",
    )
    demo: bool = setting(
        "data",
        False,
        "draw a small dataset under ./demo and run the whole job on it, offline, with untrained "
        "VGG19 weights and quick settings (any flag given still counts)",
    )
    on_bad_clip: str = setting(
        "data",
        "skip",
        "a clip that cannot be read is left out (skip), kept as zeros, or stops the run (fail)",
        choices=("skip", "zeros", "fail"),
    )
    clip_timeout: float = setting(
        "data",
        120.0,
        "seconds that reading a clip may take; then it is one that cannot be read",
        (lambda value: value > 0, "must be above 0"),
        type=finite,
        metavar="SECONDS",
    )
    on_leakage: str = setting(
        "data",
        "warn",
        "clips of validation or test that are all but the same as one of another split: tell of "
        "them (warn), leave out the training or validation clip (drop), or stop the run (fail)",
        choices=("warn", "drop", "fail"),
    )

    frames: int = setting(
        "features",
        16,
        "frames per clip, evenly spaced over the whole clip",
        AT_LEAST_1,
        type=int,
        metavar="N",
    )
    feature_layer: str = setting(
        "features",
        "fc2",
        "VGG19 layer whose output is the feature: fc1 and fc2 give 4096 values a frame; a "
        "convolution or pooling layer (block1_conv1 … block5_pool) is averaged over its height "
        "and width. Nothing above it is built or run",
        (lambda value: value in VGG19_LAYERS, f"is not one of {', '.join(VGG19_LAYERS)}"),
        type=str,
        metavar="LAYER",
    )
    vgg19_weights: str = setting(
        "features",
        "imagenet",
        "imagenet (downloaded once by Keras), a local .h5 file in the layout of Keras's own "
        "VGG19 files, or random (untrained: for trying things out only)",
        type=str,
        metavar="NAME|FILE",
    )
    feature_dtype: str = setting(
        "features",
        "float16",
        "number format of the features on disk",
        choices=("float16", "float32"),
    )

    epochs: int = setting(
        "training", 100, "passes over the training clips", AT_LEAST_1, type=int, metavar="N"
    )
    batch_size: int = setting(
        "training",
        64,
        "clips per step, over all replicas together",
        AT_LEAST_1,
        type=int,
        metavar="N",
    )
    gradient_accumulation: int = setting(
        "training", 1, "batches per optimizer step", AT_LEAST_1, type=int, metavar="N"
    )
    learning_rate: float = setting(
        "training",
        1e-3,
        f"highest rate: reached after the warm-up, then a cosine down to {FINAL_LEARNING_RATE:g}",
        (lambda value: value > FINAL_LEARNING_RATE, f"must be above {FINAL_LEARNING_RATE:g}"),
        type=finite,
        metavar="RATE",
    )
    warmup_epochs: int = setting(
        "training",
        5,
        "epochs in which the rate grows linearly from 0",
        AT_LEAST_0,
        type=int,
        metavar="N",
    )
    clipnorm: float = setting(
        "training",
        1.0,
        "largest norm of each weight's gradient; 0: no clipping",
        AT_LEAST_0,
        type=finite,
        metavar="NORM",
    )
    early_stopping_patience: int = setting(
        "training",
        15,
        "epochs without a lower validation loss after which training ends; 0: never",
        AT_LEAST_0,
        type=int,
        metavar="N",
    )

    use_focal_loss: bool = setting(
        "loss and regularization",
        True,
        "focal loss, FL(p_t) = -a_t (1 - p_t)^gamma log p_t, instead of cross-entropy; violent is "
        "the positive class",
    )
    focal_gamma: float = setting(
        "loss and regularization",
        2.0,
        "gamma: how much less an easy clip counts; 0: no less",
        AT_LEAST_0,
        type=finite,
        metavar="G",
    )
    focal_alpha: float | None = setting(
        "loss and regularization",
        None,
        "alpha: violent clips count times A, nonviolent ones times 1 - A (default: 0.25, and "
        "none with class weights, which correct for the imbalance already)",
        (lambda value: 0 < value < 1, "must be above 0 and below 1"),
        type=finite,
        metavar="A",
    )
    use_class_weights: bool = setting(
        "loss and regularization", True, "weight the clips of each class, balanced by default"
    )
    class_weights: tuple[float, float] | None = setting(
        "loss and regularization",
        None,
        "the two weights (default: balanced, clips / (classes x clips of the class))",
        (lambda pair: min(pair) > 0, "must both be above 0"),
        type=finite,
        nargs=2,
        metavar=("NONVIOLENT", "VIOLENT"),
    )
    label_smoothing: float = setting(
        "loss and regularization",
        0.1,
        "S: labels 0/1 become S/2 and 1 - S/2",
        SHARE,
        type=finite,
        metavar="S",
    )
    dropout: float = setting(
        "loss and regularization",
        0.5,
        "share of activations dropped in training",
        SHARE,
        type=finite,
        metavar="P",
    )
    l2: float = setting(
        "loss and regularization",
        1e-4,
        "L2 penalty on the weights' kernels; 0: none",
        AT_LEAST_0,
        type=finite,
        metavar="L",
    )

    threshold_for: str = setting(
        "test",
        "accuracy",
        "what the decision threshold is chosen for, on validation clips: accuracy, balanced (mean "
        "of both classes' accuracies), f1, recall=SHARE (of the violent clips found, at the "
        "fewest false alarms) or fpr=SHARE (of the nonviolent clips called violent, at most)",
        (is_threshold_goal, f"is none of {', '.join(THRESHOLD_GOALS)}, with a share from 0 to 1"),
        type=str,
        metavar="GOAL",
    )

    replicas: int | None = setting(
        "devices",
        None,
        "how many GPUs to use (default: all); without a GPU, how many logical devices the CPU is "
        "split into (default: 1)",
        AT_LEAST_1,
        type=int,
        metavar="N",
    )
    mixed_precision: bool = setting(
        "devices",
        True,
        "float16 with loss scaling on a GPU, bfloat16 on a CPU that has it, else float32; features "
        "that are in the cache serve in whatever precision they were computed",
    )
    xla: bool = setting("devices", False, "compile the forward and backward pass with XLA")
    seed: int = setting(
        "devices",
        42,
        "of every random choice",
        (lambda value: 0 <= value < 2**32, "must be 0 or more and below 2^32"),
        type=int,
        metavar="N",
    )
    deterministic: bool = setting("devices", False, "bit-for-bit repeatable runs, slower")

    resume: bool = setting(
        "run",
        True,
        "continue an interrupted run found in --checkpoint-dir; --no-resume is --fresh",
    )
    debug: bool = setting("run", False, "show errors with their traceback")


# What a demo changes: a few minutes on two CPU cores, everything under ./demo.
DEMO_DEFAULTS = {
    "dataset_path": Path("demo/clips"),
    "cache_dir": Path("demo/feature_cache"),
    "checkpoint_dir": Path("demo/checkpoints"),
    "vgg19_weights": "random",
    "feature_layer": "block1_conv1",
    "epochs": 30,
    "batch_size": 16,
    "warmup_epochs": 3,
}

# A run may continue with other values of these: they decide nothing that is trained.
FREE_TO_CHANGE = (
    *("resume", "debug", "cache_dir", "checkpoint_dir", "clip_timeout", "threshold_for"),
)


def flag(name: str) -> str:
    """Return the flag of a setting: `batch_size` -> `--batch-size`."""
    return "--" + name.replace("_", "-")


class FlagParser(argparse.ArgumentParser):
    """argparse, with its errors in the program's own form: one line, exit status 2."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong in one line; exit status 2."""
        self.exit(2, f"error: {message} (all flags: {self.prog} --help)\n")


def make_parser() -> FlagParser:
    """Return the parser of the training command: one flag per field of `Settings`."""
    parser = FlagParser(
        usage="%(prog)s --dataset-path DIR [flags]\n       %(prog)s --demo [flags]",
        description="Train a violence detector on a folder of labelled video clips.",
        allow_abbrev=False,
    )
    groups: dict[str, Any] = {}
    for item in dataclasses.fields(Settings):
        title, options = item.metadata["group"], dict(item.metadata["flag"])
        group = groups.setdefault(title, parser.add_argument_group(title))
        help_text = item.metadata["meaning"]
        if item.default is not None:
            shown = item.default
            if isinstance(shown, bool):
                shown = "on" if shown else "off"
            help_text += f" (default: {shown})"
        if isinstance(item.default, bool):
            options["action"] = argparse.BooleanOptionalAction
        group.add_argument(flag(item.name), default=item.default, help=help_text, **options)
        if item.name == "resume":
            group.add_argument(
                "--fresh",
                dest="resume",
                action="store_false",
                default=argparse.SUPPRESS,
                help="set an earlier run in --checkpoint-dir aside (renamed, never deleted) and "
                "start anew",
            )
    return parser


def parse_settings(arguments: Sequence[str] | None = None) -> Settings:
    """Return the checked settings of a command line; raises `UserError` for a wrong value."""
    parser = make_parser()
    if parser.parse_args(arguments).demo:
        parser.set_defaults(**DEMO_DEFAULTS)
    values = vars(parser.parse_args(arguments))
    if values["class_weights"] is not None:
        values["class_weights"] = tuple(values["class_weights"])
    if Path(values["vgg19_weights"]).is_file():
        values["vgg19_weights"] = str(Path(values["vgg19_weights"]).resolve())
    settings = Settings(**values)
    check_settings(settings)
    return settings


def check_settings(settings: Settings) -> None:
    """Raise `UserError` if a value is out of its range or two settings contradict each other."""
    for item in dataclasses.fields(settings):
        value, check = getattr(settings, item.name), item.metadata["check"]
        if value is not None and check is not None and not check[0](value):
            shown = " ".join(map(str, value)) if isinstance(value, tuple) else value
            raise UserError(f"{flag(item.name)} {shown}: {check[1]}")
    if settings.dataset_path is None:
        raise UserError("--dataset-path is missing: name the folder of clips, or try --demo")
    cache, checkpoints = settings.cache_dir.resolve(), settings.checkpoint_dir.resolve()
    if cache == checkpoints:
        raise UserError(f"--cache-dir and --checkpoint-dir are both {cache}: give each its own")
    if settings.epochs <= settings.warmup_epochs:
        raise UserError(
            f"--epochs {settings.epochs} is not above --warmup-epochs {settings.warmup_epochs}: "
            "train for more epochs or warm up for fewer"
        )
    check_batch_divides(settings.batch_size, settings.replicas or 1)
    if settings.focal_alpha is not None and not settings.use_focal_loss:
        raise UserError("--focal-alpha is of no use with --no-use-focal-loss: drop one of them")
    if settings.class_weights is not None and not settings.use_class_weights:
        raise UserError("--class-weights is of no use with --no-use-class-weights: drop one")
    weights = settings.vgg19_weights
    if weights not in ("imagenet", "random") and not Path(weights).is_file():
        raise UserError(
            f"--vgg19-weights {settings.vgg19_weights}: no such file "
            "(imagenet, random, or the path of an .h5 file)"
        )


def check_batch_divides(batch_size: int, replicas: int) -> None:
    """Raise `UserError` if `replicas` do not divide the global batch size."""
    if batch_size % replicas:
        below = batch_size - batch_size % replicas
        fitting = " or ".join(str(size) for size in (below, below + replicas) if size)
        raise UserError(
            f"--batch-size {batch_size} is not divisible by {replicas} replicas: take {fitting}"
        )


def as_json(settings: Settings) -> dict[str, Any]:
    """Return the settings as JSON values; paths are made absolute."""
    return {
        name: str(value.expanduser().resolve()) if isinstance(value, Path) else value
        for name, value in dataclasses.asdict(settings).items()
    } | ({"class_weights": list(settings.class_weights)} if settings.class_weights else {})
