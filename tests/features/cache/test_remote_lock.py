import os
import threading

import pytest

from tests.features.cache.conftest import URL
from tests.object_store import ObjectStore
from violence_detection.features.cache import remote_lock
from violence_detection.features.cache.remote_lock import RemoteLock
from violence_detection.storage.object_store import RemoteStore

KEY = "features/lock.json"


@pytest.fixture
def store(bucket: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> RemoteStore:
    monkeypatch.setattr(remote_lock, "POLL_INTERVAL", 0.02)
    return RemoteStore(URL, "--cache-dir")


def refuse(holder: str) -> None:
    raise AssertionError(f"{holder} was waited for")


def test_lock_is_an_object_until_the_block_ends(bucket: ObjectStore, store: RemoteStore) -> None:
    with RemoteLock(store, "a", refuse):
        assert bucket.names("bucket") == [KEY]
    assert bucket.names("bucket") == []


def test_second_process_waits_and_names_the_first(store: RemoteStore) -> None:
    busy, acquired, holders = threading.Event(), threading.Event(), []

    def on_wait(holder: str) -> None:
        holders.append(holder)
        busy.set()

    def second() -> None:
        with RemoteLock(store, "b", on_wait):
            acquired.set()

    thread = threading.Thread(target=second, daemon=True)
    with RemoteLock(store, "a", refuse):
        thread.start()
        assert busy.wait(60)
        assert not acquired.is_set()
    assert acquired.wait(60)
    thread.join(60)
    assert len(holders) == 1
    assert f"process {os.getpid()} on " in holders[0]


def test_lock_of_the_same_owner_is_taken_over_at_once(
    bucket: ObjectStore, store: RemoteStore
) -> None:
    bucket.client.put_object(Bucket="bucket", Key=KEY, Body=b"a\nprocess 1 on here\nx\n")
    with RemoteLock(store, "a", refuse):
        assert bucket.names("bucket") == [KEY]


def test_lock_without_signs_of_life_is_taken_over(
    bucket: ObjectStore, store: RemoteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_lock, "LOCK_TIMEOUT", 0.2)
    bucket.client.put_object(Bucket="bucket", Key=KEY, Body=b"dead\nprocess 1 on there\nx\n")
    holders: list[str] = []
    with RemoteLock(store, "a", holders.append):
        pass
    assert holders == ["process 1 on there"]


def test_lock_that_another_process_took_over_is_left_to_it(
    bucket: ObjectStore, store: RemoteStore
) -> None:
    with RemoteLock(store, "a", refuse):
        bucket.client.put_object(Bucket="bucket", Key=KEY, Body=b"b\nprocess 1 on there\nx\n")
    assert bucket.names("bucket") == [KEY]


def test_lost_answer_is_not_taken_for_another_process(
    bucket: ObjectStore, store: RemoteStore
) -> None:
    lost: list[str] = []

    def lose(method: str, path: str) -> bool:
        if method != "PUT" or lost:
            return False
        lost.append(path)
        return True

    bucket.loses_answer = lose
    with RemoteLock(store, "a", refuse):
        assert lost
