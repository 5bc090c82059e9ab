import dataclasses
import time
from pathlib import Path

import cv2

from violence_detection.cameras.alarms import AlarmRule
from violence_detection.cameras.settings import Camera, WatchSettings
from violence_detection.cameras.watcher import Watcher
from violence_detection.inference.detector import Detector
from violence_detection.inference.live_source import Source
from violence_detection.inference.windows import predict_video, window_sampling


def repeated(clip: Path, path: Path) -> Path:
    """Write a video of a clip three times, for a busy machine to be in time for some of it."""
    capture = cv2.VideoCapture(str(clip))
    frames = [capture.read()[1] for _ in range(int(capture.get(cv2.CAP_PROP_FRAME_COUNT)))]
    size = frames[0].shape[1], frames[0].shape[0]
    rate = capture.get(cv2.CAP_PROP_FPS)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), rate, size)
    for frame in frames * 3:
        writer.write(frame)
    writer.release()
    return path


def test_windows_of_several_cameras_are_those_of_each_alone(
    detector: Detector, drawn_clips: Path, tmp_path: Path
) -> None:
    rule = AlarmRule(cool_down=0.0)
    watched = []
    for number, kind in enumerate(("violent", "nonviolent", "violent")):
        clip = drawn_clips / "test" / kind / f"{kind}{number}.mp4"
        path = repeated(clip, tmp_path / f"{number}.avi")
        camera = Camera(f"camera{number}", Source(str(path), "file"), 0.0, 1.0, 0.5, alarm=rule)
        watched.append(camera)
    lines: list[dict] = []
    Watcher(detector, WatchSettings(tuple(watched), events=tmp_path / "events"), lines.append).run()
    ended = {line["camera"]: line for line in lines if line.get("state") == "ended"}
    assert len(ended) == len(watched)
    sampling = window_sampling(detector, 1.0, 0.5)
    for camera in watched:
        windows = predict_video(detector, Path(camera.source.name), sampling, 60.0)
        found = ended[camera.name]
        # The highest, unless a busy machine has skipped that window.
        known = [window.probability for window in windows]
        assert min(abs(found["probability"] - each) for each in known) < 1e-3
        assert found["clip"] is None  # a file is its own recording


def test_slow_machine_serves_every_camera(
    detector: Detector, drawn_clips: Path, tmp_path: Path
) -> None:
    """Each pass takes longer than a window: most are skipped, of all cameras."""

    class Slow(Detector):
        def frame_features(self, *arguments: object, **keywords: object) -> object:
            time.sleep(0.4)
            return super().frame_features(*arguments, **keywords)

    fields = {field.name: getattr(detector, field.name) for field in dataclasses.fields(detector)}
    watched = []
    for number in range(3):
        clip = drawn_clips / "test" / "violent" / f"violent{number}.mp4"
        path = repeated(clip, tmp_path / f"{number}.avi")
        watched.append(Camera(f"camera{number}", Source(str(path), "file"), 0.0, 0.5, 0.25))
    lines: list[dict] = []
    watcher = Watcher(Slow(**fields), WatchSettings(tuple(watched), events=tmp_path), lines.append)
    watcher.run()
    assert {line["camera"] for line in lines if line.get("state") == "started"} == {
        camera.name for camera in watched
    }
