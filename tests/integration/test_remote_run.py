"""A whole run on a bucket, against the same run on folders."""

import csv
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.crash import cached_features
from tests.conftest import figures_of, quick_flags_in, results_of
from tests.object_store import CUT, ObjectStore, fail_first
from train_rtx5000_dual_optimized import main
from violence_detection.commands import predict, report
from violence_detection.features.cache.transfer import LocalCache
from violence_detection.storage.spool import GIGABYTE

DATASET, CACHE = "s3://clips", "s3://features/cache"


@pytest.fixture
def bucket(object_store: ObjectStore, drawn_clips: Path) -> ObjectStore:
    object_store.put_folder(drawn_clips, "clips")
    object_store.client.create_bucket(Bucket="features")
    return object_store


def remote_flags(folder: Path, *more: str) -> list[str]:
    """Return the flags of a quick run on the buckets, its folders below `folder`."""
    urls = ["--dataset-path", DATASET, "--cache-dir", CACHE]
    return [*quick_flags_in(folder), *urls, "--spool-dir", str(folder / "spool"), *more]


def results(run: Path) -> dict[str, Any]:
    """Return what does not depend on the clock."""
    found = results_of(run)
    names = ("evaluation", "evaluation_at_0.5", "threshold", "temperature", "best_epoch", "clips")
    return {name: found[name] for name in names}


@contextmanager
def most_bytes_in(folder: Path) -> Iterator[list[int]]:
    """Yield a list that is filled with the bytes of clips in a folder, until the block ends."""
    seen, ended = [0], threading.Event()

    def watch() -> None:
        while not ended.wait(0.01):
            try:
                seen.append(sum(path.stat().st_size for path in folder.rglob("*.mp4")))
            except FileNotFoundError:  # removed meanwhile
                continue

    watcher = threading.Thread(target=watch)
    watcher.start()
    yield seen
    ended.set()
    watcher.join()


def clips_downloaded(store: ObjectStore) -> int:
    return store.count("GET", ".mp4")


def test_run_on_buckets_equals_the_run_on_folders(
    bucket: ObjectStore,
    drawn_clips: Path,
    finished: Path,
    tmp_path: Path,
    train_process: Callable[..., Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    sizes = [path.stat().st_size for path in drawn_clips.rglob("*.mp4")]
    bound = 3 * max(sizes)
    size = ("--spool-size", repr(bound / GIGABYTE))
    spool = tmp_path / "remote" / "spool"

    # Killed while it decodes: what it had downloaded stays, until the next start.
    reached, released = threading.Event(), threading.Event()

    def hold(method: str, path: str) -> str | None:
        if method == "GET" and path.endswith("train/violent/violent2.mp4"):
            reached.set()
            released.wait(60)
            return CUT
        return None

    bucket.fault = hold
    killed = train_process(*remote_flags(tmp_path / "remote", *size))
    assert reached.wait(60)
    killed.kill()
    killed.communicate()
    released.set()
    assert list(spool.rglob("*.mp4"))

    bucket.fault = fail_first(1, 503, "GET", ".mp4")
    with most_bytes_in(spool) as seen:
        assert main(remote_flags(tmp_path / "remote", *size, "--report")) == 0
    assert 0 < max(seen) <= bound
    assert not list(spool.rglob("*.mp4"))
    run, local = tmp_path / "remote" / "run", finished / "run"
    assert figures_of(run) == figures_of(local)
    assert results(run) == results(local)
    assert (run / "predictions.csv").read_text() == (local / "predictions.csv").read_text()
    copy = LocalCache(CACHE, tmp_path / "other")
    assert dict(cached_features(copy.path)) == dict(cached_features(finished / "cache"))
    page = (run / "report.html").read_text()
    assert page.count("data:image/jpeg") == (local / "report.html").read_text().count(
        "data:image/jpeg"
    )

    # On another machine, with what is in the cache now: no clip is decoded again.
    bucket.requests.clear()
    assert main(remote_flags(tmp_path / "second", "--extract-only")) == 0
    assert clips_downloaded(bucket) == 0

    # Predictions for clips in the bucket.
    predictions = tmp_path / "predictions.json"
    command = ["--checkpoint-dir", str(run), "--spool-dir", str(spool), "--json", "--quiet"]
    assert predict.main([*command, "--output", str(predictions), f"{DATASET}/test/violent"]) == 0
    probabilities = {
        clip["clip"].removeprefix(f"{DATASET}/"): clip["probability"]
        for clip in json.loads(predictions.read_text())["clips"]
    }
    assert len(probabilities) == 4
    expected = probabilities_of(local)
    np.testing.assert_allclose(
        list(probabilities.values()), [expected[name] for name in probabilities], atol=1e-5
    )

    url = f"{DATASET}/test/violent/violent0.mp4"
    assert predict.main([*command[:4], "--explain", url]) == 2
    assert f"{url}: --explain needs local files" in capsys.readouterr().err

    # Its report can be written again without the store.
    bucket.fault = lambda method, path: CUT
    page = tmp_path / "page.html"
    assert report.main(["--checkpoint-dir", str(run), "--output", str(page)]) == 0
    assert "can no longer be read" in page.read_text()


def probabilities_of(run: Path) -> dict[str, float]:
    """Return the probabilities of the test clips, by name."""
    with (run / "predictions.csv").open(newline="") as file:
        return {row["clip"]: float(row["probability"]) for row in csv.DictReader(file)}


@pytest.mark.parametrize(
    ("urls", "words"),
    [
        (("--dataset-path", "s3://nowhere/clips"), "s3://nowhere/clips cannot be read"),
        (("--cache-dir", "s3://nowhere/cache"), "bucket nowhere does not exist"),
        (("--cache-dir", DATASET), "not a feature cache"),
    ],
)
def test_wrong_bucket_is_one_line_and_status_2(
    bucket: ObjectStore,
    tmp_path: Path,
    urls: tuple[str, str],
    words: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(remote_flags(tmp_path, *urls)) == 2
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("error"))
    assert words in line


def test_store_that_goes_away_ends_the_run_and_the_next_one_resumes(
    bucket: ObjectStore, drawn_clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def away(method: str, path: str) -> str | None:
        return CUT if path.startswith("/clips") and clips_downloaded(bucket) > 20 else None

    bucket.fault = away
    few = max(path.stat().st_size for path in drawn_clips.rglob("*.mp4")) * 3 / GIGABYTE
    assert main(remote_flags(tmp_path, "--spool-size", repr(few))) == 1
    assert "s3://clips can no longer be read" in capsys.readouterr().err
    assert not list((tmp_path / "spool").rglob("*.mp4"))
    bucket.fault = lambda method, path: None
    bucket.requests.clear()
    assert main(remote_flags(tmp_path, "--extract-only")) == 0
    # Of 20, at least a batch was computed; three may be in the spool, twelve are decoded ahead.
    assert 0 < clips_downloaded(bucket) <= 28 - 4
