"""Shares of a cache in a bucket: several machines without a disk that they share."""

import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conftest import quick_flags_in
from tests.extraction import CLIPS, Features, extract, features_in, rows_in, start
from tests.integration.conftest import EPOCHS, HARDER
from tests.integration.test_cluster import Workers, assert_same_losses
from tests.object_store import CUT, ObjectStore
from tests.remote_cache import RECIPE, add, found
from tests.waiting import wait_until
from violence_detection.errors import RunError, UserError
from violence_detection.features.cache import remote_lock, transfer
from violence_detection.features.cache.feature_cache import FeatureCache
from violence_detection.features.cache.folder import CacheFolder
from violence_detection.features.cache.local import LocalCache
from violence_detection.features.shares import share_of
from violence_detection.runtime.worker import Worker

DATASET, CACHE = "s3://clips", "s3://features/cache"
FIRST, SECOND = Worker(0, 2), Worker(1, 2)


@pytest.fixture
def features(object_store: ObjectStore) -> ObjectStore:
    object_store.client.create_bucket(Bucket="features")
    return object_store


@pytest.fixture
def bucket(features: ObjectStore, drawn_clips: Path) -> ObjectStore:
    features.put_folder(drawn_clips, "clips")
    return features


def extract_on(machine: Path, *flags: str) -> int:
    """Extract on the buckets, with a spool that only this machine has."""
    return extract(DATASET, CACHE, "--spool-dir", str(machine), *flags)


def features_there(dataset: Path, machine: Path) -> Features:
    """Return the features in the bucket, as a machine reads them that has computed none."""
    with LocalCache(CACHE, machine, write=False) as cache:
        return features_in(dataset, cache.path)


def requested(store: ObjectStore, method: str, *parts: str) -> list[str]:
    """Return the paths of the requests that contain all these parts."""
    return [p for m, p in store.requests if m == method and all(part in p for part in parts)]


# Extraction.


def test_two_machines_extract_and_a_third_computes_nothing(
    bucket: ObjectStore,
    drawn_clips: Path,
    tmp_path: Path,
    extracted_features: Features,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert extract_on(tmp_path / "a", "--share", "1/2") == 0
    output = capsys.readouterr().out
    assert f"of {CLIPS} clips have features in {CACHE}\n" in output
    assert "clips missing (share 2/2: " in output
    assert extract_on(tmp_path / "b", "--share", "2/2") == 0
    output = capsys.readouterr().out
    assert f"{CLIPS} of {CLIPS} clips have features in {CACHE}\n" in output
    assert "nothing is missing" in output
    assert len(set(requested(bucket, "GET", ".mp4"))) == CLIPS
    assert len(requested(bucket, "GET", ".mp4")) == CLIPS  # each once, on one of the machines
    # The second machine knows what the first has stored, and has not downloaded it.
    assert requested(bucket, "GET", "/shard_1/data/", ".index/")
    assert not requested(bucket, "GET", "/shard_1/data/", ".features/")
    folders = {name.split("/")[1] for name in bucket.names("features")}
    assert folders == {"shard_1", "shard_2"}
    assert not [name for name in bucket.names("features") if name.endswith("lock.json")]
    assert features_there(drawn_clips, tmp_path / "c") == extracted_features
    with LocalCache(CACHE, tmp_path / "b", SECOND) as cache:  # which needs them now
        assert features_in(drawn_clips, cache.path) == extracted_features

    before = bucket.names("features")
    bucket.requests.clear()
    assert extract_on(tmp_path / "c") == 0
    assert not requested(bucket, "GET", ".mp4")
    assert "nothing is missing" in capsys.readouterr().out
    # Once more where it was computed: nothing is transferred.
    bucket.requests.clear()
    assert extract_on(tmp_path / "a", "--share", "1/2") == 0
    assert not requested(bucket, "GET", "/shard_1/data/")
    assert not requested(bucket, "PUT", "/data/")
    assert [name for name in bucket.names("features") if "/shard_" in name] == before


def test_one_process_computes_what_shards_lack_into_the_cache_itself(
    bucket: ObjectStore, drawn_clips: Path, tmp_path: Path, extracted_features: Features
) -> None:
    assert extract_on(tmp_path / "a", "--share", "2/3") == 0
    share = len(requested(bucket, "GET", ".mp4"))
    assert extract_on(tmp_path / "b") == 0
    assert len(requested(bucket, "GET", ".mp4")) == CLIPS
    with LocalCache(CACHE, tmp_path / "c", write=False) as cache:
        assert rows_in(cache.path) == [CLIPS - share, share]
        assert features_in(drawn_clips, cache.path) == extracted_features
    assert not [n for n in bucket.names("features") if n.startswith("cache/data/") and "shard" in n]
    # And one worker of several finds it there.
    bucket.requests.clear()
    assert extract_on(tmp_path / "d", "--share", "1/2") == 0
    assert not requested(bucket, "GET", ".mp4")


def test_other_workers_compute_what_a_killed_one_lacks(
    bucket: ObjectStore,
    drawn_clips: Path,
    tmp_path: Path,
    extracted_features: Features,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = share_of(clips_of(drawn_clips), SECOND)
    reached, released = threading.Event(), threading.Event()

    def hold(method: str, path: str) -> str | None:
        if method == "GET" and path.endswith(own[-1].name):
            reached.set()
            released.wait(60)
            return CUT
        return None

    bucket.fault = hold
    killed = start(DATASET, CACHE, "--spool-dir", str(tmp_path / "a"), "--share", "2/2")
    rows = "a/*/cache/shard_2/*.features"
    wait_until(lambda: any(p.stat().st_size for p in tmp_path.glob(rows)), 120)
    assert reached.wait(60)
    killed.kill()
    assert killed.wait() == -signal.SIGKILL
    released.set()
    bucket.fault = lambda method, path: None
    assert "cache/shard_2/lock.json" in bucket.names("features")
    monkeypatch.setattr(remote_lock, "LOCK_TIMEOUT", 0.2)
    for share in (1, 2):  # the second takes over the lock
        assert extract_on(tmp_path / f"b{share}", "--share", f"{share}/2") == 0
    assert features_there(drawn_clips, tmp_path / "c") == extracted_features
    # The machine itself, started again: everything is there already.
    bucket.requests.clear()
    assert extract_on(tmp_path / "a", "--share", "2/2") == 0
    assert not requested(bucket, "GET", ".mp4")
    assert features_there(drawn_clips, tmp_path / "c") == extracted_features


def test_what_a_lost_machine_has_uploaded_is_not_computed_again(
    bucket: ObjectStore,
    drawn_clips: Path,
    tmp_path: Path,
    extracted_features: Features,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(transfer, "UPLOAD_INTERVAL", 0.0)
    monkeypatch.setattr(transfer, "UPLOAD_TIME_SHARE", 1e9)
    own = share_of(clips_of(drawn_clips), SECOND)
    last = own[-1].name
    bucket.fault = lambda method, path: 403 if path.endswith(last) and method == "GET" else None
    flags = ("--share", "2/2", "--on-bad-clip", "fail")
    assert extract_on(tmp_path / "lost", *flags) == 2
    bucket.fault = lambda method, path: None
    bucket.requests.clear()
    for share in (1, 2):
        assert extract_on(tmp_path / "other", "--share", f"{share}/2") == 0
    again = [clip for clip in own if requested(bucket, "GET", clip.name)]
    assert own[-1] in again
    assert len(again) < len(own) / 2
    assert features_there(drawn_clips, tmp_path / "c") == extracted_features


def clips_of(dataset: Path) -> list:
    from violence_detection.clips.dataset import find_clips

    return find_clips(dataset, 0)


def test_second_machine_of_a_share_waits_for_the_first_and_others_do_not(
    bucket: ObjectStore,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(remote_lock, "POLL_INTERVAL", 0.05)
    messages: list[str] = []
    with LocalCache(CACHE, tmp_path / "a", SECOND) as first, ThreadPoolExecutor(1) as thread:
        assert extract_on(tmp_path / "b", "--share", "1/2") == 0

        def printed() -> bool:
            messages.append(capsys.readouterr().out)
            return bool(messages[-1])

        def release_once_it_waits() -> None:
            try:
                wait_until(printed)
            finally:
                first.release()

        capsys.readouterr()
        waiting = thread.submit(release_once_it_waits)
        assert extract_on(tmp_path / "c", "--share", "2/2") == 0
        waiting.result(60)
    assert f"share 2/2 is being extracted by process {os.getpid()} on " in messages[-1]
    assert ": waiting\n" in messages[-1]


def test_two_workers_of_one_host_have_copies_of_their_own(
    features: ObjectStore, tmp_path: Path
) -> None:
    with LocalCache(CACHE, tmp_path, FIRST) as one, LocalCache(CACHE, tmp_path, SECOND) as other:
        add(one, 0, 5, FIRST)
        add(other, 5, 5, SECOND)
        for cache in (one, other):
            cache.upload()
        assert found(one) == list(range(5))
        for cache in (one, other):
            cache.refresh()
            assert found(cache) == list(range(10))
        with pytest.raises(UserError, match="in use by process"):
            LocalCache(CACHE, tmp_path, SECOND).__enter__()


def test_own_disk_is_refused_with_a_bucket(
    bucket: ObjectStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert extract_on(tmp_path / "a", "--cache-local", str(tmp_path / "local")) == 2
    assert f"--cache-local does nothing with --cache-dir {CACHE}" in capsys.readouterr().err


# Changes and damage in the store.


def test_shard_that_is_removed_from_the_store_is_removed_from_copies(
    features: ObjectStore, tmp_path: Path
) -> None:
    for first, worker in ((0, FIRST), (5, SECOND)):
        with LocalCache(CACHE, tmp_path / "a", worker) as cache:
            add(cache, first, 5, worker)
            cache.upload()
    for with_rows in (True, False):
        with LocalCache(CACHE, tmp_path / f"{with_rows}", with_rows=with_rows):
            pass
    for name in features.names("features"):
        if "/shard_1/" in name:
            features.client.delete_object(Bucket="features", Key=name)
    for with_rows in (True, False):
        with LocalCache(CACHE, tmp_path / f"{with_rows}") as cache:
            assert found(cache) == list(range(5, 10))
    with LocalCache(CACHE, tmp_path / "a", FIRST) as cache:  # whose own it is
        assert found(cache) == list(range(10))
        cache.upload()
    with LocalCache(CACHE, tmp_path / "True") as cache:
        assert found(cache) == list(range(10))


def test_worker_whose_shard_another_has_changed_fails(
    features: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_lock, "LOCK_TIMEOUT", 0.2)
    monkeypatch.setattr(remote_lock, "POLL_INTERVAL", 0.05)
    with LocalCache(CACHE, tmp_path / "slow", FIRST) as slow:
        add(slow, 0, 5, FIRST)
        with LocalCache(CACHE, tmp_path / "a", FIRST) as other:
            add(other, 5, 5, FIRST)
            other.upload()
        with pytest.raises(RunError, match=r"another run has changed \S*shard_1 .*the same share"):
            slow.upload()


def test_reader_sees_each_upload(features: ObjectStore, tmp_path: Path) -> None:
    with LocalCache(CACHE, tmp_path, FIRST) as one, LocalCache(CACHE, tmp_path) as reader:
        for first in (0, 5, 10):
            add(one, first, 5, FIRST)
            one.upload()
            reader.refresh()
            assert found(reader) == list(range(first + 5))


def test_row_that_was_damaged_in_a_copy_is_fetched_again(
    features: ObjectStore, tmp_path: Path
) -> None:
    with LocalCache(CACHE, tmp_path, FIRST) as cache:
        add(cache, 0, 5, FIRST)
        cache.upload()
    with LocalCache(CACHE, tmp_path, SECOND) as cache:
        (path,) = cache.path.rglob("*.features")
        data = path.read_bytes()
        path.write_bytes(bytes(len(data)))
        with CacheFolder(cache.path, worker=SECOND) as folder:
            rows = FeatureCache(folder, RECIPE)
            rows.drop([rows.row_of((3).to_bytes(16))])
        cache.refresh()  # what this run has dropped, it does not see again
        assert 3 not in found(cache)
    with LocalCache(CACHE, tmp_path, SECOND) as cache:
        assert found(cache) == list(range(5))


def part_in(store: ObjectStore, ending: str) -> str:
    (name,) = (n for n in store.names("features") if "/shard_1/data/" in n and ending in n)
    return name


def foreign(store: ObjectStore) -> None:
    store.client.put_object(Bucket="features", Key="cache/shard_3/report.pdf", Body=b"x")


def forbidden(store: ObjectStore) -> None:
    store.fault = lambda method, path: 403 if "/shard_1/data/" in path else None


def damaged(store: ObjectStore) -> None:
    store.client.put_object(Bucket="features", Key=part_in(store, "files.index/"), Body=b"x")


def lost(store: ObjectStore) -> None:
    store.client.delete_object(Bucket="features", Key=part_in(store, ".features/"))


@pytest.mark.parametrize(
    ("make", "kind", "words"),
    [
        (foreign, UserError, r"cache/shard_3 is not empty and not a feature cache .*report\.pdf"),
        (forbidden, UserError, r"cache/shard_1 cannot be read: permission denied"),
        (damaged, RunError, r"cache/shard_1/data/\S*files\.index/000000 is damaged"),
        (lost, RunError, r"cache/shard_1 is incomplete or changing"),
    ],
)
def test_shard_that_cannot_be_read_is_named(
    features: ObjectStore,
    tmp_path: Path,
    make: Callable[[ObjectStore], None],
    kind: type[Exception],
    words: str,
) -> None:
    with LocalCache(CACHE, tmp_path / "a", FIRST) as cache:
        add(cache, 0, 5, FIRST)
        cache.upload()
    make(features)
    for _ in range(2):  # and no lock is left
        with pytest.raises(kind, match=words):
            LocalCache(CACHE, tmp_path / "b", SECOND).__enter__()
    assert "cache/shard_2/lock.json" not in features.names("features")


def test_shard_that_is_superseded_while_it_is_read(features: ObjectStore, tmp_path: Path) -> None:
    with LocalCache(CACHE, tmp_path, FIRST) as writer:
        add(writer, 0, 5, FIRST)
        writer.upload()
        part = part_in(features, ".features/")

        def supersede(method: str, path: str) -> None:
            if method == "GET" and path.endswith(part):
                features.fault = lambda method, path: None
                add(writer, 5, 5, FIRST)
                writer.upload()
                features.client.delete_object(Bucket="features", Key=part)

        features.fault = supersede
        with LocalCache(CACHE, tmp_path / "b", write=False) as reader:
            assert found(reader) == list(range(10))
        assert features.fault is not supersede


# Training.


@pytest.mark.slow
def test_workers_on_buckets_end_with_the_losses_of_one_process(
    bucket: ObjectStore, alone: Path, tmp_path: Path
) -> None:
    flags = [
        *(*quick_flags_in(tmp_path), *HARDER, "--dataset-path", DATASET, "--cache-dir", CACHE),
        *("--spool-dir", str(tmp_path / "spool")),
    ]
    with Workers(2, *flags) as workers:
        ended = workers.ends()
    assert [status for status, _, _ in ended] == [0, 0], ended
    assert all("error" not in errors for _, _, errors in ended)
    run = tmp_path / "run"
    assert_same_losses(run, alone)
    assert f"epoch   {EPOCHS}" in (run / "training-worker-1.log").read_text()
    assert len(list((run / "tensorboard" / "train").iterdir())) == 1  # the chief's alone
    assert "data:image/jpeg" in (run / "report.html").read_text()
    of_one = {p.name: sorted(rows_of_file(p)) for p in alone.parent.rglob("*.features")}
    with LocalCache(CACHE, tmp_path / "reader", write=False) as cache:
        paths = list(cache.path.rglob("*.features"))
        assert {path.parent.name for path in paths} == {"shard_1", "shard_2"}
        together = {
            path.name: sorted(
                row for same in paths if same.name == path.name for row in rows_of_file(same)
            )
            for path in paths
        }
    assert together == of_one  # each clip once, and the same bytes


def rows_of_file(path: Path) -> list[bytes]:
    data, size = path.read_bytes(), 6 * 64 * 2
    return [data[at : at + size] for at in range(0, len(data), size)]
