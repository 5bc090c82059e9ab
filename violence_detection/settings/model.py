"""Settings of the model: what is trained on the features."""

from dataclasses import dataclass
from typing import ClassVar

from violence_detection.settings.constants import (
    FEATURES,
    FINE_TUNED,
    FUSIONS,
    HEADS,
    JOINED,
    MODELS,
)
from violence_detection.settings.setting import AT_LEAST_1, setting
from violence_detection.settings.values import finite


@dataclass(frozen=True)
class ModelSettings:
    """The classifier."""

    TITLE: ClassVar[str] = "model"

    model: str = setting(
        FEATURES,
        "what is trained: a head on a backbone's features, or a network from pixels",
        "`features`: --head on the cached features of --backbone, which is not trained; `3d`: a "
        "residual network in space and time; `flow-gated`: a small network of two streams, frames "
        "and flow. The last two are trained on the frames, which are cached at --pixels. See "
        "[backbones.md](backbones.md).",
        choices=MODELS,
    )
    head: str = setting(
        "attention-lstm",
        "network over the sequence of frame features",
        "`attention-lstm` and `bidirectional`: an LSTM under attention, in one or both directions; "
        "`self-attention`: multi-head self-attention; `transformer`: a small encoder; `mean`: the "
        "average over the frames, the baseline for the others.",
        in_grid=True,
        choices=HEADS,
    )
    projection: int = setting(
        192,
        "values that a frame's features are projected to",
        check=AT_LEAST_1,
        in_grid=True,
        type=int,
        metavar="N",
    )
    units: int = setting(
        192, "width of the head", check=AT_LEAST_1, in_grid=True, type=int, metavar="N"
    )

    fusion: str = setting(
        JOINED,
        "how several backbones are combined: their features joined, or a classifier each (late)",
        "`joined`: one classifier on the features of all; `late`: a classifier on those of each, "
        "combined by weights that are fitted on validation clips.",
        choices=FUSIONS,
    )
    fine_tune: str = setting(
        "none",
        "layers of VGG19 that are trained with the head: none, fc or block5",
        "`fc`: its two dense layers, on cached maps of `block5_pool` (0.8 MB a clip and stream); "
        "`block5`: its last block, on those of `block4_pool` (3.2 MB), on a GPU. See "
        "[backbones.md](backbones.md).",
        choices=("none", *FINE_TUNED),
    )
    fine_tune_rate: float = setting(
        0.05,
        "learning rate of the fine-tuned layers, as a share of --learning-rate",
        check=(lambda share: 0 < share <= 1, "must be above 0 and at most 1"),
        in_grid=True,
        type=finite,
        metavar="SHARE",
    )

    @property
    def from_pixels(self) -> bool:
        """Whether a network is trained on frames, not on a backbone's features."""
        return self.model != FEATURES
