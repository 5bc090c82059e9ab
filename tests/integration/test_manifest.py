"""A run on a manifest: whole clips as in folders, and segments of longer videos."""

import csv
import json
from pathlib import Path

import av
import pytest

from tests.clips.videos import write_clip
from tests.conftest import figures_of, results_of
from train_rtx5000_dual_optimized import main
from violence_detection.clips.dataset import find_clips
from violence_detection.clips.manifest import ManifestRow, write_manifest
from violence_detection.commands.predict import main as predict


def joined(clips: list[Path], path: Path) -> list[tuple[float, float]]:
    """Write clips one after the other into one video; return when each begins and ends."""
    images, spans, rate = [], [], 12.5
    for clip in clips:
        start = len(images) / rate
        with av.open(str(clip)) as container:
            images += [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        spans.append((start, len(images) / rate))
    write_clip(path, images, times=[n / rate for n in range(len(images))], options={"crf": "10"})
    return spans


@pytest.fixture
def segments(drawn_clips: Path, tmp_path: Path) -> Path:
    """Return a manifest of the drawn clips as segments of three videos, one for each split."""
    clips = find_clips(drawn_clips, seed=0)
    rows = []
    for split in ("train", "val", "test"):
        of_split = [clip for clip in clips if clip.split == split]
        spans = joined([Path(clip.path) for clip in of_split], tmp_path / f"{split}.mp4")
        rows += [
            ManifestRow(f"{split}.mp4", clip.label, *span, split)
            for clip, span in zip(of_split, spans, strict=True)
        ]
    write_manifest(rows, tmp_path / "clips.csv")
    return tmp_path / "clips.csv"


def test_run_on_segments_of_videos(
    segments: Path, quick_flags: list[str], run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--dataset-path", str(segments), *quick_flags, "--epochs", "2", "--report"]
    assert main(flags) == 0
    screen = capsys.readouterr().out
    assert "train  6 nonviolent, 6 violent" in screen
    assert "28 clips, 3 groups (the manifest)" in screen
    with (run / "predictions.csv").open(newline="") as file:
        tested = {row["clip"]: float(row["probability"]) for row in csv.DictReader(file)}
    names = list(tested)
    assert len(names) == 8 and names[0].startswith("test.mp4#t=0,")
    assert (run / "report.html").read_text().count("data:image/jpeg") == 4 * 8  # all are shown

    # The manifest, and a name from it, are predicted as they were in the test.
    folder = segments.parent
    for asked, found in (([str(segments)], 28), ([str(folder / names[3])], 1)):
        assert predict(["--checkpoint-dir", str(run), *asked, "--csv"]) == 0
        rows = {row["clip"]: row for row in csv.DictReader(capsys.readouterr().out.splitlines())}
        assert len(rows) == found
        for name in names if found > 1 else names[3:4]:
            probability = float(rows[str(folder / name)]["probability"])
            assert probability == pytest.approx(tested[name], abs=1e-4)

    segments.write_text(segments.read_text() + "test.mp4,0.1,0.9,violent,test,\n")
    assert main(flags) == 2
    assert "1 new, 0 missing, first test.mp4#t=0.1,0.9" in capsys.readouterr().err


@pytest.mark.usefixtures("features_before")
def test_list_of_whole_clips_trains_as_their_folder(
    finished: Path, drawn_clips: Path, quick_flags: list[str], run: Path, tmp_path: Path
) -> None:
    rows = [
        ManifestRow(str(clip.path), clip.label, split=clip.split)
        for clip in find_clips(drawn_clips, seed=0)
    ]
    write_manifest(rows, tmp_path / "clips.csv")
    assert main(["--dataset-path", str(tmp_path / "clips.csv"), *quick_flags]) == 0
    assert figures_of(run) == figures_of(finished / "run")
    expected = results_of(finished / "run")["evaluation"]
    assert results_of(run)["evaluation"]["confusion_matrix"] == expected["confusion_matrix"]
    assert json.dumps(results_of(run)["evaluation"]["roc_auc"]) == json.dumps(expected["roc_auc"])
