"""The features stored for each clip: a recipe per stream, and one to recognize copies."""

from violence_detection.clips.streams import THUMBNAIL_VALUES
from violence_detection.errors import UserError
from violence_detection.features.cache.feature_cache import THUMBNAIL, Recipe
from violence_detection.models.extractor import features_per_frame, takes_clips
from violence_detection.models.vgg19_weights import identify_weights
from violence_detection.settings.constants import PIXELS
from violence_detection.settings.schema import Settings


def stream_recipes(settings: Settings) -> list[Recipe]:
    """Return the recipes of the streams, followed by those of mirrored clips for --augment flip."""
    features = settings.features
    backbone, pooling = features.backbone, features.feature_pooling
    from_pixels = backbone == PIXELS  # mirrored on the device: nothing else is stored for it
    layer = features.stored_layer
    flipped = "flip" in settings.training.augment and not from_pixels
    if features.frames_in_cache != features.frames and takes_clips(
        backbone, layer, features.vgg19_weights
    ):
        raise UserError(
            f"--cached-frames {features.cached_frames}: {backbone} takes clips whole: drop it"
        )
    return [
        Recipe(
            frames=features.frames_in_cache,
            layer=layer,
            weights=identify_weights(features.vgg19_weights, layer, backbone),
            features=features_per_frame(
                *(backbone, layer, pooling),
                *(features.vgg19_weights, features.frames_in_cache),
            ),
            dtype="uint8" if from_pixels else features.feature_dtype,
            stream=stream,
            flipped=flipped,
            pooling=pooling,
            backbone=backbone,
        )
        for flipped in ((False, True) if flipped else (False,))
        for stream in features.streams
    ]


def stored_recipes(settings: Settings, without_groups: bool = False) -> list[Recipe]:
    """Return the recipes of the streams, and thumbnails if they are needed.

    Copies of clips are found by appearance, not by motion: by RGB features or thumbnails, which
    stand for pixels, too. Groups are proposed by thumbnails.

    Args:
        settings: of the features, and --groups.
        without_groups: the dataset has no groups.csv.
    """
    recipes = stream_recipes(settings)
    proposing = without_groups and settings.data.groups == "auto"
    by_rgb = "rgb" in settings.features.streams and settings.features.backbone != PIXELS
    if proposing or not by_rgb:
        frames, dtype = settings.features.frames_in_cache, settings.features.feature_dtype
        recipes.append(Recipe(frames, THUMBNAIL, "", THUMBNAIL_VALUES, dtype))
    return recipes
