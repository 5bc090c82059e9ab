"""Manifests in a bucket, and videos at URLs."""

from pathlib import Path

import pytest

from tests.integration.test_manifest import joined
from tests.object_store import ObjectStore
from train_rtx5000_dual_optimized import main
from violence_detection.clips.dataset import find_clips
from violence_detection.clips.manifest import ManifestRow, write_manifest


@pytest.fixture
def bucket(object_store: ObjectStore, drawn_clips: Path, tmp_path: Path) -> ObjectStore:
    """Return a store with one long video of all drawn clips, and manifests of its segments."""
    folder = tmp_path / "upload"
    (folder / "lists").mkdir(parents=True)
    clips = find_clips(drawn_clips, seed=0)
    spans = joined([Path(clip.path) for clip in clips], folder / "lists" / "long.mp4")
    for name, video in (("relative", "long.mp4"), ("absolute", "s3://clips/lists/long.mp4")):
        rows = [
            ManifestRow(video, clip.label, *span, clip.split)
            for clip, span in zip(clips, spans, strict=True)
        ]
        write_manifest(rows, folder / "lists" / f"{name}.csv")
    object_store.put_folder(folder, "clips")
    return object_store


@pytest.mark.parametrize("where", ["in the bucket", "on this disk"])
def test_features_of_segments_of_a_video_that_is_downloaded_once(
    bucket: ObjectStore,
    quick_flags: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    where: str,
) -> None:
    local = str(tmp_path / "upload" / "lists" / "absolute.csv")
    manifest = "s3://clips/lists/relative.csv" if where == "in the bucket" else local
    flags = ["--dataset-path", manifest, *quick_flags, "--spool-dir", str(tmp_path / "spool")]
    (tmp_path / "upload" / "lists" / "long.mp4").unlink()
    assert main([*flags, "--extract-only"]) == 0
    assert "28 of 28 clips have features" in capsys.readouterr().out
    downloads = [p for m, p in bucket.requests if m == "GET" and p.endswith("long.mp4")]
    assert len(downloads) == 1
    bucket.requests.clear()
    assert main([*flags, "--extract-only"]) == 0
    assert not [p for m, p in bucket.requests if m == "GET" and p.endswith("long.mp4")]
