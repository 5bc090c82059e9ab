import csv
import io
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from violence_detection.commands.predict import main
from violence_detection.errors import RunError
from violence_detection.inference.annotation import annotate_video
from violence_detection.inference.events import Event, Timeline, Window

TIMEOUT = 60.0  # seconds


def frames_in(path: Path) -> tuple[np.ndarray, float]:
    """Return all frames of a video and its rate."""
    video = cv2.VideoCapture(str(path))
    rate, frames = video.get(cv2.CAP_PROP_FPS), []
    while True:
        decoded, image = video.read()
        if not decoded:
            return np.stack(frames), rate
        frames.append(image)


@pytest.fixture
def clip(drawn_clips: Path) -> Path:
    return drawn_clips / "test" / "violent" / "violent0.mp4"


def test_video_is_written_in_its_size_and_at_its_rate_with_the_score(
    clip: Path, tmp_path: Path
) -> None:
    windows = (Window(0.0, 0.9, 0.05), Window(1.0, 1.9, 0.95))
    timeline = Timeline(clip, windows, (Event(1.0, 1.9, 1.45, 0.95),))
    annotate_video(timeline, 0.5, tmp_path / "out.mp4", TIMEOUT)
    (before, rate_before), (after, rate_after) = frames_in(clip), frames_in(tmp_path / "out.mp4")
    assert after.shape == before.shape
    assert rate_after == rate_before
    height = before.shape[1]
    band, picture = slice(height - height // 20, height), slice(height // 4, height // 2)
    middle = slice(60, 120)
    changed = np.abs(after.astype(int) - before).mean(axis=(2, 3))
    assert changed[:, picture].mean() < 8  # the picture is still to be seen
    assert changed[:, band].mean() > 30
    red, blue = after[:, band, middle, 2].mean(axis=(1, 2)), after[:, band, middle, 0].mean((1, 2))
    assert np.all(red[14:] > blue[14:] + 50)  # a long bar in the colour of violence
    assert np.all(red[:9] < blue[:9] + 50)


def test_video_that_is_gone_is_told(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    timeline = Timeline(tmp_path / "empty.mp4", (Window(0.0, 1.0, 0.5),))
    with pytest.raises(RunError, match="the file is empty"):
        annotate_video(timeline, 0.5, tmp_path / "out.mp4", TIMEOUT)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty.mp4"]


def in_windows(trained: Path, *flags: object) -> list[str]:
    run = ["--checkpoint-dir", str(trained / "run")]
    return [*run, "--window", "1.0", "--stride", "0.5", *map(str, flags)]


def test_timeline_as_table_csv_json_plot_and_video(
    clip: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plot, video = tmp_path / "plot.png", tmp_path / "out.mp4"
    command = in_windows(trained, clip, "--plot", plot, "--annotate", video, "--threshold", "0")
    assert main(command) == 0
    header, *events = capsys.readouterr().out.splitlines()
    assert header.split() == ["video", "start", "end", "peak", "probability"]
    assert len(events) == 1
    assert events[0].split()[1] == "0:00:00.0"
    assert cv2.imread(str(plot)).shape == (320, 1000, 3)
    assert frames_in(video)[0].shape == frames_in(clip)[0].shape
    assert main(in_windows(trained, clip, "--json")) == 0
    (of_clip,) = json.loads(capsys.readouterr().out)["clips"]
    assert len(of_clip["windows"]) >= 3
    assert main(in_windows(trained, clip, "--csv")) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [float(row["probability"]) for row in rows] == pytest.approx(
        [window["probability"] for window in of_clip["windows"]], abs=1e-6
    )
    assert main(in_windows(trained, clip, "--threshold", "1")) == 0
    assert "no event" in capsys.readouterr().out


def test_bad_video_is_a_row(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.mp4").touch()
    assert main(in_windows(trained, tmp_path / "bad.mp4")) == 3
    assert "bad: the file is empty" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--stride", "3"], "--stride 3: must be above 0 and at most --window"),
        (["--window", "0"], "--window 0: must be"),
        (["--annotate", "out.avi"], "must end in .mp4"),
        (["--plot", "out.xyz"], "must end in one of"),
        (["--explain"], "--explain is for clips"),
        (["--annotate", "CLIP"], "is one of the clips: it would be lost"),
        (["--output", "CLIP"], "is one of the clips: it would be lost"),
    ],
)
def test_flags_that_make_no_sense_are_told_before_anything_is_read(
    clip: Path,
    trained: Path,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    message: str,
) -> None:
    before = clip.read_bytes()
    named = [str(clip) if flag == "CLIP" else flag for flag in flags]
    assert main(in_windows(trained, clip, *named)) == 2
    assert message in capsys.readouterr().err
    assert clip.read_bytes() == before


def test_plot_and_video_are_of_one_video(
    clip: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(in_windows(trained, clip.parent, "--plot", "p.png")) == 2
    assert "--plot is for one video, and 4 are named" in capsys.readouterr().err
    assert main(["--checkpoint-dir", str(trained / "run"), str(clip), "--plot", "p.png"]) == 2
    assert "--plot is of use with --window only" in capsys.readouterr().err
