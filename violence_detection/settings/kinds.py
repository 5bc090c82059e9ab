"""The kinds of classifiers that a run trains: mostly one, several in a mixed ensemble."""

from violence_detection.settings.constants import (
    FEATURES,
    FLOW_GATED,
    LAST_LAYER,
    LATE,
    PIXELS,
    RESIDUAL,
)
from violence_detection.settings.schema import Settings

# What --model changes: there is no backbone.
PIXEL_BATCH = 16  # clips
FROM_PIXELS = {
    "backbone": PIXELS,
    "feature_layer": LAST_LAYER,
    "vgg19_weights": "none",
    "augment": ("flip", "crop", "colour"),
    "batch_size": PIXEL_BATCH,
    "l2": 1e-4,
}
MODEL_DEFAULTS = {
    RESIDUAL: FROM_PIXELS | {"streams": ("rgb", "difference")},
    FLOW_GATED: FROM_PIXELS | {"streams": ("rgb", "flow")},
}


def kinds_of(settings: Settings) -> list[Settings]:
    """Return the settings of each kind of classifier: those of a run that trains it alone.

    Args:
        settings: of the run; several models with --ensemble, or several backbones with --fusion
            late, are a kind each.
    """
    if not settings.training.models:
        return _by_backbone(settings)
    kinds = []
    for model in settings.training.models:
        alone = settings.replace(model=model, ensemble=1)
        if model == FEATURES:
            kinds += _by_backbone(alone)
        else:
            changed = MODEL_DEFAULTS[model] | {
                "batch_size": min(settings.training.batch_size, PIXEL_BATCH),
                **{"head": Settings().model.head, "feature_pooling": "mean", "fine_tune": "none"},
            }
            kinds.append(alone.replace(**changed))
    return kinds


def kind_title(kind: Settings) -> str:
    """Return what a kind of classifier is called: 3d, attention-lstm on vgg19 block5_pool."""
    if kind.model.from_pixels:
        return kind.model.model
    backbones = " and ".join(f"{each.name} {each.layer}" for each in kind.features.backbones)
    return f"{kind.model.head} on {backbones}"


def untrained_backbones(settings: Settings) -> list[str]:
    """Return the names of the backbones with random weights, which suit trials only."""
    backbones = (each for kind in kinds_of(settings) for each in kind.features.backbones)
    return list(dict.fromkeys(each.name for each in backbones if each.weights == "random"))


def _by_backbone(settings: Settings) -> list[Settings]:
    if settings.model.fusion != LATE:
        return [settings]
    return [
        settings.replace(backbone=name, feature_layer=layer, vgg19_weights=weights)
        for name, layer, weights in settings.features.backbones
    ]
