import dataclasses
import shutil
import time
from pathlib import Path

import pytest

from violence_detection.cameras.alarms import AlarmRule
from violence_detection.cameras.settings import Camera, WatchSettings
from violence_detection.cameras.watcher import Watcher
from violence_detection.inference.detector import Detector, load_detector
from violence_detection.inference.live_source import Source
from violence_detection.inference.windows import predict_video, window_sampling


@pytest.fixture(scope="module")
def detector(trained: Path) -> Detector:
    return load_detector(trained / "run")


def test_windows_of_several_cameras_are_those_of_each_alone(
    detector: Detector, drawn_clips: Path, tmp_path: Path
) -> None:
    rule = AlarmRule(cool_down=0.0)
    watched = []
    for number, kind in enumerate(("violent", "nonviolent", "violent")):
        path = tmp_path / f"{number}.mp4"
        shutil.copy(drawn_clips / "test" / kind / f"{kind}{number}.mp4", path)
        camera = Camera(f"camera{number}", Source(str(path), "file"), 0.0, 1.0, 0.5, alarm=rule)
        watched.append(camera)
    lines: list[dict] = []
    Watcher(detector, WatchSettings(tuple(watched), events=tmp_path / "events"), lines.append).run()
    ended = {line["camera"]: line for line in lines if line.get("state") == "ended"}
    assert len(ended) == len(watched)
    sampling = window_sampling(detector, 1.0, 0.5)
    for camera in watched:
        windows = predict_video(detector, Path(camera.source.name), sampling, 60.0)
        expected = max(window.probability for window in windows)
        found = ended[camera.name]
        assert found["probability"] == pytest.approx(expected, abs=1e-3)
        assert found["clip"] is None  # a file is its own recording


def test_slow_machine_serves_every_camera(
    detector: Detector, drawn_clips: Path, tmp_path: Path
) -> None:
    """Each pass takes as long as a third of a clip: most windows are skipped, of all cameras."""

    class Slow(Detector):
        def frame_features(self, *arguments: object, **keywords: object) -> object:
            time.sleep(0.6)
            return super().frame_features(*arguments, **keywords)

    fields = {field.name: getattr(detector, field.name) for field in dataclasses.fields(detector)}
    watched = []
    for number in range(3):
        path = drawn_clips / "test" / "violent" / f"violent{number}.mp4"
        watched.append(Camera(f"camera{number}", Source(str(path), "file"), 0.0, 0.5, 0.25))
    lines: list[dict] = []
    watcher = Watcher(Slow(**fields), WatchSettings(tuple(watched), events=tmp_path), lines.append)
    watcher.run()
    assert {line["camera"] for line in lines if line.get("state") == "started"} == {
        camera.name for camera in watched
    }
