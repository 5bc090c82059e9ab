import dataclasses
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks.crash import cached_features
from tests.conftest import opened_cache
from violence_detection.clips.clip import Clip, Segment
from violence_detection.clips.dataset import find_clips
from violence_detection.clips.decoders import DecoderProcesses, View
from violence_detection.clips.frames import ClipInfo, read_frames
from violence_detection.clips.streams import stream_images
from violence_detection.errors import RunError, UserError
from violence_detection.features.cache.feature_cache import FeatureCache, Recipe
from violence_detection.features.cache.folder import CacheFolder
from violence_detection.features.cache.lookup import ClipRows
from violence_detection.features.extraction import (
    BadClip,
    extract_features,
    log_bias,
    require_readable,
)
from violence_detection.features.network import on_replicas
from violence_detection.models.vgg19 import load_vgg19_weights, vgg19
from violence_detection.runtime.devices import find_devices, make_strategy
from violence_detection.storage.files import file_checksum

LAYER = "block1_conv1"
TIMEOUT = 60.0  # seconds
RECIPE = Recipe(frames=4, layer=LAYER, weights="random-0", features=64, dtype="float16")


def make_extractor():
    model = vgg19(LAYER)
    load_vgg19_weights(model, "random", LAYER)
    return model


class CountingNetwork:
    """The real network, counting the images that it is given and how often it is made."""

    def __init__(self, replicas: int = 1):
        self.replicas, self.made, self.images = replicas, 0, 0

    def __call__(self, recipe: Recipe) -> Callable[[np.ndarray], np.ndarray]:
        self.made += 1
        network = on_replicas(make_strategy(find_devices(self.replicas), 8), make_extractor)

        def counted(frames: np.ndarray) -> np.ndarray:
            self.images += int(frames.any(axis=(2, 3, 4)).sum())  # padding is black
            return network(frames)

        return counted


@pytest.fixture
def clips(drawn_clips: Path) -> list[Clip]:
    return find_clips(drawn_clips, seed=0)


@pytest.mark.parametrize("replicas", [1, 2])
def test_features_are_those_of_the_clips_own_frames(
    clips: list[Clip], tmp_path: Path, replicas: int
) -> None:
    clips, network = clips[:12], CountingNetwork(replicas)
    with opened_cache(tmp_path, RECIPE) as cache:
        rows, bad = extract_features(clips, [cache], network, replicas, TIMEOUT)
    assert not bad
    assert network.images == 4 * len(clips)
    features, model = cache.rows(), make_extractor()
    for clip in clips[::5]:
        expected = model.predict(read_frames(clip.path, 4), verbose=0)
        np.testing.assert_allclose(features.read(rows[clip])[0], expected, rtol=2e-3)


def test_nothing_is_computed_twice(
    clips: list[Clip], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "violence_detection")
    clips, network = clips[:12], CountingNetwork()

    def extract(chosen: list[Clip]) -> ClipRows:
        with opened_cache(tmp_path, RECIPE) as cache:
            return extract_features(chosen, [cache], network, 1, TIMEOUT)[0]

    first = extract(clips[5:])
    assert extract(clips[5:]) == first
    assert (network.made, network.images) == (1, 4 * (len(clips) - 5))
    more = extract(clips)
    assert network.images == 4 * len(clips)
    assert caplog.messages == [
        "features: 0 of 7 found, 7 to compute",
        "features: 7 of 7 found, 0 to compute",
        "features: 7 of 12 found, 5 to compute",
    ]
    assert {clip: more[clip] for clip in first} == first


STREAM_RECIPES = [dataclasses.replace(RECIPE, stream=name) for name in ("difference", "flow")]


@pytest.fixture
def decodings(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """Return a list that fills with the streams of every decoding of a clip."""
    decoded: list[tuple[str, ...]] = []
    read_clip = DecoderProcesses.read_clip

    def counted(
        decoders: DecoderProcesses, path: Path, views: Sequence[View], segment: Segment | None
    ) -> tuple[np.ndarray, ClipInfo]:
        decoded.append(tuple(stream for stream, _ in views))
        return read_clip(decoders, path, views, segment)

    monkeypatch.setattr(DecoderProcesses, "read_clip", counted)
    return decoded


def assert_features_of_streams(caches: list[FeatureCache], rows: ClipRows) -> None:
    model = make_extractor()
    for view, cache in enumerate(caches):
        for clip in list(rows)[::4]:
            images = stream_images(read_frames(clip.path, 4), cache.recipe.stream)
            found = cache.rows().read([rows[clip][view]])[0]
            expected = model.predict(images, verbose=0)
            np.testing.assert_allclose(found, expected, rtol=2e-3, atol=1e-3)


def test_two_streams_decode_each_clip_once(
    clips: list[Clip], tmp_path: Path, decodings: list[tuple[str, ...]]
) -> None:
    clips, network = clips[:9], CountingNetwork()
    with CacheFolder(tmp_path) as folder:
        caches = [FeatureCache(folder, recipe) for recipe in STREAM_RECIPES]
        rows, bad = extract_features(clips, caches, network, 1, TIMEOUT)
    assert not bad
    assert decodings == [("difference", "flow")] * len(clips)
    assert (network.made, network.images) == (1, 2 * 3 * len(clips))  # the first repeats the second
    assert_features_of_streams(caches, rows)


def test_features_are_those_of_the_images_one_by_one_to_the_bit(
    clips: list[Clip], tmp_path: Path
) -> None:
    """Whatever else is in a batch, and whether images are left out that are there already."""
    recipes = [dataclasses.replace(recipe, dtype="float32") for recipe in STREAM_RECIPES]
    with CacheFolder(tmp_path) as folder:
        caches = [FeatureCache(folder, recipe) for recipe in recipes]
        rows, _ = extract_features(clips[:7], caches, CountingNetwork(), 1, TIMEOUT)
        found = [
            cache.rows().read([rows[c][n] for c in clips[:7]]) for n, cache in enumerate(caches)
        ]
    network = on_replicas(make_strategy(find_devices(1), 8), make_extractor)
    for clip, *of_streams in zip(clips[:7], *found, strict=True):
        for recipe, features in zip(recipes, of_streams, strict=True):
            images = stream_images(read_frames(clip.path, 4), recipe.stream)
            for image, own in zip(images, features, strict=True):
                batch = np.zeros((4, 4, *image.shape), np.uint8)
                batch[0, 0] = image
                np.testing.assert_array_equal(own, network(batch)[0, 0])


@pytest.mark.parametrize("shown", [1, 2])
def test_frames_that_repeat_are_computed_once(shown: int, tmp_path: Path) -> None:
    """Of a still, and of a video that shows each picture several times."""
    random = np.random.default_rng(0)
    pictures = random.integers(0, 256, (shown, 48, 64, 3), np.uint8)
    writer = cv2.VideoWriter(
        str(tmp_path / "video.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48)
    )
    for number in range(20):
        writer.write(pictures[number * shown // 20])
    writer.release()
    network, recipe = CountingNetwork(), dataclasses.replace(RECIPE, frames=8)
    clip = Clip(tmp_path, "video.avi", 0, "val")
    with opened_cache(tmp_path / "cache", recipe) as cache:
        rows, bad = extract_features([clip], [cache], network, 1, TIMEOUT)
        assert not bad
        (features,) = cache.rows().read([rows[clip][0]])
    assert network.images == shown
    expected = make_extractor().predict(read_frames(clip.path, 8), verbose=0)
    np.testing.assert_allclose(features, expected, rtol=2e-3, atol=1e-3)


def test_two_networks_share_the_decoded_clips(
    clips: list[Clip], tmp_path: Path, decodings: list[tuple[str, ...]]
) -> None:
    other = dataclasses.replace(RECIPE, weights="other")
    network = CountingNetwork()
    with CacheFolder(tmp_path) as folder:
        caches = [FeatureCache(folder, recipe) for recipe in (RECIPE, other)]
        rows, _ = extract_features(clips[:9], caches, network, 1, TIMEOUT)
    assert len(rows) == 9
    assert decodings == [("rgb",)] * 9
    assert (network.made, network.images) == (2, 2 * 4 * 9)


def test_of_a_stream_that_is_added_only_that_is_computed(
    clips: list[Clip], tmp_path: Path, decodings: list[tuple[str, ...]]
) -> None:
    clips, network = clips[:9], CountingNetwork()
    with opened_cache(tmp_path, STREAM_RECIPES[0]) as cache:
        first, _ = extract_features(clips, [cache], network, 1, TIMEOUT)
    assert decodings == [("difference",)] * 9
    stored = cached_features(tmp_path)
    with CacheFolder(tmp_path) as folder:
        caches = [FeatureCache(folder, recipe) for recipe in STREAM_RECIPES]
        both, _ = extract_features(clips, caches, network, 1, TIMEOUT)
        assert decodings[9:] == [("flow",)] * 9
        assert network.images == 2 * 3 * 9
        again, _ = extract_features(clips, caches, network, 1, TIMEOUT)
        assert (network.images, len(decodings)) == (2 * 3 * 9, 2 * 9)
    assert again == both
    assert {clip: rows[:1] for clip, rows in both.items()} == first
    assert cached_features(tmp_path, STREAM_RECIPES[0].key) == stored
    assert_features_of_streams(caches, both)


def test_moved_and_doubled_clips_are_the_same_clip(clips: list[Clip], tmp_path: Path) -> None:
    copies = [
        Clip(Path(shutil.copy(clip.path, tmp_path / f"{n}.mp4")).parent, f"{n}.mp4", 0, "val")
        for n, clip in enumerate([clips[0], clips[1], clips[1]])
    ]
    network = CountingNetwork()
    with opened_cache(tmp_path / "cache", RECIPE) as cache:
        rows, _ = extract_features(clips[:1], [cache], network, 1, TIMEOUT)
        more, _ = extract_features(copies, [cache], network, 1, TIMEOUT)
    assert network.images == 4 * 2
    assert more[copies[0]] == rows[clips[0]]
    assert more[copies[1]] == more[copies[2]]


def test_copies_in_two_batches_are_computed_once(clips: list[Clip], tmp_path: Path) -> None:
    shutil.copy(clips[3].path, tmp_path / "copy.mp4")
    copy = Clip(tmp_path, "copy.mp4", 1, "val")
    network = CountingNetwork()
    with opened_cache(tmp_path / "cache", RECIPE) as cache:
        rows, _ = extract_features([*clips[:4], copy, *clips[4:8]], [cache], network, 1, TIMEOUT)
    assert network.images == 4 * 8
    assert rows[copy] == rows[clips[3]]
    with opened_cache(tmp_path / "cache", RECIPE) as again:
        assert extract_features([*clips[:8], copy], [again], network, 1, TIMEOUT)[0] == rows


@pytest.fixture
def with_bad_clips(clips: list[Clip], tmp_path: Path) -> list[Clip]:
    contents = {"empty": b"", "text": b"hello" * 999, "cut": clips[0].path.read_bytes()[:900]}
    bad = []
    for name, content in contents.items():
        (tmp_path / f"{name}.mp4").write_bytes(content)
        bad.append(Clip(tmp_path, f"{name}.mp4", 1, "train"))
    gone = Clip(tmp_path, "gone.mp4", 1, "train")
    bad_link = tmp_path / "gone.mp4"
    bad_link.symlink_to(tmp_path / "nowhere.mp4")
    return [*clips[:3], *bad, gone, *clips[3:6]]


def test_bad_clips_are_left_out_with_their_reason(
    with_bad_clips: list[Clip], tmp_path: Path
) -> None:
    with opened_cache(tmp_path / "cache", RECIPE) as cache:
        rows, bad = extract_features(with_bad_clips, [cache], CountingNetwork(), 1, TIMEOUT)
    assert {item.clip.name for item in bad} == {"empty.mp4", "text.mp4", "cut.mp4", "gone.mp4"}
    assert all(item.reason for item in bad)
    assert len(rows) == 6
    assert sorted(rows.values()) == [(row,) for row in range(6)]


def test_run_can_stop_at_a_bad_clip(with_bad_clips: list[Clip], tmp_path: Path) -> None:
    with (
        opened_cache(tmp_path / "cache", RECIPE) as cache,
        pytest.raises(UserError, match=r"empty\.mp4: the file is empty"),
    ):
        extract_features(
            with_bad_clips, [cache], CountingNetwork(), 1, TIMEOUT, stop_at_bad_clip=True
        )


def test_features_that_overflow_are_not_kept(clips: list[Clip], tmp_path: Path) -> None:
    def huge(recipe: Recipe) -> Callable[[np.ndarray], np.ndarray]:
        return lambda frames: np.full((*frames.shape[:2], 64), 1e6, np.float32)

    with (
        opened_cache(tmp_path / "cache", RECIPE) as cache,
        pytest.raises(RunError, match="--feature-dtype float32"),
    ):
        extract_features(clips, [cache], huge, 1, TIMEOUT)
    assert not cache.path.exists()


def test_only_a_few_clips_are_decoded_in_advance(
    clips: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[Path] = []
    monkeypatch.setattr(
        DecoderProcesses,
        "checksum",
        lambda decoders, path: decoded.append(path) or file_checksum(path),
    )
    waiting: list[int] = []

    def network(recipe: Recipe) -> Callable[[np.ndarray], np.ndarray]:
        def extract(frames: np.ndarray) -> np.ndarray:
            time.sleep(0.2)  # the decoders are much faster than this network
            waiting.append(len(decoded) - len(frames) * len(waiting))
            return np.zeros((*frames.shape[:2], 64), np.float32)

        return extract

    with opened_cache(tmp_path, RECIPE) as cache:
        extract_features(clips, [cache], network, 1, TIMEOUT)
    assert len(decoded) == 28
    assert max(waiting) <= 12  # one batch being computed, two ahead


@pytest.mark.parametrize(
    ("lost", "limit", "reason"),
    [
        (range(0), 0.1, None),
        (range(2), 0.1, None),
        (range(3), 0.1, "3 of the 20 train clips"),
        (range(3), 0.3, None),
        (range(0, 4, 2), 0.1, "2 of the 10 nonviolent train clips"),  # 2 of 20 in all
        (range(0, 1), 0.01, "1 of the 20 train clips"),
        (range(20, 21), 0.03, None),  # 1 of 20 violent ones, which alone stops nothing
    ],
)
def test_more_unreadable_clips_than_allowed_stop_the_run(
    lost: range, limit: float, reason: str | None
) -> None:
    """Of a split, and of a class in it."""
    clips = [Clip(Path("/"), str(n), n % 2, "train" if n < 20 else "val") for n in range(60)]
    bad = [BadClip(clips[number], "empty") for number in lost]
    if reason is None:
        require_readable(bad, clips, limit)
        return
    with pytest.raises(UserError, match=reason) as error:
        require_readable(bad, clips, limit)
    assert f"more than {limit:.0%} (--max-bad-clips)" in str(error.value)


@pytest.mark.parametrize(("violent", "is_biased"), [(10, True), (4, False)])
def test_class_that_fails_more_often_is_reported(
    violent: int, is_biased: bool, caplog: pytest.LogCaptureFixture
) -> None:
    clips = [Clip(Path("/"), str(n), int(n < 100), "train") for n in range(200)]
    bad = [BadClip(clip, "empty") for clip in [*clips[:violent], *clips[100:101]]]
    log_bias(bad, clips)
    words = f"1 of 100 nonviolent and {violent} of 100 violent clips cannot be read"
    assert (words in caplog.text) == is_biased


def test_folder_of_clips_that_is_gone_ends_the_run(clips: list[Clip], tmp_path: Path) -> None:
    """Leaving all of its clips out as bad ones would train on what happens to be left."""
    gone = Clip(tmp_path / "unmounted", "a.mp4", 1, "train")
    with (
        opened_cache(tmp_path / "cache", RECIPE) as cache,
        pytest.raises(RunError, match=r"unmounted.*Is its disk mounted"),
    ):
        extract_features([*clips[:8], gone], [cache], CountingNetwork(), 1, TIMEOUT)
    with opened_cache(tmp_path / "cache", RECIPE) as again:
        rows, _ = extract_features(clips[:4], [again], CountingNetwork(), 1, TIMEOUT)
    assert len(rows) == 4
