import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import ROOT
from tests.object_store import CUT, ObjectStore, fail_first
from violence_detection.errors import RunError, UserError
from violence_detection.features.cache.feature_cache import FeatureCache, Recipe
from violence_detection.features.cache.folder import CacheFolder
from violence_detection.features.cache.local import LocalCache
from violence_detection.runtime.worker import Worker

URL = "s3://bucket/features"
RECIPE = Recipe(frames=4, layer="block1_conv1", weights="random-0", features=64, dtype="float16")
ROW = 4 * 64 * 2  # bytes


@pytest.fixture
def bucket(object_store: ObjectStore) -> ObjectStore:
    object_store.client.create_bucket(Bucket="bucket")
    return object_store


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("violence_detection.features.cache.remote.PART", 4 * ROW)


def add(copy: LocalCache, first: int, count: int, worker: Worker | None = None) -> None:
    """Store features of clips with these numbers, all of a clip's values its number."""
    with CacheFolder(copy.path, worker=worker) as folder:
        cache = FeatureCache(folder, RECIPE)
        clips = [number.to_bytes(16) for number in range(first, first + count)]
        values = np.arange(first, first + count, dtype=np.float16)
        cache.store(clips, np.broadcast_to(values[:, None, None], (count, 4, 64)))
        cache.commit()


def found(copy: LocalCache) -> list[float]:
    """Return the numbers of the clips that the cache has, each as its features tell it."""
    with CacheFolder(copy.path) as folder:
        cache = FeatureCache(folder, RECIPE)
        rows = [row for n in range(99) if (row := cache.row_of(n.to_bytes(16))) is not None]
        return sorted(cache.rows().read(rows)[:, 0, 0].tolist()) if rows else []


@pytest.mark.usefixtures("small_parts")
def test_another_machine_finds_it_and_only_what_is_new_is_sent(
    bucket: ObjectStore, tmp_path: Path
) -> None:
    with LocalCache(URL, tmp_path / "a") as copy:
        add(copy, 0, 10)
        copy.upload()
    assert "features/lock.json" not in bucket.names("bucket")
    with LocalCache(URL, tmp_path / "b") as copy:
        assert found(copy) == list(range(10))
        add(copy, 10, 3)
        before = len(bucket.requests)
        copy.upload()
    sent = [path for method, path in bucket.requests[before:] if method == "PUT"]
    # The two whole parts of the first ten rows are there; the third and a fourth are not.
    assert sorted(path[-6:] for path in sent if ".features/" in path) == ["000002", "000003"]
    before = len(bucket.requests)
    with LocalCache(URL, tmp_path / "a") as copy:
        assert found(copy) == list(range(13))
        fetched = [path for method, path in bucket.requests[before:] if method == "GET"]
        assert sorted(path[-6:] for path in fetched if ".features/" in path) == ["000002", "000003"]


def test_nothing_is_sent_or_fetched_if_nothing_changed(bucket: ObjectStore, tmp_path: Path) -> None:
    with LocalCache(URL, tmp_path) as copy:
        add(copy, 0, 10)
        copy.upload()
    names, before = bucket.names("bucket"), len(bucket.requests)
    with LocalCache(URL, tmp_path) as copy:
        copy.upload()
    assert bucket.names("bucket") == names
    assert not any("/data/" in path for _, path in bucket.requests[before:])


@pytest.mark.usefixtures("small_parts")
def test_what_is_superseded_is_removed_and_the_one_before_stays(
    bucket: ObjectStore, tmp_path: Path
) -> None:
    for number in range(4):
        with LocalCache(URL, tmp_path) as copy:
            add(copy, 5 * number, 5)
            (copy.path / "changes").write_text(str(number))
            second = int(time.time())
            while int(time.time()) == second:  # the store's clock counts seconds
                time.sleep(0.01)
            copy.upload()
        if number == 0:
            first = [name for name in bucket.names("bucket") if "/changes/" in name]
    manifests = [name for name in bucket.names("bucket") if "/manifests/" in name]
    assert manifests == [f"features/manifests/0000000{number}.json" for number in (3, 4)]
    assert len(first) == 1
    assert not set(first) & set(bucket.names("bucket"))
    with LocalCache(URL, tmp_path / "b") as copy:
        assert found(copy) == list(range(20))


UPLOAD = """
import sys
from pathlib import Path
import numpy as np
from violence_detection.features.cache.folder import CacheFolder
from violence_detection.features.cache.feature_cache import FeatureCache, Recipe
from violence_detection.features.cache.local import LocalCache
with LocalCache(sys.argv[1], Path(sys.argv[2])) as copy:
    with CacheFolder(copy.path) as folder:
        cache = FeatureCache(folder, Recipe(4, "block1_conv1", "random-0", 64, "float16"))
        values = np.arange(10, 15, dtype=np.float16)[:, None, None]
        cache.store([n.to_bytes(16) for n in range(10, 15)], np.broadcast_to(values, (5, 4, 64)))
        cache.commit()
    copy.upload()
"""


@pytest.mark.parametrize("at", ["/000000", ".json"])
def test_a_killed_upload_leaves_the_cache_as_it_was_and_the_next_start_goes_on(
    bucket: ObjectStore, tmp_path: Path, at: str
) -> None:
    with LocalCache(URL, tmp_path / "a") as copy:
        add(copy, 0, 10)
        copy.upload()
    reached, released = threading.Event(), threading.Event()

    def fault(method: str, path: str) -> int | str | None:
        if method == "PUT" and path.endswith(at) and "lock" not in path:
            reached.set()
            released.wait(60)
            return CUT
        return None

    bucket.fault = fault
    command = [sys.executable, "-c", UPLOAD, URL, str(tmp_path / "a")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert reached.wait(60)
        process.kill()
    released.set()
    bucket.fault = lambda method, path: None
    with LocalCache(URL, tmp_path / "other", write=False) as copy:
        assert found(copy) == list(range(10))
    with LocalCache(URL, tmp_path / "a") as copy:  # does not wait for the lock of the dead one
        assert found(copy) == list(range(15))
        copy.upload()
    with LocalCache(URL, tmp_path / "other") as copy:
        assert found(copy) == list(range(15))


def test_of_two_writers_the_second_waits_and_goes_on_from_the_first(
    bucket: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("violence_detection.features.cache.remote.LOOK_EVERY", 0.05)
    seen: list[list[float]] = []

    def second() -> None:
        with LocalCache(URL, tmp_path / "b") as copy:
            seen.append(found(copy))
            add(copy, 10, 5)
            copy.upload()

    with LocalCache(URL, tmp_path / "a") as copy:
        thread = threading.Thread(target=second)
        before = len(bucket.requests)
        thread.start()
        while ("GET", "/bucket/features/lock.json") not in bucket.requests[before:]:
            thread.join(0.02)
        add(copy, 0, 10)
        copy.upload()
        copy.release()
        thread.join(60)
    assert seen == [list(map(float, range(10)))]
    with LocalCache(URL, tmp_path / "c", write=False) as copy:
        assert found(copy) == list(range(15))


def test_a_writer_that_was_taken_for_dead_overwrites_nothing(
    bucket: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("violence_detection.features.cache.remote.LOCK_AGE", 0.2)
    monkeypatch.setattr("violence_detection.features.cache.remote.LOOK_EVERY", 0.05)
    with LocalCache(URL, tmp_path / "slow") as slow:
        add(slow, 0, 10)
        with LocalCache(URL, tmp_path / "b") as copy:
            assert found(copy) == []
            add(copy, 20, 5)
            copy.upload()
        slow.upload()  # told by a warning; its run goes on with what it has
        assert found(slow) == list(range(10))
    with LocalCache(URL, tmp_path / "c", write=False) as copy:
        assert found(copy) == list(range(20, 25))
    with LocalCache(URL, tmp_path / "slow") as slow:
        assert found(slow) == list(range(20, 25))


def test_a_copy_in_use_is_refused(bucket: ObjectStore, tmp_path: Path) -> None:
    with (
        LocalCache(URL, tmp_path) as copy,
        pytest.raises(UserError, match=r"in use by process \d+.*--spool-dir"),
    ):
        assert found(copy) == []
        LocalCache(URL, tmp_path).__enter__()


def foreign(store: ObjectStore) -> None:
    store.client.put_object(Bucket="bucket", Key="features/report.pdf", Body=b"x")


def forbidden(store: ObjectStore) -> None:
    store.fault = lambda method, path: 403 if method == "PUT" else None


def no_bucket(store: ObjectStore) -> None:
    store.client.delete_bucket(Bucket="bucket")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (foreign, r"no cache of this program's making \(report.pdf is in it\)"),
        (forbidden, r"--cache-dir s3://bucket/features cannot be written: permission denied"),
        (no_bucket, r"--cache-dir s3://bucket/features: there is no bucket bucket"),
    ],
)
def test_what_the_user_can_put_right_is_told(
    bucket: ObjectStore, tmp_path: Path, make: Callable[[ObjectStore], None], said: str
) -> None:
    make(bucket)
    with pytest.raises(UserError, match=said):
        LocalCache(URL, tmp_path).__enter__()
    with pytest.raises(UserError, match=said):  # and nothing is held
        LocalCache(URL, tmp_path).__enter__()


@pytest.mark.parametrize("how", [500, CUT])
def test_uploads_and_downloads_are_tried_again(
    bucket: ObjectStore, tmp_path: Path, how: int | str
) -> None:
    for method in ("PUT", "GET"):
        bucket.fault = fail_first(2, how, method, "")
        with LocalCache(URL, tmp_path / method) as copy:
            assert found(copy) == ([] if method == "PUT" else list(range(10)))
            add(copy, 0, 10) if method == "PUT" else None
            copy.upload()


def test_a_lost_answer_to_a_lock_or_manifest_is_not_taken_for_another_writer(
    bucket: ObjectStore, tmp_path: Path
) -> None:
    lost: set[str] = set()

    def lose(method: str, path: str) -> bool:
        if method != "PUT" or not path.endswith(".json") or path in lost:
            return False
        lost.add(path)
        return True

    bucket.loses_answer = lose
    with LocalCache(URL, tmp_path / "a") as copy:
        add(copy, 0, 10)
        copy.upload()
    assert {path.rpartition("/")[2] for path in lost} == {"lock.json", "00000001.json"}
    with LocalCache(URL, tmp_path / "b", write=False) as copy:
        assert found(copy) == list(range(10))


def test_a_damaged_part_is_told(bucket: ObjectStore, tmp_path: Path) -> None:
    with LocalCache(URL, tmp_path / "a") as copy:
        add(copy, 0, 10)
        copy.upload()
    (name,) = (name for name in bucket.names("bucket") if ".features/" in name)
    bucket.client.put_object(Bucket="bucket", Key=name, Body=bytes(10 * ROW))
    with pytest.raises(RunError, match=r"\.features/000000 is damaged"):
        LocalCache(URL, tmp_path / "b").__enter__()
    assert "features/lock.json" not in bucket.names("bucket")
