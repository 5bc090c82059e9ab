import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.features.cache.conftest import URL
from tests.object_store import ObjectStore
from tests.remote_cache import add, found
from violence_detection.errors import UserError
from violence_detection.features.cache import remote_lock
from violence_detection.features.cache.local import LocalCache


def test_folder_on_a_disk_is_used_as_it_is(tmp_path: Path) -> None:
    with LocalCache(tmp_path / "cache", tmp_path / "spool") as cache:
        assert not cache.is_remote
        add(cache, 0, 3)
        cache.upload()
        cache.refresh()
        cache.release()
        assert found(cache) == [0, 1, 2]
    assert not (tmp_path / "spool").exists()


def test_second_writer_waits_and_builds_on_the_first(
    bucket: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_lock, "POLL_INTERVAL", 0.02)
    waiting, seen = threading.Event(), []

    def second() -> None:
        with LocalCache(URL, tmp_path / "b", on_wait=lambda holder: waiting.set()) as cache:
            seen.append(found(cache))
            add(cache, 10, 5)
            cache.upload()

    with LocalCache(URL, tmp_path / "a") as cache:
        thread = threading.Thread(target=second, daemon=True)
        thread.start()
        assert waiting.wait(60)
        add(cache, 0, 10)
        cache.upload()
        cache.release()
        thread.join(60)
    assert seen == [list(map(float, range(10)))]
    with LocalCache(URL, tmp_path / "c", write=False) as cache:
        assert found(cache) == list(range(15))


def test_copy_in_use_is_refused(bucket: ObjectStore, tmp_path: Path) -> None:
    with (
        LocalCache(URL, tmp_path),
        pytest.raises(UserError, match=r"in use by process \d+.*--spool-dir"),
    ):
        LocalCache(URL, tmp_path).__enter__()


def foreign(store: ObjectStore) -> None:
    store.client.put_object(Bucket="bucket", Key="features/report.pdf", Body=b"x")


def forbidden(store: ObjectStore) -> None:
    store.fault = lambda method, path: 403 if method == "PUT" else None


def no_bucket(store: ObjectStore) -> None:
    store.client.delete_bucket(Bucket="bucket")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (foreign, r"not a feature cache \(it contains report.pdf\)"),
        (forbidden, r"--cache-dir s3://bucket/features cannot be written: permission denied"),
        (no_bucket, r"--cache-dir s3://bucket/features: bucket bucket does not exist"),
    ],
)
def test_unusable_store_is_refused_and_the_copy_is_free_again(
    bucket: ObjectStore, tmp_path: Path, make: Callable[[ObjectStore], None], words: str
) -> None:
    make(bucket)
    for _ in range(2):
        with pytest.raises(UserError, match=words):
            LocalCache(URL, tmp_path).__enter__()
