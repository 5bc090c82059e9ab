"""A cache in a bucket that several machines fill, without a disk that they share."""

import signal
import threading
from pathlib import Path

import pytest

from benchmarks.crash import cached_features
from tests.conftest import quick_flags_in
from tests.extraction import CLIPS, Features, extract, features_in, start
from tests.integration.conftest import EPOCHS, HARDER
from tests.integration.test_cluster import Workers, assert_same_losses
from tests.object_store import CUT, ObjectStore
from violence_detection.clips.dataset import find_clips
from violence_detection.features.cache import transfer
from violence_detection.features.cache.transfer import LocalCache
from violence_detection.features.shares import share_of
from violence_detection.runtime.worker import Worker

DATASET, CACHE = "s3://clips", "s3://features/cache"


@pytest.fixture
def bucket(object_store: ObjectStore, drawn_clips: Path) -> ObjectStore:
    object_store.client.create_bucket(Bucket="features")
    object_store.put_folder(drawn_clips, "clips")
    return object_store


def extract_on(machine: Path, *flags: str) -> int:
    """Extract on the buckets, with a spool that only this machine has."""
    return extract(DATASET, CACHE, "--spool-dir", str(machine), *flags)


def features_there(dataset: Path, machine: Path) -> Features:
    """Return the features in the bucket, as a machine reads them that has computed none."""
    return features_in(dataset, LocalCache(CACHE, machine).path)


def requested(store: ObjectStore, method: str, *parts: str) -> list[str]:
    """Return the paths of the requests that contain all these parts."""
    return [p for m, p in store.requests if m == method and all(part in p for part in parts)]


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
    bucket.requests.clear()
    assert extract_on(tmp_path / "b", "--share", "2/2") == 0
    output = capsys.readouterr().out
    assert f"{CLIPS} of {CLIPS} clips have features in {CACHE}\n" in output
    assert "nothing is missing" in output
    # The second machine knows what the first has stored, and has not downloaded it.
    assert requested(bucket, "GET", ".keys") and not requested(bucket, "GET", ".rows")
    assert features_there(drawn_clips, tmp_path / "c") == extracted_features
    bucket.requests.clear()
    for machine, flags in (("c", ()), ("a", ("--share", "1/2"))):
        assert extract_on(tmp_path / machine, *flags) == 0
        assert "nothing is missing" in capsys.readouterr().out
    assert not requested(bucket, "GET", ".mp4") and not requested(bucket, "PUT", ".rows")


def test_other_workers_compute_what_a_killed_one_lacks(
    bucket: ObjectStore, drawn_clips: Path, tmp_path: Path, extracted_features: Features
) -> None:
    own = share_of(find_clips(drawn_clips, 0), Worker(1, 2))
    reached, released = threading.Event(), threading.Event()

    def hold(method: str, path: str) -> str | None:
        if method == "GET" and path.endswith(own[-1].name):
            reached.set()
            released.wait(60)
            return CUT
        return None

    bucket.fault = hold
    killed = start(DATASET, CACHE, "--spool-dir", str(tmp_path / "a"), "--share", "2/2")
    assert reached.wait(120)
    killed.kill()
    assert killed.wait() == -signal.SIGKILL
    released.set()
    bucket.fault = lambda method, path: None
    for share in (1, 2):
        assert extract_on(tmp_path / f"b{share}", "--share", f"{share}/2") == 0
    assert features_there(drawn_clips, tmp_path / "c") == extracted_features
    # The machine itself, started again: everything is there already.
    bucket.requests.clear()
    assert extract_on(tmp_path / "a", "--share", "2/2") == 0
    assert not requested(bucket, "GET", ".mp4")


def test_what_a_lost_machine_has_uploaded_is_not_computed_again(
    bucket: ObjectStore,
    drawn_clips: Path,
    tmp_path: Path,
    extracted_features: Features,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(transfer, "UPLOAD_INTERVAL", 0.0)
    monkeypatch.setattr(transfer, "UPLOAD_TIME_SHARE", 1e9)
    own = share_of(find_clips(drawn_clips, 0), Worker(1, 2))
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


def test_own_disk_is_refused_with_a_bucket(
    bucket: ObjectStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert extract_on(tmp_path / "a", "--cache-local", str(tmp_path / "local")) == 2
    assert f"--cache-local does nothing with --cache-dir {CACHE}" in capsys.readouterr().err


@pytest.mark.slow
def test_workers_on_buckets_end_with_the_losses_of_one_process(
    bucket: ObjectStore, alone: Path, tmp_path: Path
) -> None:
    flags = [
        *(*quick_flags_in(tmp_path), *HARDER, "--dataset-path", DATASET, "--cache-dir", CACHE),
        *("--spool-dir", str(tmp_path / "spool"), "--report"),
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
    together = cached_features(LocalCache(CACHE, tmp_path / "reader").path)
    assert len(together) == CLIPS  # each clip once, and the same bytes
    assert dict(together) == dict(cached_features(alone.parent / "cache"))
