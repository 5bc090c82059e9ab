import itertools
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from violence_detection.clips.recorder import Recorder, join, segments_in
from violence_detection.clips.video import open_video

RATE, GROUP = 10, 10  # frames a second, frames from keyframe to keyframe
BEGAN = 1_700_000_000.0


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """Return a video of ten seconds whose frames become lighter, with B-frames."""
    path = tmp_path / "stream.ts"
    with av.open(str(path), "w") as out:
        options = {"g": str(GROUP), "bf": "2", "sc_threshold": "0", "crf": "10"}
        stream = out.add_stream("libx264", rate=RATE, options=options)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for number in range(10 * RATE):
            picture = np.full((64, 64, 3), 20 + 2 * number, np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, RATE)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return path


def recorded(video: Path, folder: Path, **changes: Any) -> list[Any]:
    """Record a video as if its packets arrived in time; return what is passed on."""
    ticks = itertools.count()
    with open_video(video) as source:
        clock = changes.pop("clock", lambda: BEGAN + next(ticks) / RATE)
        recorder = Recorder(folder, source.stream, clock)
        packets: Iterator[Any] = changes.pop("packets", lambda p: p)(source.packets())
        frames = list(source.decoded(recorder.record(packets)))
        assert recorder.failure is None or changes.get("fails")
    return frames


def lightness(path: Path) -> list[float]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24").mean() for frame in container.decode(video=0)]


def test_segments_begin_with_keyframes_and_join_to_the_original(
    video: Path, tmp_path: Path
) -> None:
    frames = recorded(video, tmp_path / "recent")
    assert len(frames) == 10 * RATE
    segments = segments_in(tmp_path / "recent")
    assert len(segments) == 5
    assert [segment.start - BEGAN for segment in segments] == pytest.approx([0, 2, 4, 6, 8])
    for name in ("whole.mp4", "whole.mkv"):
        join(segments, tmp_path / name)
        assert lightness(tmp_path / name) == pytest.approx(lightness(video), abs=0.5)
    join(segments[1:3], tmp_path / "part.mp4")
    assert lightness(tmp_path / "part.mp4") == pytest.approx(lightness(video)[20:60], abs=0.5)
    with av.open(str(tmp_path / "part.mp4")) as container:
        assert float(container.duration / av.time_base) == pytest.approx(4, abs=0.3)


def test_times_that_jump_begin_a_new_segment(video: Path, tmp_path: Path) -> None:
    def jumping(packets: Iterator[Any]) -> Iterator[Any]:
        for number, packet in enumerate(packets):
            if number >= 35:
                packet.dts, packet.pts = packet.dts - 10**6, packet.pts - 10**6
            yield packet

    recorded(video, tmp_path / "recent", packets=jumping)
    segments = segments_in(tmp_path / "recent")
    assert [round(segment.start - BEGAN) for segment in segments] == [0, 2, 4, 6, 8]
    assert segments[1].end - BEGAN == pytest.approx(3.4)
    join(segments, tmp_path / "joined.mkv")
    assert len(lightness(tmp_path / "joined.mkv")) == 95  # 5 before the next keyframe are lost


def test_disk_that_fails_does_not_end_the_reading(video: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way of the folder")
    frames = recorded(video, tmp_path / "file" / "recent", fails=True)
    assert len(frames) == 10 * RATE


def test_other_files_and_unfinished_segments_are_passed_over(tmp_path: Path) -> None:
    for name in ("1_2.nut", "notes.nut", "3.nut.partial"):
        (tmp_path / name).touch()
    assert [segment.path.name for segment in segments_in(tmp_path)] == ["1_2.nut"]
