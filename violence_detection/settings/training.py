"""Settings of the training: how the model is trained, and what for."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from violence_detection.errors import UserError
from violence_detection.settings.constants import (
    AUGMENTATIONS,
    FINAL_LEARNING_RATE,
    MODELS,
    SHORTEST_WINDOW,
)
from violence_detection.settings.setting import AT_LEAST_0, AT_LEAST_1, SHARE, setting
from violence_detection.settings.values import (
    count_or_names,
    finite,
    local_folder,
    names_out_of,
)

PRETRAIN_TASKS = CONTRAST, _ = ("contrast", "order")
PRETRAINED_SUFFIX = ".npz"
SELECTIONS = ("auto", "val-accuracy", "val-loss", "last")
PATIENCE = 15  # epochs
CLIPS_TO_STOP_BY = 500  # of validation
FOLDS = 5  # of few training and validation clips
MANY_CLIPS = 2000  # of both: from there on, one validation split is enough to choose by


@dataclass(frozen=True)
class TrainingSettings:
    """Epochs, batches, learning rate, and which clips are trained on how often."""

    TITLE: ClassVar[str] = "training"

    epochs: int = setting(
        100,
        "passes over the training clips",
        check=AT_LEAST_1,
        in_grid=True,
        type=int,
        metavar="N",
    )
    batch_size: int = setting(
        64,
        "clips per batch, over all replicas together",
        check=AT_LEAST_1,
        in_grid=True,
        type=int,
        metavar="N",
    )
    gradient_accumulation: int = setting(
        1,
        "batches per optimizer step",
        check=AT_LEAST_1,
        in_grid=True,
        type=int,
        metavar="N",
    )
    learning_rate: float = setting(
        1e-3,
        "peak learning rate, reached after the warm-up",
        f"It then decays along a cosine to {FINAL_LEARNING_RATE:g}, unless --schedule constant.",
        check=(
            lambda value: value > FINAL_LEARNING_RATE,
            f"must be above {FINAL_LEARNING_RATE:g}",
        ),
        in_grid=True,
        type=finite,
        metavar="RATE",
    )
    warmup_epochs: int = setting(
        5,
        "epochs in which the learning rate grows linearly from 0",
        "If it is not given, half of --epochs where these are no more than the default.",
        check=AT_LEAST_0,
        in_grid=True,
        type=int,
        metavar="N",
    )
    schedule: str = setting(
        "cosine",
        "learning rate after the warm-up: falling (cosine) or constant",
        in_grid=True,
        choices=("cosine", "constant"),
    )
    clipnorm: float = setting(
        1.0,
        "largest norm of each weight's gradient; 0: no clipping",
        check=AT_LEAST_0,
        in_grid=True,
        type=finite,
        metavar="NORM",
    )
    select: str = setting(
        "auto",
        "which epoch's weights become the model",
        "`val-accuracy` and `val-loss`: the epoch that is best on the validation clips, after the "
        "warm-up; `last`: the last one; `auto`: the last one, unless another has a validation "
        "accuracy that is higher by more than two standard errors of one on so many clips. With "
        "thousands of validation clips `auto` does as `val-accuracy`.",
        choices=SELECTIONS,
    )
    early_stopping_patience: int | None = setting(
        None,
        "epochs without a lower validation loss after which training ends; 0: never "
        "(default: by the number of clips)",
        f"Default: {PATIENCE}; 0 with fewer than {CLIPS_TO_STOP_BY} validation clips, whose loss "
        "says little.",
        check=AT_LEAST_0,
        in_grid=True,
        type=int,
        metavar="N",
    )
    sampling: str = setting(
        "shuffle",
        "every clip once per epoch (shuffle), or both classes equally in every batch (stratified)",
        "With stratified, the clips of the smaller class are repeated, and balanced class weights "
        "are 1.",
        in_grid=True,
        choices=("shuffle", "stratified"),
    )
    hard_mining: bool = setting(
        False,
        "draw clips more often the larger their loss was",
        "It costs a forward pass over the training clips per epoch.",
        one_worker_only=True,
        in_grid=True,
    )
    curriculum: bool = setting(
        False,
        "start with the easiest clips and reach all of them after half the epochs",
        "Clips are ranked by their loss under a briefly trained model.",
        one_worker_only=True,
        in_grid=True,
    )
    ensemble: int | tuple[str, ...] = setting(
        1,
        "train K classifiers and average them, or one of each model named: features,3d",
        "K classifiers differ in their seeds. Models are those of --model; features and frames of "
        "each are cached, and they are combined by weights of their logits that are fitted on "
        "validation clips: with folds, on those that each classifier has not seen.",
        check=(
            lambda value: len(value) > 0 if isinstance(value, tuple) else value >= 1,
            "must be 1 or more, or names of models",
        ),
        in_grid=True,
        type=count_or_names(MODELS),
        metavar="K|MODELS",
    )
    folds: int | None = setting(
        None,
        "train K classifiers, each validated on another K-th of the clips, and average them "
        "(default: by the number of clips)",
        "The training and validation clips are divided into K folds, by class and with groups "
        "kept together. Each classifier is trained on all but one fold; temperature and threshold "
        "are chosen on the predictions for all of them. 1: one classifier, trained on the "
        f"training split and validated on the validation split. Default: {FOLDS} with fewer than "
        f"{MANY_CLIPS} training and validation clips; 1 with more, with --ensemble, and with "
        "--unlabeled.",
        check=AT_LEAST_1,
        type=int,
        metavar="K",
    )
    unlabeled: Path | None = setting(
        None,
        "folder of unlabeled clips to learn from by pseudo-labels",
        "A classifier trained on the labelled clips predicts them; clips it is confident of are "
        "trained on, too.",
        one_worker_only=True,
        type=local_folder,
        metavar="DIR",
    )
    pseudo_confidence: float = setting(
        0.9,
        "minimum calibrated probability, of either class, for a pseudo-label to be used",
        check=(lambda value: 0.5 <= value < 1, "must be at least 0.5 and below 1"),
        type=finite,
        metavar="P",
    )
    pseudo_rounds: int = setting(
        1,
        "number of pseudo-labelling rounds",
        "Each round's classifier has learned from the pseudo-labels of the round before.",
        check=AT_LEAST_1,
        type=int,
        metavar="N",
    )
    pretrain: Path | None = setting(
        None,
        "folder of unlabeled clips that --model 3d or flow-gated is pretrained on",
        "The network learns what clips have in common before it sees a label. Copies of test clips "
        "are left out; in a cross-validation, of all labelled clips. Or the file `pretrained.npz` "
        "of an earlier run, whose clips nobody compares with those of the test.",
        one_worker_only=True,
        type=local_folder,
        metavar="DIR|FILE",
    )
    pretrain_epochs: int = setting(
        30, "passes over the clips of --pretrain", check=AT_LEAST_1, type=int, metavar="N"
    )
    pretrain_task: str = setting(
        CONTRAST,
        "what is learned from clips without labels: contrast or order",
        "`contrast`: which two parts, in time and in the picture, are of one clip; `order`: in "
        "which order and how fast the frames of a clip are shown.",
        choices=PRETRAIN_TASKS,
    )
    augment: tuple[str, ...] = setting(
        (),
        "augmentations of the training clips, separated by commas",
        "`jitter`: shifted frame positions; `speed`: a part of the clip, played slower; `drop`: "
        "some frames replaced by the previous one; `reverse`: reversed order; `mixup`: two clips "
        "blended; `cutmix`: successive frames from another clip; `noise`: Gaussian noise on "
        "features; `flip`: mirrored clips, cached separately. Of networks from pixels alone: "
        "`crop`: a part of the picture, enlarged; `colour`: brightness and contrast.",
        in_grid=True,
        type=names_out_of(AUGMENTATIONS),
        metavar="NAMES",
    )

    @property
    def pretrained_file(self) -> Path | None:
        """The weights of an earlier run, if --pretrain names those."""
        path = self.pretrain
        return path if path is not None and path.suffix == PRETRAINED_SUFFIX else None

    @property
    def pretrain_folder(self) -> Path | None:
        """The folder of clips without labels, if --pretrain names one."""
        return None if self.pretrained_file else self.pretrain

    @property
    def seeds(self) -> int:
        """How many classifiers differ in their seed alone, without folds."""
        return self.ensemble if isinstance(self.ensemble, int) else 1

    @property
    def models(self) -> tuple[str, ...]:
        """The models of an ensemble of several kinds; empty: all are of --model."""
        return () if isinstance(self.ensemble, int) else self.ensemble

    @property
    def global_batch(self) -> int:
        """Clips per optimizer step."""
        return self.batch_size * self.gradient_accumulation

    def patience(self, validation_clips: int) -> int:
        """Return the epochs without a lower validation loss after which to stop; 0: never."""
        if self.early_stopping_patience is not None:
            return self.early_stopping_patience
        return PATIENCE if validation_clips >= CLIPS_TO_STOP_BY else 0

    def require_valid(self) -> None:
        """Raise `UserError` if two of these settings contradict each other."""
        for name, value in (("ensemble", self.seeds > 1), ("unlabeled", self.unlabeled)):
            if value and (self.folds or 1) > 1:
                raise UserError(f"--folds {self.folds} does not go with --{name}: drop one")
        if self.epochs <= self.warmup_epochs:
            raise UserError(
                f"--epochs {self.epochs} is not above --warmup-epochs {self.warmup_epochs}: "
                "train for more epochs or warm up for fewer"
            )


@dataclass(frozen=True)
class WeakSettings:
    """One label per long video, without times: windows of it are learned from."""

    TITLE: ClassVar[str] = "weak labels"

    weak: bool = setting(
        False,
        "labels are of long videos: learn which of their windows are violent",
        "Multiple-instance learning: a video is as violent as its most violent windows. What is "
        "trained predicts windows, as `predict.py --window` does; metrics are of whole videos. See "
        "docs/datasets.md.",
    )
    window: float = setting(
        2.0,
        "length of a window of --weak",
        "Each is a clip of --frames, cached by itself.",
        check=(
            lambda value: value >= SHORTEST_WINDOW,
            f"must be at least {SHORTEST_WINDOW:g} seconds",
        ),
        type=finite,
        metavar="SECONDS",
    )
    bag_windows: int = setting(
        64,
        "windows of a video in a batch of --weak, at most",
        "A longer video is divided into as many parts, and a window of each is drawn anew each "
        "time. In the test, and wherever a video is predicted, all its windows are used.",
        check=AT_LEAST_1,
        type=int,
        metavar="N",
    )
    top_share: float = setting(
        0.125,
        "share of a video's windows, its most violent ones, whose mean is the video's probability",
        "At least one window.",
        check=(lambda value: 0 < value <= 1, "must be above 0 and at most 1"),
        in_grid=True,
        type=finite,
        metavar="SHARE",
    )
    sparsity: float = setting(
        8e-5,
        "penalty on the sum of a violent video's window probabilities: violence is rare",
        check=AT_LEAST_0,
        in_grid=True,
        type=finite,
        metavar="L",
    )
    smoothness: float = setting(
        8e-5,
        "penalty on squared differences between a violent video's successive windows",
        check=AT_LEAST_0,
        in_grid=True,
        type=finite,
        metavar="L",
    )


@dataclass(frozen=True)
class LossSettings:
    """What is minimized, and what keeps the model from learning clips by heart."""

    TITLE: ClassVar[str] = "loss and regularization"

    use_focal_loss: bool = setting(
        True,
        "focal loss instead of cross-entropy",
        "FL(p_t) = -alpha_t (1 - p_t)^gamma log p_t; violent is the positive class.",
        in_grid=True,
    )
    focal_gamma: float = setting(
        2.0,
        "gamma of the focal loss: larger values down-weight easy clips more; 0: not at all",
        check=AT_LEAST_0,
        in_grid=True,
        type=finite,
        metavar="G",
    )
    focal_alpha: float | None = setting(
        None,
        "alpha of the focal loss (default: 0.25, and none with class weights)",
        "Violent clips weigh A, nonviolent ones 1 - A. Class weights correct for the imbalance "
        "already.",
        check=(lambda value: 0 < value < 1, "must be above 0 and below 1"),
        in_grid=True,
        type=finite,
        metavar="A",
    )
    use_class_weights: bool = setting(
        True, "weight the clips of each class, balanced by default", in_grid=True
    )
    class_weights: tuple[float, float] | None = setting(
        None,
        "the two class weights (default: balanced)",
        "Balanced is clips / (classes x clips of the class).",
        check=(lambda pair: min(pair) > 0, "must both be above 0"),
        in_grid=True,
        type=finite,
        nargs=2,
        metavar=("NONVIOLENT", "VIOLENT"),
    )
    label_smoothing: float = setting(
        0.1,
        "S: labels 0 and 1 become S/2 and 1 - S/2",
        check=SHARE,
        in_grid=True,
        type=finite,
        metavar="S",
    )
    dropout: float = setting(
        0.5,
        "share of activations dropped in training",
        check=SHARE,
        in_grid=True,
        type=finite,
        metavar="P",
    )
    l2: float = setting(
        1e-2,
        "L2 penalty on the kernels; 0: none",
        check=AT_LEAST_0,
        in_grid=True,
        type=finite,
        metavar="L",
    )

    def require_valid(self) -> None:
        """Raise `UserError` if two of these settings contradict each other."""
        if self.focal_alpha is not None and not self.use_focal_loss:
            raise UserError("--focal-alpha does nothing with --no-use-focal-loss: drop one")
        if self.class_weights is not None and not self.use_class_weights:
            raise UserError("--class-weights does nothing with --no-use-class-weights: drop one")
