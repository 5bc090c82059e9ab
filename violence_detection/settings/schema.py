"""Every setting of a run, once: its flag, default, unit, meaning and check.

Imports nothing heavy, so that `--help` answers at once and a wrong flag is told before
TensorFlow is loaded.
"""

import argparse
import dataclasses
import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from violence_detection.errors import UserError

FRAME_SIZE = 224  # pixels, both sides: what VGG19 was trained on
FINAL_LEARNING_RATE = 1e-7  # where the cosine ends
CHECKPOINT_EVERY = 5  # epochs
UNREADABLE_LIMIT = 0.1  # share of a split's clips; above it the run stops
SPLITS = ("train", "val", "test")
UNLABELED = "unlabeled"  # stands in a split's place for clips of --unlabeled
SPLIT_SHARES = {"train": 0.70, "val": 0.15, "test": 0.15}  # when the folder has no splits
CLASS_NAMES = ("nonviolent", "violent")  # the position is the label

STREAMS = ("rgb", "difference", "flow")  # what VGG19 is shown, see `streams`
HEADS = ("attention-lstm", "bidirectional", "self-attention", "transformer", "mean")
AUGMENTATIONS = ("jitter", "speed", "drop", "reverse", "mixup", "cutmix", "noise", "flip")

# Stores that a URL may name, and the library that fsspec reads each with.
STORES = {"s3": "s3fs", "gs": "gcsfs", "hdfs": "pyarrow"}

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


def names_out_of(allowed: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    """Return a type for argparse: names out of `allowed`, with commas between them, or none."""

    def names(text: str) -> tuple[str, ...]:
        chosen = () if text in ("", "none") else tuple(text.split(","))
        if unknown := [name for name in chosen if name not in allowed]:
            raise argparse.ArgumentTypeError(f"{unknown[0]!r} is not one of {', '.join(allowed)}")
        if len(set(chosen)) < len(chosen):
            raise argparse.ArgumentTypeError(f"{text}: a name is there twice")
        return chosen

    return names


def folder_or_url(text: str) -> Path | str:
    """Return a folder's path, or the URL of one in a store, as it stands.

    Raises:
        ArgumentTypeError: the URL is of no store that is known, or has a secret in it. What is
            wrong is told without the URL: it would be on the screen and in logs.
    """
    scheme, is_url, rest = text.partition("://")
    if not is_url:
        return Path(text)
    known = ", ".join(f"{name}://" for name in STORES)
    if scheme not in STORES:
        raise argparse.ArgumentTypeError(
            f"{scheme}:// is none of {known}; a local folder is given by its path"
        )
    server, _, folder = rest.partition("/")
    user, has_user, _ = rest.rpartition("@")
    secret = ":" in (user if scheme == "hdfs" else server) and not server.startswith("arn:")
    if secret or (has_user and scheme != "hdfs" and "@" in server) or "?" in rest:
        raise argparse.ArgumentTypeError(
            f"a {scheme}:// URL with a user, a key or options in it is refused: credentials are "
            f"found by {STORES[scheme]} in its own ways (environment, profile, role of the machine)"
        )
    if not server and not (scheme == "hdfs" and folder):  # else HDFS's own default
        raise argparse.ArgumentTypeError(f"{text} names no {'bucket' if folder else 'folder'}")
    return text.rstrip("/")


def local_folder(text: str) -> Path:
    """Return a folder's path; raises ArgumentTypeError for a URL."""
    if "://" in text:
        raise argparse.ArgumentTypeError(
            f"{text.partition('://')[0]}:// is no folder of this machine, and this must be one"
        )
    return Path(text)


THRESHOLD_GOALS = ("accuracy", "balanced", "f1", "recall=SHARE", "fpr=SHARE")


def parse_threshold_goal(text: str) -> tuple[str, float]:
    """Return the goal and its share (1 where it has none); raises ValueError for any other text."""
    name, equals, share = text.partition("=")
    if name in ("accuracy", "balanced", "f1") and not equals:
        return name, 1.0
    if name in ("recall", "fpr") and 0 <= finite(share) <= 1:
        return name, finite(share)
    raise ValueError(text)


def parse_share(text: str) -> tuple[int | None, int]:
    """Return I and N of `I/N`, None for I of `/N`; raises ValueError for any other text."""
    number, slash, count = text.partition("/")
    share = (int(number) if number else None), int(count)
    if not slash or share[1] < 1 or not 1 <= (1 if share[0] is None else share[0]) <= share[1]:
        raise ValueError(text)
    return share


def is_share(text: str) -> bool:
    """Return whether `parse_share` understands it."""
    try:
        parse_share(text)
    except ValueError:
        return False
    return True


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

    dataset_path: Path | str = setting(
        "data",
        None,
        "folder of clips: DIR/{train,val,test}/{violent,nonviolent} or DIR/{violent,nonviolent}; "
        "s3://, gs:// or hdfs://, too; required, unless --demo",
        type=folder_or_url,
        metavar="DIR|URL",
    )
    cache_dir: Path | str = setting(
        "data",
        Path("feature_cache"),
        "where features are kept; may be shared by runs; s3://, gs:// or hdfs://, too: then a run "
        "works on a copy in --spool-dir, each of several workers on one of its own",
        type=folder_or_url,
        metavar="DIR|URL",
    )
    cache_local: Path | None = setting(
        "data",
        None,
        "a folder on this machine's own disk: features are computed into it and then copied to "
        "--cache-dir; before training, those that other workers computed are copied from there, "
        "too. It needs the room of the whole cache, for --extract-only that of a share. Not with a "
        "URL as --cache-dir, of which the copy in --spool-dir is on the own disk anyway",
        type=Path,
        metavar="DIR",
    )
    extract_only: bool = setting(
        "data",
        False,
        "compute the features of a share of the clips, say what is missing, and end. Any number of "
        "machines can do it at once on a --cache-dir that they share, a folder or a URL, each into "
        "a shard of its own; "
        "--checkpoint-dir is not touched",
    )
    share: str | None = setting(
        "data",
        None,
        "which share of the clips --extract-only computes, the I-th of N, from 1. /N: the I is "
        "SLURM_ARRAY_TASK_ID (array numbered from 1) or JOB_COMPLETION_INDEX (from 0, as "
        "Kubernetes has it). Default: of a Slurm array, this task's share by SLURM_ARRAY_TASK_ID, "
        "_MIN, _MAX, _STEP and _COUNT; of a cluster (--cluster), this worker's; else all clips",
        (is_share, "must be I/N or /N, with I from 1 to N"),
        type=str,
        metavar="I/N",
    )
    checkpoint_dir: Path = setting(
        "data",
        Path("checkpoints"),
        "everything that the run writes",
        type=local_folder,
        metavar="DIR",
    )
    spool_dir: Path = setting(
        "data",
        Path("spool"),
        "where clips from a URL are while they are decoded, and the copy of a cache at a URL is",
        type=local_folder,
        metavar="DIR",
    )
    spool_size: float = setting(
        "data",
        10.0,
        "GB that clips from a URL may take there at most, at any moment",
        (lambda value: value > 0, "must be above 0"),
        type=finite,
        metavar="GB",
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
    cached_frames: int | None = setting(
        "features",
        None,
        "frames per clip that are kept, of which --augment jitter and speed choose --frames anew "
        "each time (default: as many as --frames)",
        AT_LEAST_1,
        type=int,
        metavar="N",
    )
    streams: tuple[str, ...] = setting(
        "features",
        ("difference", "flow"),
        "what VGG19 is shown, one or more of rgb (the frames), difference (to the frame before) "
        "and flow (dense optical flow from the frame before), with commas; the shift that the "
        "camera makes is taken out. Each is cached by itself",
        (lambda value: len(value) > 0, "must name a stream"),
        type=names_out_of(STREAMS),
        metavar="NAMES",
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

    head: str = setting(
        "model",
        "attention-lstm",
        "what reads the frames' features in time: an LSTM or a bidirectional one under attention, "
        "multi-head self-attention, a small transformer encoder, or mean, their average, which "
        "the others must beat",
        choices=HEADS,
    )
    projection: int = setting(
        "model",
        192,
        "values that a frame's features are projected to",
        AT_LEAST_1,
        type=int,
        metavar="N",
    )
    units: int = setting("model", 192, "width of the head", AT_LEAST_1, type=int, metavar="N")

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
    schedule: str = setting(
        "training",
        "cosine",
        "cosine: the rate falls to its end after the warm-up; constant: it stays",
        choices=("cosine", "constant"),
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

    sampling: str = setting(
        "training",
        "shuffle",
        "every clip once an epoch (shuffle), or both classes in equal parts in every batch "
        "(stratified): the smaller repeats itself, and balanced class weights are 1",
        choices=("shuffle", "stratified"),
    )
    hard_mining: bool = setting(
        "training",
        False,
        "draw clips the more often the larger their loss was; costs a forward pass an epoch",
    )
    curriculum: bool = setting(
        "training",
        False,
        "begin with the clips that are easiest for a model trained shortly before, and come to all "
        "of them after half the epochs",
    )
    ensemble: int = setting(
        "training",
        1,
        "train that many classifiers, of seeds one after the other, and average their "
        "probabilities",
        AT_LEAST_1,
        type=int,
        metavar="K",
    )
    unlabeled: Path | None = setting(
        "training",
        None,
        "folder of clips without labels: a classifier trained on the others judges them, and those "
        "that it is sure of are trained on, too (pseudo-labels)",
        type=local_folder,
        metavar="DIR",
    )
    pseudo_confidence: float = setting(
        "training",
        0.9,
        "how sure: the calibrated probability of either class",
        (lambda value: 0.5 <= value < 1, "must be at least 0.5 and below 1"),
        type=finite,
        metavar="P",
    )
    pseudo_rounds: int = setting(
        "training",
        1,
        "how often the unlabeled clips are judged anew, each time by a classifier that has learned "
        "from those taken before",
        AT_LEAST_1,
        type=int,
        metavar="N",
    )
    augment: tuple[str, ...] = setting(
        "training",
        (),
        "change training clips each time they are used: jitter (other frames), speed, drop (frames "
        "repeat the one before), reverse (in time), mixup, cutmix (over time), noise (on features),"
        " flip (mirrored clips, cached beside the others); with commas, or none",
        type=names_out_of(AUGMENTATIONS),
        metavar="NAMES",
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
        1e-2,
        "L2 penalty on the weights' kernels; 0: none",
        AT_LEAST_0,
        type=finite,
        metavar="L",
    )

    cross_validate: int | None = setting(
        "instead of a run",
        None,
        "train on all but one of K parts of all clips, stratified and by group, and test on that "
        "part, K times; nothing is chosen on it. Figures, table and plot are written. With --tune "
        "or --grid: the parts that each try is scored on (default there: 5)",
        (lambda value: value >= 2, "must be 2 or more"),
        type=int,
        metavar="K",
    )
    find_lr: bool = setting(
        "instead of a run",
        False,
        "raise the rate step by step until training blows up; plot it and propose a rate",
    )
    tune: int | None = setting(
        "instead of a run",
        None,
        "search N times for better settings (rate, widths, dropout, l2, gamma, smoothing, head), "
        "without the test clips; the best are written for --config. Again, it goes on",
        AT_LEAST_1,
        type=int,
        metavar="N",
    )
    grid: Path | None = setting(
        "instead of a run",
        None,
        'try every combination of a JSON file of lists, {"dropout": [0.2, 0.5], ...}, without the '
        "test clips; the best are written for --config",
        type=Path,
        metavar="FILE",
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

    profile: bool = setting(
        "watching",
        False,
        "record a few steps in detail, for TensorBoard's profiler",
    )
    quiet: bool = setting(
        "watching",
        False,
        "lines instead of progress bars, as where the output is not a terminal",
    )
    electricity_price: float = setting(
        "watching",
        0.12,
        "of a kWh, in whatever currency: what the GPUs' energy costs is told at the end",
        AT_LEAST_0,
        type=finite,
        metavar="PRICE",
    )
    cloud_price: float | None = setting(
        "watching",
        None,
        "of an hour of such a machine in a cloud: what the run would have cost there is told, too",
        AT_LEAST_0,
        type=finite,
        metavar="PRICE",
    )
    mlflow: str | None = setting(
        "watching",
        None,
        "log settings, epochs, figures and report to this MLflow server or folder, too",
        type=str,
        metavar="URI",
    )
    wandb: str | None = setting(
        "watching",
        None,
        "log them to this Weights & Biases project, too",
        type=str,
        metavar="PROJECT",
    )

    replicas: int | None = setting(
        "devices",
        None,
        "how many GPUs of each host to use (default: all); without a GPU, how many logical devices "
        "the CPU is split into (default: 1)",
        AT_LEAST_1,
        type=int,
        metavar="N",
    )
    cluster: str = setting(
        "devices",
        "tf-config",
        "how this process learns of the other workers of the run, on this host and others: from "
        "TF_CONFIG in the environment, if that is set, or from Slurm's job step. The command is "
        "the same on each; batch sizes are those of all together",
        choices=("tf-config", "slurm"),
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

    config: Path | None = setting(
        "run",
        None,
        "JSON file of settings by name, as --tune writes it; a flag given here counts more",
        type=Path,
        metavar="FILE",
    )
    resume: bool = setting(
        "run",
        True,
        "continue an interrupted run found in --checkpoint-dir; --no-resume is --fresh",
    )
    debug: bool = setting("run", False, "show errors with their traceback")

    @property
    def is_run(self) -> bool:
        """Whether a detector is trained: no experiment was asked for instead."""
        return not (self.cross_validate or self.find_lr or self.tune or self.grid)

    @property
    def frames_in_cache(self) -> int:
        """How many frames of a clip are kept."""
        return self.cached_frames or self.frames


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
    *("resume", "debug", "cache_dir", "checkpoint_dir", "clip_timeout", "threshold_for", "config"),
    *("cache_local", "extract_only", "share", "spool_dir", "spool_size"),
    *("profile", "quiet", "electricity_price", "cloud_price", "mlflow", "wandb", "cluster"),
)


def flag(name: str) -> str:
    """Return the flag of a setting: `batch_size` -> `--batch-size`."""
    return "--" + name.replace("_", "-")


class FlagParser(argparse.ArgumentParser):
    """argparse, with its errors in the program's own form: one line, exit status 2."""

    def add_checkpoint_dir(self) -> None:
        """Add the flag of what uses a finished training."""
        self.add_argument(
            "--checkpoint-dir",
            type=Path,
            default=Path("checkpoints"),
            metavar="DIR",
            help="what a finished training has written (default: checkpoints)",
        )

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
            if isinstance(shown, tuple):
                shown = ",".join(shown) or "none"
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
    arguments = sys.argv[1:] if arguments is None else arguments
    given = parser.parse_args(arguments)
    if given.config:
        arguments = [*read_config(given.config), *arguments]
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


def read_config(path: Path) -> list[str]:
    """Return a config file's settings as the flags that they stand for.

    Raises:
        UserError: it is no JSON object of settings.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"--config {path} cannot be read as JSON: {error}") from error
    known = {item.name: item.default for item in dataclasses.fields(Settings)}
    if not isinstance(values, dict) or (unknown := [n for n in values if n not in known]):
        what = f"{unknown[0]!r} is no setting" if isinstance(values, dict) else "no JSON object"
        raise UserError(f"--config {path}: {what}; it holds settings by name, as in --help")
    flags = []
    for name, value in values.items():
        if isinstance(value, bool) != isinstance(known[name], bool):
            raise UserError(f"--config {path}: {name} {json.dumps(value)}: that is no value of it")
        if isinstance(value, bool):
            flags.append(flag(name) if value else "--no-" + name.replace("_", "-"))
        elif isinstance(value, list) and name == "class_weights":
            flags += [flag(name), *map(str, value)]
        elif isinstance(value, list):
            flags.append(f"{flag(name)}={','.join(map(str, value))}")
        elif value is not None:
            flags.append(f"{flag(name)}={value}")
    return flags


def check_settings(settings: Settings) -> None:
    """Raise `UserError` if a value is out of its range or two settings contradict each other."""
    for item in dataclasses.fields(settings):
        value, check = getattr(settings, item.name), item.metadata["check"]
        if value is not None and check is not None and not check[0](value):
            shown = " ".join(map(str, value)) if isinstance(value, tuple) else value
            raise UserError(f"{flag(item.name)} {shown}: {check[1]}")
    if settings.dataset_path is None:
        raise UserError("--dataset-path is missing: name the folder of clips, or try --demo")
    if settings.demo and isinstance(settings.dataset_path, str):
        raise UserError(
            f"--demo draws its clips into a local folder, and --dataset-path is "
            f"{settings.dataset_path}: drop one of them"
        )
    checkpoints = settings.checkpoint_dir.resolve()
    if isinstance(settings.cache_dir, Path) and settings.cache_dir.resolve() == checkpoints:
        raise UserError(
            f"--cache-dir and --checkpoint-dir are both {checkpoints}: give each its own"
        )
    if isinstance(settings.cache_dir, str) and settings.cache_local:
        raise UserError(
            f"--cache-local is of no use with --cache-dir {settings.cache_dir}, of which a copy "
            "is in --spool-dir anyway: drop it"
        )
    if settings.cache_local and settings.cache_local.resolve() in (
        checkpoints,
        Path(settings.cache_dir).resolve(),
    ):
        raise UserError(f"--cache-local {settings.cache_local}: give it a folder of its own")
    if settings.share and not settings.extract_only:
        raise UserError("--share is of --extract-only: give both, or drop it")
    if settings.extract_only and not settings.is_run:
        raise UserError(
            "--extract-only is of no use with --cross-validate, --find-lr, --tune or --grid"
        )
    if settings.epochs <= settings.warmup_epochs:
        raise UserError(
            f"--epochs {settings.epochs} is not above --warmup-epochs {settings.warmup_epochs}: "
            "train for more epochs or warm up for fewer"
        )
    check_batch_divides(settings.batch_size, settings.replicas or 1)
    if settings.frames_in_cache < settings.frames:
        raise UserError(
            f"--cached-frames {settings.cached_frames} is below --frames {settings.frames}: of "
            "what is kept, that many are used"
        )
    if sum(map(bool, (settings.find_lr, settings.tune, settings.grid))) > 1:
        raise UserError("--find-lr, --tune and --grid are three commands: give one of them")
    if settings.find_lr and settings.cross_validate:
        raise UserError("--find-lr and --cross-validate are two commands: give one of them")
    if settings.frames_in_cache < 2 and settings.streams != ("rgb",):
        raise UserError(
            f"--streams {','.join(settings.streams)} with --frames {settings.frames}: one frame "
            "shows no movement: give 2 or more, or --streams rgb"
        )
    if settings.unlabeled and not settings.is_run:
        raise UserError(
            "--unlabeled is of no use with --cross-validate, --find-lr, --tune or --grid: drop it"
        )
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

    def plain(value: Any) -> Any:
        if isinstance(value, Path):
            return str(value.expanduser().resolve())
        return list(value) if isinstance(value, tuple) else value

    return {name: plain(value) for name, value in dataclasses.asdict(settings).items()}
