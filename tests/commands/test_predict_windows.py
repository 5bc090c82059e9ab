import csv
import io
import json
from pathlib import Path

import cv2
import pytest

from violence_detection.commands.predict import main
from violence_detection.storage.files import read_json


@pytest.fixture
def clip(drawn_clips: Path) -> Path:
    return drawn_clips / "test" / "violent" / "violent0.mp4"


def in_windows(trained: Path, *flags: object) -> list[str]:
    run = ["--checkpoint-dir", str(trained / "run")]
    return [*run, "--window", "1.0", "--stride", "0.5", *map(str, flags)]


def size_of(video: Path) -> tuple[float, ...]:
    """Return a video's number of frames, width and height."""
    capture = cv2.VideoCapture(str(video))
    properties = cv2.CAP_PROP_FRAME_COUNT, cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT
    return tuple(map(capture.get, properties))


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
    assert size_of(video) == size_of(clip)
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


@pytest.fixture(scope="module")
def events(drawn_clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a manifest: one video with an event from 1 to 1.5 s, one without, one elsewhere."""
    manifest = tmp_path_factory.mktemp("events") / "events.csv"
    folder = drawn_clips / "test"
    manifest.write_text(
        "video,start,end,label\n"
        f"{folder}/violent/violent0.mp4,1.0,0:01.5,violent\n"
        f"{folder}/nonviolent/nonviolent0.mp4,,,nonviolent\n"
        "elsewhere.mp4,,,nonviolent\n"
    )
    return manifest


def test_events_are_compared_as_table_json_and_files(
    clip: Path,
    drawn_clips: Path,
    trained: Path,
    events: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    quiet = drawn_clips / "test" / "nonviolent" / "nonviolent0.mp4"
    folder = tmp_path / "figures"
    to = ["--compare-with", events, "--compare-dir", folder]
    command = in_windows(trained, clip, quiet, *to, "--threshold", "0")
    assert main(command) == 0
    output = capsys.readouterr()
    table = {line[:31].strip(): line[31:] for line in output.out.splitlines()}
    # At threshold 0 each video is a single detected event, of which the second is a false alarm.
    assert table["events found"] == "1 of 1"
    assert table["false alarms"].startswith("1 of 2 (")
    assert f"event figures written to {folder}" in output.err
    assert main([*command, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    windows = document["clips"][0]["windows"]
    compared = document["event_figures"]
    known = min(window["end"] for window in windows if window["end"] > 1.0)
    assert compared["figures"]["delay_mean"] == pytest.approx(known - 1.0)
    assert compared["videos"][0]["events"][0]["end"] == 1.5
    assert compared["not_compared"] == [
        {"video": "elsewhere.mp4", "reason": "not among the videos given"}
    ]
    stored = read_json(folder / "event_figures.json")
    assert stored["figures"] == compared["figures"]
    assert (stored["window"], stored["stride"], stored["threshold"]) == (1.0, 0.5, 0.0)
    assert {path.name for path in folder.iterdir()} == {
        *("event_figures.json", "violent0.png", "nonviolent0.png")
    }


def test_unreadable_video_is_a_row(
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
        (["--explain"], "--explain is for whole clips"),
        (["--annotate", "CLIP"], "is one of the clips"),
        (["--output", "CLIP"], "is one of the clips"),
        (["--compare-dir", "figures"], "--compare-dir needs --compare-with"),
        (["--compare-with", "EMPTY"], "mentions none of the videos"),
        (["--compare-with", "nowhere.csv"], "nowhere.csv: no such file"),
        (["--compare-with", "CLIP"], "the name must end in one of .csv"),
        (["--compare-with", "EVENTS", "--compare-dir", "CLIP"], "is a file"),
    ],
)
def test_conflicting_flags_are_refused_before_anything_is_read(
    clip: Path,
    trained: Path,
    events: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    message: str,
) -> None:
    before = clip.read_bytes()
    empty = tmp_path / "empty.csv"
    empty.write_text("video,label\nelsewhere.mp4,nonviolent\n")
    files = {"CLIP": clip, "EMPTY": empty, "EVENTS": events}
    named = [str(files.get(flag, flag)) for flag in flags]
    assert main(in_windows(trained, clip, *named)) == 2
    assert message in capsys.readouterr().err
    assert clip.read_bytes() == before


def test_plot_and_video_are_of_one_video(
    clip: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(in_windows(trained, clip.parent, "--plot", "p.png")) == 2
    assert "--plot is for one video, but there are 4" in capsys.readouterr().err
    assert main(["--checkpoint-dir", str(trained / "run"), str(clip), "--plot", "p.png"]) == 2
    assert "--plot needs --window" in capsys.readouterr().err
    whole = ["--checkpoint-dir", str(trained / "run"), str(clip), "--compare-with", "events.csv"]
    assert main(whole) == 2
    assert "--compare-with needs --window" in capsys.readouterr().err
