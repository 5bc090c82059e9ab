from pathlib import Path

import pytest

from tests.features.cache.conftest import URL
from tests.object_store import ObjectStore
from violence_detection.features.cache.manifests import EMPTY, Files, Manifests
from violence_detection.storage.object_store import RemoteStore

FILES: Files = {"rows.features": [{"object": "data/x/000000", "size": 1, "checksum": "0"}]}


@pytest.fixture
def store(bucket: ObjectStore) -> RemoteStore:
    return RemoteStore(URL, "--cache-dir")


def test_newest_manifest_is_the_one_written_last(store: RemoteStore, tmp_path: Path) -> None:
    manifests = Manifests(store, tmp_path)
    assert manifests.newest() == EMPTY
    for commit in ("one", "two"):
        written = manifests.write(commit, FILES)
        assert Manifests(store, tmp_path).newest() == written
    assert written == {"version": 2, "commit": "two", "files": FILES}


def test_of_two_writers_that_begin_from_one_manifest_the_second_is_refused(
    store: RemoteStore, tmp_path: Path
) -> None:
    first, second = Manifests(store, tmp_path), Manifests(store, tmp_path)
    first.newest(), second.newest()
    assert first.write("one", FILES)
    assert second.write("two", FILES) is None
    assert second.newest()["commit"] == "one"
    assert second.write("two", FILES)


def test_cut_off_manifest_is_skipped_and_its_number_not_used_again(
    bucket: ObjectStore, store: RemoteStore, tmp_path: Path
) -> None:
    manifests = Manifests(store, tmp_path)
    manifests.write("one", FILES)
    bucket.client.put_object(
        Bucket="bucket", Key="features/manifests/00000002.json", Body=b'{"version": 2'
    )
    assert manifests.newest()["commit"] == "one"
    written = manifests.write("two", FILES)
    assert written is not None
    assert written["version"] == 3


def test_lost_answer_is_not_taken_for_another_writer(
    bucket: ObjectStore, store: RemoteStore, tmp_path: Path
) -> None:
    lost: list[str] = []

    def lose(method: str, path: str) -> bool:
        if method != "PUT" or lost:
            return False
        lost.append(path)
        return True

    bucket.loses_answer = lose
    assert Manifests(store, tmp_path).write("one", FILES)
    assert lost
