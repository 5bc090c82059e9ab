"""Settings of the data: where clips, features and results are, and what VGG19 is shown."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

from violence_detection.errors import UserError
from violence_detection.settings.constants import (
    BACKBONES,
    CLIP_TIMEOUT,
    FRAME_SIZE,
    ONNX,
    PIXELS,
    POOLINGS,
    STREAMS,
    VGG19,
    VGG19_LAYERS,
)
from violence_detection.settings.setting import ABOVE_0, AT_LEAST_1, setting, weights_flag
from violence_detection.settings.values import (
    each_of,
    finite,
    folder_or_url,
    is_understood_by,
    local_folder,
    name_out_of,
    names_out_of,
    numbers,
    parse_share,
)


@dataclass(frozen=True)
class DataSettings:
    """Where things are, and what happens to clips that are damaged or repeated."""

    TITLE: ClassVar[str] = "data"

    dataset_path: Path | str = setting(
        None,
        "folder of the labelled clips, or a manifest; required, unless --demo",
        "Layouts: DIR/{train,val,test}/{violent,nonviolent} or DIR/{violent,nonviolent}. A "
        "manifest, .csv, .tsv or .jsonl, lists clips (docs/datasets.md). "
        "URLs are s3://, gs:// and hdfs://.",
        differs_by_host=True,
        type=folder_or_url,
        metavar="DIR|FILE|URL",
    )
    cache_dir: Path | str = setting(
        Path("feature_cache"),
        "where features are kept; several runs may share it",
        "For a URL (s3://, gs://, hdfs://), a run works on a copy in --spool-dir, and each of "
        "several workers on a copy of its own.",
        changes_on_resume=True,
        differs_by_host=True,
        type=folder_or_url,
        metavar="DIR|URL",
    )
    cache_local: Path | None = setting(
        None,
        "folder on this machine's own disk for a copy of a shared --cache-dir",
        "Features are computed into it and then copied to --cache-dir; before training, those "
        "that other workers computed are copied from there. It needs room for the whole cache, "
        "with --extract-only for that of a share. Not with a URL as --cache-dir, whose copy in "
        "--spool-dir is on the local disk anyway.",
        changes_on_resume=True,
        differs_by_host=True,
        type=Path,
        metavar="DIR",
    )
    extract_only: bool = setting(
        False,
        "compute the features of a share of the clips, report what is missing, and end",
        "Any number of machines can do so at once on one --cache-dir, a folder or a URL. "
        "--checkpoint-dir is not touched.",
        changes_on_resume=True,
        differs_by_host=True,
    )
    share: str | None = setting(
        None,
        "share of the clips for --extract-only: the I-th of N, counted from 1",
        "With /N, I is SLURM_ARRAY_TASK_ID (of an array numbered from 1) or JOB_COMPLETION_INDEX "
        "(from 0, as Kubernetes numbers them). Default: in a Slurm array, this task's share by "
        "SLURM_ARRAY_TASK_ID, _MIN, _MAX, _STEP and _COUNT; in a cluster (--cluster), this "
        "worker's; else all clips.",
        check=(is_understood_by(parse_share), "must be I/N or /N, with I from 1 to N"),
        changes_on_resume=True,
        differs_by_host=True,
        type=str,
        metavar="I/N",
    )
    checkpoint_dir: Path = setting(
        Path("checkpoints"),
        "folder for everything that the run writes: models, logs, results",
        changes_on_resume=True,
        differs_by_host=True,
        type=local_folder,
        metavar="DIR",
    )
    spool_dir: Path = setting(
        Path("spool"),
        "where clips from a URL are kept while they are decoded, and copies of caches at a URL",
        changes_on_resume=True,
        differs_by_host=True,
        type=local_folder,
        metavar="DIR",
    )
    spool_size: float = setting(
        10.0,
        "maximum size of the clips in --spool-dir at any time, in GB",
        "Copies of caches are not counted.",
        check=ABOVE_0,
        changes_on_resume=True,
        differs_by_host=True,
        type=finite,
        metavar="GB",
    )
    demo: bool = setting(
        False,
        "draw a small dataset under ./demo and run the whole job on it, offline",
        "VGG19 has random weights and the settings are chosen for speed; flags on the command "
        "line and --config take precedence.",
        one_worker_only=True,
    )
    on_bad_clip: str = setting(
        "skip",
        "leave out an unreadable clip (skip), replace its features with zeros, or fail",
        "Above --max-bad-clips the run stops in any case.",
        choices=("skip", "zeros", "fail"),
    )
    max_bad_clips: float = setting(
        0.1,
        "largest share of unreadable clips, in any split and in any class of a split",
        "Above it the run stops: what is left might be another sample than what was collected. A "
        "single clip of a class never stops a run.",
        check=(lambda share: 0 <= share <= 1, "must be from 0 to 1"),
        changes_on_resume=True,
        type=finite,
        metavar="SHARE",
    )
    clip_timeout: float = setting(
        CLIP_TIMEOUT,
        "time limit for decoding a clip, in seconds; a clip that exceeds it is unreadable",
        check=ABOVE_0,
        changes_on_resume=True,
        type=finite,
        metavar="SECONDS",
    )
    on_leakage: str = setting(
        "warn",
        "near-duplicate clips in two splits: warn, drop the one in the earlier split, or fail",
        "The order is train, val, test.",
        choices=("warn", "drop", "fail"),
    )

    groups: str = setting(
        "auto",
        "without groups.csv, propose which clips are of one source (auto), or do not (none)",
        "Clips of one source stay on one side of automatic splits and folds, and are resampled "
        "together for intervals; split folders are never changed. What is proposed, by file names "
        "and by colours and backgrounds, is in groups_proposed.csv, which can be corrected and "
        "used as groups.csv; see docs/groups.md.",
        choices=("auto", "none"),
    )

    def require_valid(self) -> None:
        """Raise `UserError` if two of these settings contradict each other."""
        if self.demo and isinstance(self.dataset_path, str):
            raise UserError(
                f"--demo draws its clips into a local folder, and --dataset-path is "
                f"{self.dataset_path}: drop one of them"
            )
        checkpoints = self.checkpoint_dir.resolve()
        if isinstance(self.cache_dir, Path) and self.cache_dir.resolve() == checkpoints:
            raise UserError(
                f"--cache-dir and --checkpoint-dir are both {checkpoints}: give each its own"
            )
        if isinstance(self.cache_dir, str) and self.cache_local:
            raise UserError(
                f"--cache-local does nothing with --cache-dir {self.cache_dir}, whose copy is in "
                "--spool-dir anyway: drop it"
            )
        if self.cache_local and self.cache_local.resolve() in (
            checkpoints,
            Path(self.cache_dir).resolve(),
        ):
            raise UserError(f"--cache-local {self.cache_local}: give it a folder of its own")
        if self.share and not self.extract_only:
            raise UserError("--share belongs to --extract-only: give both, or drop it")


class Backbone(NamedTuple):
    """A network that computes features, and what of it is kept."""

    name: str  # one of `BACKBONES`, the name of an ONNX file, or `PIXELS`
    layer: str  # its name; of `PIXELS` the size of frames
    weights: str  # "imagenet", "random", or a file's path

    def require_valid(self, pooling: str) -> None:
        """Raise `UserError` if it has no such layer, or its file is missing.

        Args:
            pooling: of its maps.
        """
        of_vgg19, weights = self.name == VGG19, self.weights
        if of_vgg19 and self.layer not in VGG19_LAYERS:
            raise UserError(
                f"--feature-layer {self.layer}: is not one of {', '.join(VGG19_LAYERS)}"
            )
        if of_vgg19 and pooling != "mean" and not self.layer.startswith("block"):
            raise UserError(
                f"--feature-pooling {pooling}: {self.layer} has no maps to "
                "pool; leave it out, or choose a layer of a block, such as block5_pool"
            )
        if self.name.endswith(ONNX) and not Path(weights).is_file():
            raise UserError(f"--backbone {weights}: no such file")
        if (
            self.name != PIXELS
            and weights not in ("imagenet", "random")
            and not Path(weights).is_file()
        ):
            raise UserError(
                f"{weights_flag(self.name)} {weights}: no such file (imagenet, random, or the "
                "path of an .h5 file)"
            )


@dataclass(frozen=True)
class FeatureSettings:
    """What the backbone is shown of a clip, and what is kept of its answer."""

    TITLE: ClassVar[str] = "features"

    frames: int = setting(
        16,
        "frames per clip, evenly spaced over the whole clip",
        check=AT_LEAST_1,
        type=int,
        metavar="N",
    )
    cached_frames: int | None = setting(
        None,
        "frames per clip in the cache (default: as many as --frames)",
        "--augment jitter and speed choose --frames of them anew each time a clip is used.",
        check=AT_LEAST_1,
        type=int,
        metavar="N",
    )
    streams: tuple[str, ...] = setting(
        ("difference", "flow"),
        "input streams of VGG19, separated by commas: rgb, difference, flow",
        "`rgb`: the frames; `difference`: absolute difference from the previous frame; `flow`: "
        "dense optical flow from the previous frame. Camera motion is compensated. Each stream is "
        "cached separately: adding one computes only that one.",
        check=(lambda value: len(value) > 0, "must name a stream"),
        type=names_out_of(STREAMS),
        metavar="NAMES",
    )
    backbone: str = setting(
        VGG19,
        "network that computes the features: vgg19, one of keras.applications, or FILE.onnx",
        f"{', '.join(BACKBONES)}, or a network of frames or of whole clips in an ONNX file. Frames "
        "are decoded at 224 x 224 pixels, and resized for a network of another size. Several, "
        "separated by commas, are cached each by itself and combined as --fusion says. See "
        "[backbones.md](backbones.md).",
        check=(
            lambda value: all(
                name in (*BACKBONES, PIXELS) or name.endswith(ONNX) for name in value.split(",")
            ),
            f"is not one of {', '.join(BACKBONES)}",
        ),
        type=each_of(name_out_of((*BACKBONES, PIXELS), ONNX)),
        metavar="NAMES|FILE",
    )
    feature_layer: str = setting(
        "block5_pool",
        "layer whose output is the feature; of other backbones than vgg19, default: last",
        "A convolution or pooling layer of VGG19 (`block1_conv1` … `block5_pool`) is pooled to a "
        "value per channel, see --feature-pooling; `fc1` and `fc2` give 4096 values per frame. "
        "Nothing above the layer is run. `last`, of another backbone: its last map, before the "
        "classifier. Of several backbones a layer each, separated by commas: "
        "`--backbone vgg19,vgg19 --feature-layer block4_pool,fc2` joins two layers of VGG19.",
        type=str,
        metavar="LAYER",
    )
    feature_pooling: str = setting(
        "mean",
        "what a convolution or pooling layer's maps become: a few values per channel",
        "`mean` over the picture, `max`, `top`: the mean of the largest tenth, `mean+max`, "
        "`grid`: the means of the picture's four quarters, or `flat`: all of them, as --fine-tune "
        "block5 needs them. Dense layers have no maps.",
        choices=POOLINGS,
    )
    vgg19_weights: str = setting(
        "imagenet",
        "weights of the backbone: imagenet (downloaded once by Keras), a local file, or random",
        "A file of VGG19 has the layout of Keras's own VGG19 files; one of another backbone is "
        "what Keras saves of it without its classifier. `random` is untrained: for trials only. "
        "Of several backbones those of each, separated by commas, or one word for all.",
        aliases=("--backbone-weights",),
        differs_by_host=True,
        type=str,
        metavar="NAME|FILE",
    )
    pixels: tuple[int, ...] = setting(
        (112,),
        "size of the frames that --model 3d and flow-gated are trained on, pixels",
        "Width and height. Several sizes that grow, separated by commas, are trained on one after "
        "the other, in equal shares of the epochs, small ones in larger batches; frames are cached "
        "at the last one.",
        check=(
            lambda sizes: (
                all(16 <= size <= FRAME_SIZE for size in sizes)
                and list(sizes) == sorted(set(sizes))
                and len(sizes) > 0
            ),
            f"must be from 16 to {FRAME_SIZE}, growing",
        ),
        type=numbers,
        metavar="SIZES",
    )
    feature_dtype: str = setting(
        "float16",
        "number format of the features on disk",
        choices=("float16", "float32"),
    )

    @property
    def backbones(self) -> tuple[Backbone, ...]:
        """The networks whose features are joined; where there is none, the frames themselves.

        Raises:
            UserError: there are not as many layers or weights as networks.
        """
        names = self.backbone.split(",")
        if self.backbone == PIXELS:
            return (Backbone(PIXELS, str(self.pixels[-1]), self.vgg19_weights),)
        if len(names) == 1:
            return (Backbone(self.backbone, self.feature_layer, self.vgg19_weights),)
        layers = _for_each(names, self.feature_layer, "--feature-layer")
        weights = _for_each(names, self.vgg19_weights, "--backbone-weights")
        return tuple(map(Backbone, names, layers, weights))

    @property
    def frames_in_cache(self) -> int:
        """How many frames of a clip are kept."""
        return self.cached_frames or self.frames

    def require_valid(self) -> None:
        """Raise `UserError` if two of these settings contradict each other."""
        if self.frames_in_cache < self.frames:
            raise UserError(
                f"--cached-frames {self.cached_frames} is below --frames {self.frames}, which are "
                "chosen from them: raise one or lower the other"
            )
        if self.frames_in_cache < 2 and self.streams != ("rgb",):
            raise UserError(
                f"--streams {','.join(self.streams)} with --frames {self.frames}: one frame shows "
                "no movement: give 2 or more, or --streams rgb"
            )
        for backbone in self.backbones:
            backbone.require_valid(self.feature_pooling)


def _for_each(names: Sequence[str], text: str, flag: str) -> Sequence[str]:
    """Return a value for each of several backbones; raises `UserError`."""
    values = text.split(",")
    if len(values) not in (1, len(names)):
        raise UserError(
            f"{flag} {text}: names {len(values)}, but --backbone {','.join(names)} are {len(names)}"
        )
    return values * len(names) if len(values) == 1 else values
