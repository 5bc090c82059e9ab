import multiprocessing
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.inference.conftest import Clock
from violence_detection.clips.sampling import Sample, Sampling, sample_video
from violence_detection.clips.video import UnreadableClip, VideoInfo
from violence_detection.errors import UserError
from violence_detection.inference.live_source import (
    Arrival,
    Ended,
    FrameCount,
    Item,
    Lost,
    NotLive,
    Source,
    SourceReader,
    Started,
    parse_source,
    sample_source,
)

SILENCE = 2.0  # seconds
PATIENCE = 60.0  # seconds


def sampling(window: float = 1.0, frames: int = 4) -> Sampling:
    return Sampling(window, window / 2, ("difference",), frames, tuple(range(frames)))


@pytest.fixture
def played_file(short_video: Path) -> Source:
    return Source(str(short_video), "file")


def test_file_is_played_at_its_own_rate(played_file: Source, clock: Clock) -> None:
    shown = []
    for item in sample_source(played_file, sampling(), 1.0, clock, clock.sleep):
        if isinstance(item, Arrival):
            assert -1e-6 < clock.now - item.arrived < 1 / 12 + 1e-6  # known with the next frame
            shown.append((item.arrived - 1000, item.sample))
    assert [seconds for seconds, _ in shown] == pytest.approx([s.time for _, s in shown])
    assert clock.now - 1000 == pytest.approx(23 / 12)  # its last frame
    _, *samples, _ = sample_video(Path(played_file.name), sampling())
    for (_, live), sample in zip(shown, samples, strict=True):
        assert live[:2] == pytest.approx(sample[:2])
        np.testing.assert_array_equal(live.images, sample.images)


def test_all_frames_are_counted(played_file: Source, clock: Clock) -> None:
    items = list(sample_source(played_file, sampling(), 1.0, clock, clock.sleep))
    assert sum(item.frames for item in items if isinstance(item, FrameCount)) == 24
    assert [type(item) for item in items].count(Started) == 1


def test_frames_that_are_read_late_arrive_when_they_were_due(
    played_file: Source, clock: Clock
) -> None:
    late = []
    for item in sample_source(played_file, sampling(), 1.0, clock, clock.sleep):
        if isinstance(item, Arrival):
            late.append(clock.now - item.arrived)
            clock.sleep(0.5)
    assert late[-1] > 1.0


class Mjpeg(BaseHTTPRequestHandler):
    """A camera that breaks off after some pictures, or falls silent."""

    pictures = 12
    then_silent: threading.Event | None = None

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        for number in range(self.pictures):
            picture = np.full((48, 64, 3), 20 * number, np.uint8)
            jpeg = cv2.imencode(".jpg", picture)[1].tobytes()
            head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
            self.wfile.write(head.encode() + jpeg + b"\r\n")
        if self.then_silent:
            self.then_silent.wait(PATIENCE)

    def log_message(self, *arguments: object) -> None:
        """Keep the screen clean."""


@contextmanager
def serving(handler: Callable[..., BaseHTTPRequestHandler]) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def received(reader: SourceReader, enough: Callable[[Sequence[Item]], bool]) -> list[Item]:
    """Return what a reader delivers until it is enough."""
    items: list[Item] = []
    while not enough(items):
        taken = reader.take(PATIENCE)
        assert taken, "nothing has arrived"
        items += taken
    return items


def count(kind: type, items: Sequence[Item]) -> int:
    return sum(isinstance(item, kind) for item in items)


def test_stream_that_breaks_off_is_reconnected() -> None:
    with (
        serving(Mjpeg) as address,
        SourceReader(Source(address, "network"), sampling(), SILENCE, first_pause=0.05) as reader,
    ):
        items = received(reader, lambda items: count(Lost, items) == 2)
    kinds = [type(item) for item in items if not isinstance(item, FrameCount | Arrival)]
    assert kinds == [Started, Lost, Started, Lost]
    losses = [item for item in items if isinstance(item, Lost)]
    assert losses[0].reason == "the stream has ended"
    assert sum(item.frames for item in items if isinstance(item, FrameCount)) == 24
    starts = [item for item in items if isinstance(item, Arrival) and item.sample.number == 0]
    assert len(starts) == 2
    assert starts[1].arrived > starts[0].arrived


def test_silent_stream_is_reconnected_at_growing_intervals() -> None:
    woken = threading.Event()
    silent = type("Silent", (Mjpeg,), {"pictures": 0, "then_silent": woken})
    with (
        serving(silent) as address,
        SourceReader(Source(address, "network"), sampling(), 0.5, first_pause=0.05) as reader,
    ):
        items = received(reader, lambda items: count(Lost, items) == 3)
        woken.set()
    assert [item.pause for item in items if isinstance(item, Lost)] == [0.05, 0.1, 0.2]
    assert count(Started, items) == 0


def test_reader_that_dies_is_replaced(short_video: Path) -> None:
    woken = threading.Event()
    camera = type("Camera", (Mjpeg,), {"then_silent": woken})
    with (
        serving(camera) as address,
        SourceReader(Source(address, "network"), sampling(), PATIENCE, first_pause=0.05) as reader,
    ):
        received(reader, lambda items: count(Arrival, items) > 0)
        for process in multiprocessing.active_children():
            process.kill()
        items = received(reader, lambda items: count(Started, items) == 1)
        woken.set()
    (lost,) = (item for item in items if isinstance(item, Lost))
    assert "decoder died (SIGKILL)" in lost.reason


def test_missing_camera_is_tried_again() -> None:
    with SourceReader(Source("97", "camera"), sampling(), SILENCE, first_pause=0.05) as reader:
        (lost,) = received(reader, lambda items: count(Lost, items) == 1)
    assert lost.reason == "cannot be opened"


def test_file_on_a_web_server_is_not_live(short_video: Path) -> None:
    class Files(SimpleHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            """Keep the screen clean."""

    with (
        serving(partial(Files, directory=str(short_video.parent))) as address,
        SourceReader(Source(f"{address}/clip.mp4", "network"), sampling(), SILENCE) as reader,
    ):
        (ended,) = received(reader, lambda items: count(Ended, items) == 1)
    assert isinstance(ended.error, NotLive)


def played(*items: Item | Exception) -> Callable[..., Iterator[Item]]:
    """Return a substitute for the process that yields these."""

    def stream(*arguments: object, **keywords: object) -> Iterator[Item]:
        for item in items:
            if isinstance(item, Exception):
                raise item
            yield item

    return stream


def arrivals(numbers: range) -> list[Arrival]:
    return [Arrival(Sample(number, float(number), None), float(number)) for number in numbers]


def test_newest_samples_are_kept_if_nobody_takes_them() -> None:
    all_queued = threading.Event()

    def stream(*arguments: object, **keywords: object) -> Iterator[Item]:
        yield Started(25.0)
        yield from arrivals(range(100))
        yield FrameCount(100)  # requested when all before it have been queued
        all_queued.set()

    source = Source("0", "file")
    with SourceReader(source, sampling(frames=4), SILENCE, stream=stream) as reader:
        assert all_queued.wait(PATIENCE)
        items = received(reader, lambda items: count(Ended, items) == 1)
    numbers = [item.sample.number for item in items if isinstance(item, Arrival)]
    assert numbers == list(range(92, 100))  # of two windows
    assert isinstance(items[0], Started)


def test_file_that_cannot_be_read_to_its_end_is_not_restarted() -> None:
    error = UnreadableClip("its decoder died (SIGSEGV)")
    source, stream = Source("clip.mp4", "file"), played(Started(None), error)
    with SourceReader(source, sampling(), SILENCE, stream=stream) as reader:
        items = received(reader, lambda items: count(Ended, items) == 1)
    assert items == [Started(None), Ended(error)]


def test_source_starts_anew_after_a_pause(clock: Clock) -> None:
    class Camera:
        """Gives a picture every 0.1 s, but none for a while after the tenth."""

        info = VideoInfo(None, None)

        def packets(self) -> Iterator[int]:
            for number in range(20):
                clock.sleep(5.0 if number == 10 else 0.1)
                yield number

        def decoded(self, packets: Iterator[int]) -> Iterator[int]:
            return packets

        def picture(self, number: int) -> np.ndarray:
            return np.zeros((48, 64, 3), np.uint8)

        def __enter__(self) -> "Camera":
            return self

        def __exit__(self, *error: object) -> None:
            """There is nothing to close."""

    source = Source("0", "camera")
    items: list[Item] = []

    def watch() -> None:
        for item in sample_source(source, sampling(), 10.0, clock, clock.sleep, Camera()):
            items.append(item)

    with pytest.raises(UnreadableClip, match="the stream has ended"):
        watch()
    assert count(Started, items) == 2
    assert sum(item.frames for item in items if isinstance(item, FrameCount)) == 20
    times = [item.sample.time for item in items if isinstance(item, Arrival)]
    assert times == sorted(times)
    assert len(times) < 10  # none during the pause


@pytest.mark.parametrize(
    ("name", "kind", "shown"),
    [
        ("0", "camera", "camera 0"),
        ("rtsp://camera/1", "network", "rtsp://camera/1"),
        ("rtsp://me:secret@camera:554/a/1?p=secret", "network", "rtsp://camera:554/a/1"),
        ("rtsp://camera/user=me_password=secret/1", "network", "rtsp://camera/…/1"),
        ("HTTPS://me@[::1]:8080/video", "network", "https://[::1]:8080/video"),
    ],
)
def test_sources_are_shown_without_secrets(name: str, kind: str, shown: str) -> None:
    source = parse_source(name)
    assert (source.kind, source.display_name) == (kind, shown)
    assert source.name == name


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gone.mp4", "--source gone.mp4: no such file"),
        ("-1", "--source -1: no such file"),
        ("ftp://me:secret@server/1", "--source ftp://…: must start with rtsp://, "),
        ("rtsp:///secret", "no host name"),
        ("rtsp://camera:secret/1", "or an invalid port"),
    ],
)
def test_invalid_source_is_refused_without_its_secrets(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        parse_source(name)
    assert "secret" not in str(raised.value)


def test_file_is_a_source(short_video: Path) -> None:
    assert parse_source(str(short_video)) == Source(str(short_video), "file")
