import dataclasses
import json
import multiprocessing
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.clips.videos import draw_video
from tests.conftest import ROOT
from violence_detection import Detector
from violence_detection.api import Event, Prediction, Window
from violence_detection.clips.video import frames_of, open_video
from violence_detection.commands.predict import main
from violence_detection.errors import RunError, UserError


@pytest.fixture(scope="module")
def detector(trained: Path) -> Detector:
    with pytest.warns(UserWarning, match="RANDOM WEIGHTS"):
        return Detector.load(trained / "run")


@pytest.fixture
def clip(drawn_clips: Path) -> Path:
    return drawn_clips / "test" / "violent" / "violent0.mp4"


@pytest.fixture
def folder(drawn_clips: Path, tmp_path: Path) -> Path:
    """Return a folder with a good clip, one that is far too long, and a bad one."""
    long = tmp_path / "clips" / "long.mp4"
    long.parent.mkdir()
    shutil.copy(drawn_clips / "test" / "violent" / "violent0.mp4", long.with_name("good.mp4"))
    draw_video(long, [True, False, True, False], np.random.default_rng(1))
    long.with_name("bad.avi").write_bytes(b"hello" * 99)
    return long.parent


def as_json(trained: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> list[Any]:
    """Return what predict.py says of each clip."""
    capsys.readouterr()
    main(["--checkpoint-dir", str(trained / "run"), "--quiet", "--json", *arguments])
    return json.loads(capsys.readouterr().out)["clips"]


def as_predict_has_it(prediction: Prediction) -> dict[str, Any]:
    if prediction.error is not None:
        return {"clip": prediction.clip, "error": prediction.error}
    return {
        "clip": prediction.clip,
        "probability": prediction.probability,
        "violent": prediction.violent,
        "frames": [
            {"time": time, "attention": weight}
            for time, weight in zip(prediction.times, prediction.attention, strict=True)
        ],
        "warnings": list(prediction.warnings),
    }


@pytest.mark.parametrize("whole", [False, True])
def test_predictions_are_those_of_the_command(
    whole: bool,
    folder: Path,
    trained: Path,
    detector: Detector,
    capsys: pytest.CaptureFixture[str],
) -> None:
    flags = ["--whole"] if whole else []
    expected = as_json(trained, capsys, str(folder), *flags)
    assert len(expected) == 3
    for clip in expected:
        for name in ("weighed_most", "windows", "events"):
            clip.pop(name, None)
    assert [as_predict_has_it(p) for p in detector.predict([folder], whole=whole)] == expected
    bad, good, long = detector.predict([folder], whole=whole)
    assert (bad.probability, good.error, bool(long.attention)) == (None, None, whole)


def test_one_path_has_one_prediction_and_several_have_a_list(
    clip: Path, drawn_clips: Path, detector: Detector
) -> None:
    other = drawn_clips / "test" / "nonviolent" / "nonviolent0.mp4"
    alone = detector.predict(clip)
    several = detector.predict([str(clip), other, str(clip)])
    assert [prediction.clip for prediction in several] == [str(clip), str(other), str(clip)]
    assert several[0] == several[2]
    assert several[0].probability == pytest.approx(alone.probability, abs=1e-6)
    assert detector.predict([]) == []
    with pytest.raises(UserError, match="stands for 8 clips"):
        detector.predict(drawn_clips / "test")
    with pytest.raises(UserError, match=r"gone\.mp4: no such file"):
        detector.predict("gone.mp4")


def test_frames_are_predicted_as_the_clip_that_they_are_of(clip: Path, detector: Detector) -> None:
    video = open_video(clip)
    frames = np.stack([f.retrieve() for f in frames_of(video, video.info.frames_per_second)])
    assert frames.shape == (24, 192, 256, 3)
    of_file, of_frames = detector.predict(clip), detector.predict(frames)
    assert of_frames == dataclasses.replace(of_file, clip=None, times=())
    still = detector.predict(np.repeat(frames[:1], 24, axis=0))
    assert still.warnings == ("nothing moves in it: its frames are all the same",)


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((4, 8, 8, 3), np.float32),
        np.zeros((8, 8, 3), np.uint8),
        np.zeros((4, 8, 8, 4), np.uint8),
        np.zeros((0, 8, 8, 3), np.uint8),
    ],
    ids=["float", "one frame", "four channels", "none"],
)
def test_other_arrays_are_refused_by_shape_and_type(frames: np.ndarray, detector: Detector) -> None:
    with pytest.raises(UserError) as refused:
        detector.predict(frames)
    assert f"{frames.shape}, {frames.dtype}: must be (frames, height, width, 3)" in str(
        refused.value
    )


def test_windows_and_events_are_those_of_the_command(
    clip: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--window", "1", "--stride", "0.5", "--threshold", "0"]
    (expected,) = as_json(trained, capsys, str(clip), *flags)
    with pytest.warns(UserWarning, match="RANDOM WEIGHTS"):
        detector = Detector.load(trained / "run", threshold=0.0)
    timeline = detector.predict_windows(clip, 1.0, 0.5)
    names = expected["windows"][0].keys()
    assert [{n: getattr(w, n) for n in names} for w in timeline.windows] == expected["windows"]
    names = expected["events"][0].keys()
    assert [{n: getattr(e, n) for n in names} for e in timeline.events] == expected["events"]
    assert all(window.violent and window.clip == str(clip) for window in timeline.windows)
    with pytest.raises(UserError, match="--stride 2: must be above 0 and at most --window"):
        detector.predict_windows(clip, 1.0, 2.0)


def test_watching_ends_with_the_source_or_when_nobody_goes_on(
    clip: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.warns(UserWarning, match="RANDOM WEIGHTS"):
        detector = Detector.load(trained / "run", threshold=0.0)
    found = list(detector.watch(clip, 0.8))
    events = [item for item in found if isinstance(item, Event)]
    assert [(event.number, event.ongoing) for event in events] == [(1, True), (1, False)]
    assert events[0].time == events[1].time is not None
    windows = [item for item in found if isinstance(item, Window)]
    assert events[1].end == pytest.approx(windows[-1].end, abs=1e-3)
    assert events[1].probability == max(window.probability for window in windows)
    watching = detector.watch(str(clip), 0.8)
    assert isinstance(next(watching), Window | Event)
    watching.close()
    assert multiprocessing.active_children() == []
    assert capsys.readouterr() == ("", "")


def test_source_that_cannot_be_watched_says_why(tmp_path: Path, detector: Detector) -> None:
    with pytest.raises(UserError, match=r"gone\.mp4: no such file"):
        detector.watch("gone.mp4")
    (tmp_path / "clip.mp4").write_bytes(b"hello" * 99)
    with pytest.raises(RunError, match=r"clip\.mp4: not a video that FFmpeg can open"):
        list(detector.watch(tmp_path / "clip.mp4"))


def test_results_are_flat_enough_for_a_table(clip: Path, detector: Detector) -> None:
    timeline = detector.predict_windows(clip, 1.0)
    event = Event("clip", 1, 0.0, 1.0, 0.5, 0.9, still=False)
    rows = [*timeline.windows, event, *detector.predict([clip, clip])]
    scalars = str | float | int | bool | None
    for row in map(dataclasses.asdict, rows):
        for value in row.values():
            assert isinstance(value, scalars) or all(isinstance(v, scalars) for v in value)


def test_list_of_results_is_a_table(clip: Path, detector: Detector) -> None:
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame(detector.predict_windows(clip, 1.0).windows)
    assert list(table.columns) == ["clip", "start", "end", "probability", "violent", "still"]


@pytest.mark.parametrize(
    ("folder", "options", "message"),
    [
        ("gone", {}, "gone: no such folder"),
        ("run", {"threshold": 2.0}, "threshold 2: must be from 0 to 1"),
        ("run", {"vgg19_weights": Path("gone.h5")}, r"gone\.h5"),
    ],
)
def test_what_cannot_be_loaded_is_named(
    folder: str, options: dict[str, Any], message: str, trained: Path
) -> None:
    with pytest.raises(UserError, match=message):
        Detector.load(trained / folder, **options)


@pytest.mark.slow
def test_program_that_decoders_would_run_again_is_told_so(
    clip: Path, trained: Path, tmp_path: Path
) -> None:
    program = (
        "from violence_detection import Detector\n"
        f"print(Detector.load({str(trained / 'run')!r}).predict({str(clip)!r}))\n"
    )
    (tmp_path / "program.py").write_text(program)
    command = [sys.executable, str(tmp_path / "program.py")]
    done = subprocess.run(
        command, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert "put what it does below 'if __name__ == \"__main__\":'" in done.stderr
    assert "the decoder died" in done.stdout
