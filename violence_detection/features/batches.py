"""Decoded clips in batches for the networks; images that are the same are computed once."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from violence_detection.clips.clip import Clip
from violence_detection.clips.streams import thumbnails
from violence_detection.errors import RunError
from violence_detection.features.cache.feature_cache import (
    THUMBNAIL,
    ClipFacts,
    FeatureCache,
    Recipe,
)
from violence_detection.features.network import Network, padded_features
from violence_detection.features.videos import OpenVideo
from violence_detection.settings.constants import ONNX


@dataclass(frozen=True)
class Decoded:
    """A clip's images."""

    clip: Clip
    video: OpenVideo
    content: bytes
    images: dict[int, np.ndarray]  # (frames, height, width, 3) uint8, by view to compute
    facts: ClipFacts


class ViewBatches:
    """Batches of whole clips in one view, for thumbnails and for networks in ONNX files.

    Such a network may see the frames of a clip together.

    Args:
        cache: of the view.
        size: clips per batch.
        make_network: called before the first batch.
    """

    def __init__(self, cache: FeatureCache, size: int, make_network: Callable[[], Network]):
        self._cache = cache
        self._size = size
        self._make_network = make_network
        # By checksum: of two copies in a batch, one is computed.
        self._batch: dict[bytes, tuple[Decoded, np.ndarray]] = {}

    def add(self, decoded: Decoded, images: Sequence[np.ndarray | None]) -> bool:
        """Add a clip by the images of its one view; return whether a batch was computed."""
        (own,) = images
        assert own is not None
        self._batch.setdefault(decoded.content, (decoded, own))
        return len(self._batch) == self._size and self.finish()

    def finish(self) -> bool:
        """Compute the clips that wait; return whether there were any."""
        if not self._batch:
            return False
        clips = [decoded for decoded, _ in self._batch.values()]
        images = np.stack([own for _, own in self._batch.values()])
        recipe = self._cache.recipe
        if recipe.layer == THUMBNAIL:
            features = thumbnails(images)
        else:
            features = padded_features(self._make_network(), images, self._size, recipe.dtype)
        _store(self._cache, clips, features)
        self._batch.clear()
        return True


@dataclass(frozen=True)
class _Waiting:
    decoded: Decoded
    numbers: np.ndarray  # (views, frames) int: of the images that its features are of


class ImageBatches:
    """Batches of images for one network, of all clips and of all views that it computes.

    Images that are the same in a clip are computed once: the first of `difference` and of `flow`
    repeats the second, and so do the frames of a still, or those that a slow video repeats.

    Args:
        caches: of the views.
        size: clips per batch, whose images fill it.
        make_network: called before the first batch.
    """

    def __init__(
        self, caches: Sequence[FeatureCache], size: int, make_network: Callable[[], Network]
    ):
        self._caches = caches
        self._recipe = caches[0].recipe
        self._size = size
        self._make_network = make_network
        # In the order of their numbers: images without features, features of clips that wait.
        self._images: list[np.ndarray] = []
        self._features: dict[int, np.ndarray] = {}
        self._computed = 0
        self._waiting: dict[bytes, _Waiting] = {}  # by checksum: copies are computed once

    def add(self, decoded: Decoded, images: Sequence[np.ndarray | None]) -> bool:
        """Add a clip; return whether features were stored.

        Args:
            decoded: the clip.
            images: by view, `(frames, 224, 224, 3)` uint8; None: its features are known.
        """
        if decoded.content in self._waiting:
            return False
        known: dict[bytes, int] = {}
        numbers = np.full((len(images), self._recipe.frames), -1)
        for view, of_view in enumerate(images):
            for frame, image in enumerate(() if of_view is None else of_view):
                key = image.tobytes()
                if key not in known:
                    known[key] = self._computed + len(self._images)
                    self._images.append(image)
                numbers[view, frame] = known[key]
        self._waiting[decoded.content] = _Waiting(decoded, numbers)
        stored = False
        while len(self._images) >= self._size * self._recipe.frames:
            stored |= self._compute()
        return stored

    def finish(self) -> bool:
        """Compute the images that wait; return whether there were any."""
        return bool(self._images) and self._compute()

    def _compute(self) -> bool:
        """Run the network over a batch, and store the features of clips that are complete."""
        recipe, room = self._recipe, self._size * self._recipe.frames
        own, self._images = self._images[:room], self._images[room:]
        batch = np.zeros((room, *own[0].shape), np.uint8)
        np.stack(own, out=batch[: len(own)])
        batch = batch.reshape(self._size, recipe.frames, *own[0].shape)
        features = padded_features(self._make_network(), batch, self._size, recipe.dtype)
        of_images = features.reshape(room, -1)[: len(own)]
        self._features |= enumerate(of_images, self._computed)
        self._computed += len(own)
        complete = []
        for item in self._waiting.values():
            if item.numbers.max() >= self._computed:
                break
            complete.append(item)
        for view, cache in enumerate(self._caches):
            chosen = [item for item in complete if item.numbers[view, 0] >= 0]
            if chosen:
                found = [[self._features[n] for n in item.numbers[view]] for item in chosen]
                _store(cache, [item.decoded for item in chosen], np.array(found))
        for item in complete:
            del self._waiting[item.decoded.content]
            for number in set(item.numbers[item.numbers >= 0].tolist()):
                del self._features[number]
        return bool(complete)


class Batches:
    """Hands each view of a clip to the batches of its network.

    Args:
        caches: one per view.
        size: clips per batch.
        make_network: called before the first batch of a network.
    """

    def __init__(
        self,
        caches: Sequence[FeatureCache],
        size: int,
        make_network: Callable[[Recipe], Network],
    ):
        self.caches = caches
        self.size = size
        self._make_network = make_network
        self._networks: dict[tuple[str, str, str], Network] = {}
        self._by_views: list[tuple[list[int], ViewBatches | ImageBatches]] = []
        by_network: dict[Recipe, list[int]] = {}
        for view, cache in enumerate(caches):
            recipe = cache.recipe
            network = self._network_of(recipe)
            if recipe.layer == THUMBNAIL or recipe.backbone.endswith(ONNX):
                self._by_views.append(([view], ViewBatches(cache, size, network)))
            else:
                of_any_view = dataclasses.replace(recipe, stream="rgb", flipped=False)
                by_network.setdefault(of_any_view, []).append(view)
        for views in by_network.values():
            of_network = [caches[view] for view in views]
            network = self._network_of(of_network[0].recipe)
            self._by_views.append((views, ImageBatches(of_network, size, network)))

    def _network_of(self, recipe: Recipe) -> Callable[[], Network]:
        def network() -> Network:
            if recipe.network not in self._networks:
                self._networks[recipe.network] = self._make_network(recipe)
            return self._networks[recipe.network]

        return network

    def add(self, decoded: Decoded) -> Iterator[None]:
        """Add a clip to the batches of each view without it; yield once for all that was stored."""
        for views, batches in self._by_views:
            # Checked again: a copy may have been decoded before its duplicate was stored.
            images = [
                decoded.images.pop(view)
                if view in decoded.images and self.caches[view].row_of(decoded.content) is None
                else None
                for view in views
            ]
            if any(own is not None for own in images) and batches.add(decoded, images):
                yield

    def finish(self) -> None:
        """Compute the incomplete batches."""
        for _, batches in self._by_views:
            batches.finish()


def _store(cache: FeatureCache, clips: Sequence[Decoded], features: np.ndarray) -> None:
    """Store the features of clips, `(clips, frames, features)`.

    Raises:
        RunError: they overflow their dtype.
    """
    for decoded, values in zip(clips, features, strict=True):
        if not np.isfinite(values).all():
            raise RunError(
                f"{decoded.clip.path}: features overflow {cache.recipe.dtype}: use "
                "--feature-dtype float32 --no-mixed-precision"
            )
    cache.store([item.content for item in clips], features, [item.facts for item in clips])
