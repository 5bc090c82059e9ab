from dataclasses import replace
from pathlib import Path

import numpy as np

from violence_detection.clips.clip import Clip
from violence_detection.features.cache.feature_cache import FeatureCache, Recipe
from violence_detection.features.cache.folder import CacheFolder, file_stamp
from violence_detection.features.cache.lookup import known_rows, rows_of_contents
from violence_detection.storage.files import file_checksum

RECIPE = Recipe(frames=4, layer="fc2", weights="md5-0", features=8, dtype="float16")


def test_clips_are_known_if_all_caches_have_their_features(tmp_path: Path) -> None:
    clips = [Clip(tmp_path, f"{number}.mp4", 1, "train") for number in range(4)]
    for clip in clips:
        clip.path.write_text(clip.name)
    contents = {clip: file_checksum(clip.path) for clip in clips}
    with CacheFolder(tmp_path / "cache") as folder:
        caches = [FeatureCache(folder, replace(RECIPE, stream=name)) for name in ("rgb", "flow")]
        for clip in clips[:3]:  # the fourth was never hashed
            folder.remember_file(clip.path, file_stamp(clip.path), contents[clip])
        caches[0].store(list(contents.values()), np.zeros((4, 4, 8)))
        caches[1].store([contents[clips[2]], contents[clips[0]]], np.zeros((2, 4, 8)))
        expected = {
            clip: tuple(cache.row_of(contents[clip]) for cache in caches)
            for clip in (clips[0], clips[2])
        }
        assert known_rows(clips, caches) == expected
        assert rows_of_contents(contents, caches) == expected
        clips[0].path.write_text("changed")
        assert known_rows(clips, caches) == {clips[2]: expected[clips[2]]}
        assert list(known_rows(clips, caches, assume_unchanged=True)) == [clips[0], clips[2]]
