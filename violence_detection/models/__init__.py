"""The networks: the backbone, VGG19 or another, and the classifier on its features."""

from collections.abc import Sequence

from violence_detection.settings.constants import PIXELS, VGG19


def backbone_title(backbone: str) -> str:
    """Return what a backbone is called in sentences: VGG19, ResNet50V2, resizing.

    Args:
        backbone: its name, or several with commas.
    """
    titles = {VGG19: "VGG19", PIXELS: "resizing"}
    return " and ".join(titles.get(name, name) for name in dict.fromkeys(backbone.split(",")))


def extractor_title(backbone: str, layer: str) -> str:
    """Return what a backbone up to a layer is called: VGG19 to block5_pool."""
    if backbone == PIXELS:
        return f"frames of {layer} pixels"
    return f"{backbone_title(backbone)} to {layer}"


def random_weights_warning(backbones: Sequence[str]) -> str:
    """Return the warning that networks are untrained."""
    title = backbone_title(",".join(backbones))
    have = "HAS" if len(set(backbones)) == 1 else "HAVE"
    return f"{title} {have} RANDOM WEIGHTS: predictions mean nothing, for trials only"
