"""The networks: the backbone, VGG19 or another, and the classifier on its features."""

from violence_detection.settings.constants import PIXELS, VGG19


def backbone_title(backbone: str) -> str:
    """Return what a backbone is called in sentences: VGG19, ResNet50V2, resizing."""
    return {VGG19: "VGG19", PIXELS: "resizing"}.get(backbone, backbone)


def extractor_title(backbone: str, layer: str) -> str:
    """Return what a backbone up to a layer is called: VGG19 to block5_pool."""
    if backbone == PIXELS:
        return f"frames of {layer} pixels"
    return f"{backbone_title(backbone)} to {layer}"


def random_weights_warning(backbone: str) -> str:
    """Return the warning that a network is untrained."""
    return (
        f"{backbone_title(backbone)} HAS RANDOM WEIGHTS: predictions mean nothing, for trials only"
    )
