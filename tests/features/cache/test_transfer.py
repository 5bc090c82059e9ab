import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import opened_cache
from violence_detection.clips.clip import Clip
from violence_detection.errors import RunError
from violence_detection.features.cache.feature_cache import FeatureCache, Recipe
from violence_detection.features.cache.folder import CacheFolder, file_stamp
from violence_detection.features.cache.local import LocalCache
from violence_detection.features.cache.transfer import (
    copy_to_local_disk,
    copy_to_shared_cache,
    wait_for_all_shares,
)
from violence_detection.runtime.worker import Worker
from violence_detection.storage.files import file_checksum

RECIPE = Recipe(frames=4, layer="fc2", weights="md5-0", features=8, dtype="float16")


@pytest.fixture
def clips(tmp_path: Path) -> list[Clip]:
    paths = [tmp_path / f"{number}.mp4" for number in range(6)]
    for path in paths:
        path.write_text(path.name)
    return [Clip(path.parent, path.name, 1, "train") for path in paths]


def features_of(clip: Clip) -> np.ndarray:
    return np.full((1, 4, 8), int(clip.path.stem), np.float16)


def store(folder: CacheFolder, *clips: Clip) -> None:
    cache = FeatureCache(folder, RECIPE)
    for clip in clips:
        content = file_checksum(clip.path)
        folder.remember_file(clip.path, file_stamp(clip.path), content)
        cache.store([content], features_of(clip))
    cache.commit()


def test_features_of_other_workers_are_waited_for(tmp_path: Path, clips: list[Clip]) -> None:
    cache, elsewhere = tmp_path / "cache", tmp_path / "elsewhere"
    with CacheFolder(elsewhere, worker=Worker(1, 2)) as folder:
        store(folder, *clips[3:5])
    with CacheFolder(cache, worker=Worker(0, 2)) as folder:
        store(folder, *clips[:3])
        (found,), rows = wait_for_all_shares(
            clips,
            {clips[5].name},
            LocalCache(cache, tmp_path),
            folder,
            [RECIPE],
            sleep=lambda seconds: shutil.copytree(elsewhere / "shard_2", cache / "shard_2"),
        )
    assert list(rows) == clips[:5]
    numbers = [row for (row,) in rows.values()]
    expected = np.concatenate([features_of(clip) for clip in rows])
    np.testing.assert_array_equal(found.rows().read(numbers), expected)
    assert found.fingerprint(numbers) == fingerprint_of_one(tmp_path / "one", clips[:5])


def fingerprint_of_one(cache: Path, clips: list[Clip]) -> str:
    """Return the fingerprint of the clips in a cache without shards, in other rows."""
    with CacheFolder(cache) as folder:
        store(folder, *reversed(clips))
        one = FeatureCache(folder, RECIPE)
        return one.fingerprint(one.rows_of([file_checksum(c.path) for c in clips]).tolist())


def test_features_that_do_not_become_visible_are_an_error(
    tmp_path: Path, clips: list[Clip]
) -> None:
    cache = tmp_path / "cache"
    with CacheFolder(cache, worker=Worker(0, 2)) as folder:
        store(folder, *clips[:3])
        with pytest.raises(RunError, match=r"3 missing.*/3\.mp4.*on a disk that all hosts share"):
            wait_for_all_shares(
                clips,
                (),
                LocalCache(cache, tmp_path),
                folder,
                [RECIPE],
                timeout=0.1,
                sleep=lambda seconds: None,
            )


def test_own_disk_and_shared_cache_copy_what_they_lack(tmp_path: Path, clips: list[Clip]) -> None:
    cache, local = tmp_path / "cache", tmp_path / "local"
    with CacheFolder(cache, worker=Worker(1, 2)) as folder:
        store(folder, *clips[:3])
    with CacheFolder(cache, worker=Worker(0, 2), local=local) as folder:
        store(folder, *clips[2:])
        for _ in range(2):  # nothing is copied twice
            copy_to_shared_cache(cache, local, [RECIPE], Worker(0, 2), lambda holder: None)
        caches, rows = wait_for_all_shares(clips, (), LocalCache(cache, tmp_path), folder, [RECIPE])
        here = copy_to_local_disk(rows, caches)
        copy_to_local_disk(here, caches)
    sizes = {path.parent.name: path.stat().st_size // 64 for path in tmp_path.rglob("*.features")}
    assert sizes == {"local": 6, "shard_1": 3, "shard_2": 3}
    shutil.rmtree(local)
    with CacheFolder(cache) as folder:  # files are known without the copy, too
        assert None not in folder.known_contents([clip.path for clip in clips])
        cached = FeatureCache(folder, RECIPE)
        found = cached.rows_of([file_checksum(clip.path) for clip in clips]).tolist()
        np.testing.assert_array_equal(
            cached.rows().read(found), np.concatenate([features_of(clip) for clip in clips])
        )


def test_damaged_row_is_dropped_from_its_shard_unless_that_is_being_written(
    tmp_path: Path, clips: list[Clip]
) -> None:
    """If it is, the row is dropped for this process only."""
    with CacheFolder(tmp_path / "cache", worker=Worker(0, 2)) as theirs:
        store(theirs, *clips)
        with CacheFolder(tmp_path / "cache", worker=Worker(1, 2)) as folder:
            cache = FeatureCache(folder, RECIPE)
            content = file_checksum(clips[2].path)
            cache.drop([cache.row_of(content)])
            assert cache.row_of(content) is None
            assert FeatureCache(theirs, RECIPE).row_of(content) is not None
    with CacheFolder(tmp_path / "cache", worker=Worker(1, 2)) as folder:
        cache = FeatureCache(folder, RECIPE)
        cache.drop([cache.row_of(content)])
        store(folder, clips[2])
    with opened_cache(tmp_path / "cache", RECIPE) as cache:
        rows = cache.rows_of([file_checksum(clip.path) for clip in clips]).tolist()
        assert [row >> 40 for row in rows] == [1, 1, 2, 1, 1, 1]
