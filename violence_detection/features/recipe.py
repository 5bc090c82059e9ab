"""The features stored for each clip: a recipe per backbone and stream, and one to find copies."""

import dataclasses
from typing import NamedTuple

from violence_detection.clips.streams import THUMBNAIL_VALUES
from violence_detection.errors import UserError
from violence_detection.features.cache.feature_cache import THUMBNAIL, Recipe
from violence_detection.models.extractor import features_per_frame, takes_clips
from violence_detection.models.vgg19_weights import identify_weights
from violence_detection.settings.constants import PIXELS
from violence_detection.settings.data import Backbone, FeatureSettings
from violence_detection.settings.kinds import kinds_of
from violence_detection.settings.schema import Settings


class KindViews(NamedTuple):
    """Which of the views of `stream_recipes` a kind of classifier takes."""

    streams: list[int]  # in the order of its input
    mirrored: list[int]  # the same of mirrored clips; empty: none


def stream_recipes(settings: Settings) -> list[Recipe]:
    """Return the recipes of the streams, followed by those of mirrored clips for --augment flip.

    Kinds of classifiers follow one another; of one, the backbones alternate within a stream.
    """
    # A recipe for each backbone, of which those of streams differ little: its weights are read.
    kinds = [
        (kind, [_recipe(kind.features, backbone) for backbone in kind.features.backbones])
        for kind in kinds_of(settings)
    ]
    return [
        dataclasses.replace(recipe, stream=stream, flipped=flipped)
        for flipped in (False, True)
        for kind, recipes in kinds
        if not flipped or _is_mirrored(kind)
        for stream in kind.features.streams
        for recipe in recipes
    ]


def views_of_kinds(settings: Settings) -> list[KindViews]:
    """Return which of the views of `stream_recipes` each kind of classifier takes."""
    kinds, views = kinds_of(settings), []
    counts = [len(kind.features.streams) * len(kind.features.backbones) for kind in kinds]
    first, mirrored = 0, sum(counts)
    for kind, count in zip(kinds, counts, strict=True):
        views.append(KindViews(list(range(first, first + count)), []))
        first += count
        if _is_mirrored(kind):
            views[-1] = views[-1]._replace(mirrored=list(range(mirrored, mirrored + count)))
            mirrored += count
    return views


def weights_of(recipe: Recipe, settings: Settings) -> str:
    """Return the weights of a recipe's network, as the settings name them."""
    named = {
        weights
        for kind in kinds_of(settings)
        for name, layer, weights in kind.features.backbones
        if (name, layer) == (recipe.backbone, recipe.layer)
    }
    if len(named) == 1:
        return named.pop()
    known = {identify_weights(each, recipe.layer, recipe.backbone): each for each in sorted(named)}
    return known[recipe.weights]


def _is_mirrored(kind: Settings) -> bool:
    # Frames themselves are mirrored on the device: nothing else is stored for it.
    return "flip" in kind.training.augment and kind.features.backbone != PIXELS


def _recipe(features: FeatureSettings, backbone: Backbone) -> Recipe:
    """Return the recipe of a backbone's features of the frames themselves."""
    name, layer, weights = backbone
    if features.frames_in_cache != features.frames and takes_clips(name, layer, weights):
        raise UserError(
            f"--cached-frames {features.cached_frames}: {name} takes clips whole: drop it"
        )
    return Recipe(
        frames=features.frames_in_cache,
        layer=layer,
        weights=identify_weights(weights, layer, name),
        features=features_per_frame(
            name, layer, features.feature_pooling, weights, features.frames_in_cache
        ),
        dtype="uint8" if name == PIXELS else features.feature_dtype,
        pooling=features.feature_pooling,
        backbone=name,
    )


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
    if proposing or appearance_of(recipes) is None:
        frames, dtype = settings.features.frames_in_cache, settings.features.feature_dtype
        recipes.append(Recipe(frames, THUMBNAIL, "", THUMBNAIL_VALUES, dtype))
    return recipes


def appearance_of(recipes: list[Recipe]) -> int | None:
    """Return the index of the recipe by which copies are recognized; None: there is none."""
    by_rgb = (
        index
        for index, recipe in enumerate(recipes)
        if recipe.stream == "rgb" and recipe.backbone != PIXELS and not recipe.flipped
    )
    return next(by_rgb, None)
