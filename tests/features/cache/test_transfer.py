import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.features.cache.conftest import URL
from tests.object_store import CUT, ObjectStore, fail_first
from tests.remote_cache import add, found
from violence_detection.clips.clip import Clip
from violence_detection.errors import RunError, UserError
from violence_detection.features.cache import merging
from violence_detection.features.cache.feature_cache import FeatureCache, Recipe
from violence_detection.features.cache.folder import CacheFolder, file_stamp
from violence_detection.features.cache.transfer import LocalCache, copy_parts, wait_for_all_shares
from violence_detection.storage.files import file_checksum

RECIPE = Recipe(frames=4, layer="fc2", weights="md5-0", features=8, dtype="float16")


# Folders.


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
    with CacheFolder(elsewhere) as folder:
        store(folder, *clips[3:5])
    with CacheFolder(cache) as folder:
        store(folder, *clips[:3])
        (found,), rows = wait_for_all_shares(
            clips,
            {clips[5].name},
            LocalCache(cache, tmp_path),
            folder,
            [RECIPE],
            sleep=lambda seconds: shutil.copytree(elsewhere, cache, dirs_exist_ok=True),
        )
    assert list(rows) == clips[:5]
    numbers = [row for (row,) in rows.values()]
    expected = np.concatenate([features_of(clip) for clip in rows])
    np.testing.assert_array_equal(found.rows().read(numbers), expected)
    assert found.fingerprint(numbers) == fingerprint_of_one(tmp_path / "one", clips[:5])


def fingerprint_of_one(cache: Path, clips: list[Clip]) -> str:
    """Return the fingerprint of the clips in a cache of one part, in other rows."""
    with CacheFolder(cache) as folder:
        store(folder, *reversed(clips))
        one = FeatureCache(folder, RECIPE)
        return one.fingerprint(one.rows_of([file_checksum(c.path) for c in clips]).tolist())


def test_features_that_do_not_become_visible_are_an_error(
    tmp_path: Path, clips: list[Clip]
) -> None:
    cache = tmp_path / "cache"
    with CacheFolder(cache) as folder:
        store(folder, *clips[:3])
        with pytest.raises(RunError, match=r"3 missing.*/3\.mp4.*on a disk that all hosts share"):
            wait_for_all_shares(
                *(clips, (), LocalCache(cache, tmp_path), folder, [RECIPE]),
                timeout=0.1,
                sleep=lambda seconds: None,
            )


def test_own_disk_and_shared_cache_copy_what_they_lack(tmp_path: Path, clips: list[Clip]) -> None:
    cache, own_disk = tmp_path / "cache", tmp_path / "own"
    with CacheFolder(cache) as folder:
        store(folder, *clips[:3])
    with CacheFolder(cache, own_disk) as folder:
        store(folder, *clips[3:])
        assert None not in folder.known_contents([clip.path for clip in clips])
    assert copy_parts(own_disk, cache, [RECIPE]) == 2  # features, and what is known of files
    assert copy_parts(own_disk, cache, [RECIPE]) == 0
    assert copy_parts(cache, own_disk, [RECIPE]) == 2
    for place in (cache, own_disk):
        with CacheFolder(place) as folder:
            assert None not in folder.known_contents([clip.path for clip in clips])
            cached = FeatureCache(folder, RECIPE)
            rows = cached.rows_of([file_checksum(clip.path) for clip in clips]).tolist()
            expected = np.concatenate([features_of(clip) for clip in clips])
            np.testing.assert_array_equal(cached.rows().read(rows), expected)


# Stores.


def requested(store: ObjectStore, method: str, ending: str) -> list[str]:
    """Return the requests of files of features with this ending."""
    return [p for m, p in store.requests if m == method and p.endswith(ending)]


def test_another_machine_transfers_only_what_is_new(bucket: ObjectStore, tmp_path: Path) -> None:
    cache = LocalCache(URL, tmp_path / "a")
    add(cache, 0, 10)
    cache.upload()
    other = LocalCache(URL, tmp_path / "b")
    assert found(other) == list(range(10))
    add(other, 10, 3)
    bucket.requests.clear()
    other.upload()
    assert len(requested(bucket, "PUT", ".rows")) == len(requested(bucket, "PUT", ".keys")) == 1
    bucket.requests.clear()
    cache.refresh()
    assert found(cache) == list(range(13))
    assert len(requested(bucket, "GET", ".rows")) == 1
    bucket.requests.clear()
    again = LocalCache(URL, tmp_path / "a")
    again.upload()
    assert not requested(bucket, "GET", ".rows") and not requested(bucket, "PUT", ".rows")
    assert found(again) == list(range(13))


def test_who_only_needs_the_names_downloads_no_rows(bucket: ObjectStore, tmp_path: Path) -> None:
    cache = LocalCache(URL, tmp_path / "a")
    add(cache, 0, 10)
    cache.upload()
    names = LocalCache(URL, tmp_path / "b", with_rows=False)
    assert not requested(bucket, "GET", ".rows")
    add(names, 5, 10)
    names.upload()
    cache.refresh()
    assert found(cache) == list(range(15))
    later = LocalCache(URL, tmp_path / "b")  # now it needs them
    assert found(later) == list(range(15))


def test_who_has_only_the_names_of_many_parts_merges_none_of_them(
    bucket: ObjectStore, tmp_path: Path
) -> None:
    for number in range(merging.MANY):
        cache = LocalCache(URL, tmp_path / f"{number}", with_rows=False)
        add(cache, number, 1)
        cache.upload()
    names = LocalCache(URL, tmp_path / "names", with_rows=False)
    for number in range(2):
        add(names, merging.MANY + number, 1)
        names.upload()
    assert found(LocalCache(URL, tmp_path / "reader")) == list(range(merging.MANY + 2))


@pytest.mark.parametrize("ending", [".rows", ".keys"])
def test_upload_that_is_cut_off_leaves_the_cache_as_it_was_and_is_resumed(
    bucket: ObjectStore, tmp_path: Path, ending: str
) -> None:
    cache = LocalCache(URL, tmp_path / "a")
    add(cache, 0, 5)
    cache.upload()
    add(cache, 5, 5)
    bucket.fault = lambda method, path: CUT if method == "PUT" and path.endswith(ending) else None
    with pytest.raises(RunError, match="cannot be written"):
        cache.upload()
    bucket.fault = lambda method, path: None
    assert found(LocalCache(URL, tmp_path / "b")) == list(range(5))
    again = LocalCache(URL, tmp_path / "a")
    assert found(again) == list(range(10))
    again.upload()
    assert found(LocalCache(URL, tmp_path / "b")) == list(range(10))


def test_what_another_process_uploads_while_the_store_is_listed_stays_here(
    bucket: ObjectStore, tmp_path: Path
) -> None:
    """Two processes of one machine share a copy, and one store is all that they know."""
    first, second = LocalCache(URL, tmp_path / "a"), LocalCache(URL, tmp_path / "a")
    add(first, 0, 5)
    first.upload()
    add(second, 5, 5)
    uploads = [second.upload]

    def upload_once(method: str, path: str) -> bool:
        if method == "GET" and path.strip("/") == "bucket" and uploads:  # it is answered already
            uploads.pop()()
        return False

    bucket.loses_answer = upload_once
    first.refresh()
    assert not uploads
    assert found(first) == list(range(10))


def test_part_that_another_process_merges_during_an_upload_is_left_out(
    bucket: ObjectStore, tmp_path: Path
) -> None:
    cache = LocalCache(URL, tmp_path / "a")
    add(cache, 0, 5)

    def remove_keys(method: str, path: str) -> None:
        if method == "PUT" and path.endswith(".rows"):
            for keys in cache.path.glob(f"*/{Path(path).stem}.keys"):
                keys.unlink()

    bucket.fault = remove_keys
    cache.upload()
    add(cache, 5, 5)
    bucket.fault = lambda method, path: None
    cache.upload()
    assert found(LocalCache(URL, tmp_path / "b")) == list(range(5, 10))


@pytest.mark.parametrize("how", [500, CUT])
def test_transfers_are_retried(bucket: ObjectStore, tmp_path: Path, how: int | str) -> None:
    bucket.fault = fail_first(2, how, "PUT", "")
    cache = LocalCache(URL, tmp_path / "a")
    add(cache, 0, 10)
    cache.upload()
    bucket.fault = fail_first(2, how, "GET", "")
    assert found(LocalCache(URL, tmp_path / "b")) == list(range(10))


def test_parts_that_are_merged_are_merged_in_the_store_and_in_other_copies(
    bucket: ObjectStore, tmp_path: Path
) -> None:
    cache = LocalCache(URL, tmp_path / "a")
    other = LocalCache(URL, tmp_path / "b")
    for number in range(merging.MANY):
        add(cache, number, 1)
        cache.upload()
    other.refresh()
    add(cache, merging.MANY, 1)  # opening it merges the others
    cache.upload()
    rows = [name for name in bucket.names("bucket") if name.endswith(".rows")]
    assert len(rows) == 2
    other.refresh()
    for each in (cache, other):
        assert len(list(each.path.glob("*/*.rows"))) == 2
        assert found(each) == list(range(merging.MANY + 1))


def test_several_machines_write_at_once(bucket: ObjectStore, tmp_path: Path) -> None:
    caches = [LocalCache(URL, tmp_path / f"{number}") for number in range(3)]

    def work(number: int) -> None:
        add(caches[number], 5 * number, 10)  # each clip on two of them
        caches[number].upload()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for cache in caches:
        cache.refresh()
        assert found(cache) == list(range(20))


def foreign(store: ObjectStore) -> None:
    store.client.put_object(Bucket="bucket", Key="features/report.pdf", Body=b"x")


def forbidden(store: ObjectStore) -> None:
    store.fault = lambda method, path: 403 if path.endswith(".rows") else None


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (foreign, r"features is not empty and not a feature cache .*report\.pdf"),
        (forbidden, r"features cannot be read: permission denied"),
    ],
)
def test_cache_that_cannot_be_read_is_named(
    bucket: ObjectStore, tmp_path: Path, make: Callable[[ObjectStore], None], words: str
) -> None:
    cache = LocalCache(URL, tmp_path / "a")
    add(cache, 0, 5)
    cache.upload()
    make(bucket)
    with pytest.raises(UserError, match=words):
        LocalCache(URL, tmp_path / "b")


def test_part_that_is_damaged_in_the_store_is_left_out(bucket: ObjectStore, tmp_path: Path) -> None:
    cache = LocalCache(URL, tmp_path / "a")
    for first in (0, 5):
        add(cache, first, 5)
        cache.upload()
    name = max(name for name in bucket.names("bucket") if name.endswith(".keys"))
    bucket.client.put_object(Bucket="bucket", Key=name, Body=b"damaged")
    assert found(LocalCache(URL, tmp_path / "b")) == list(range(5))
