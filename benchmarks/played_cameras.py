"""Drawn scenes, played as cameras: H.264 in MPEG-TS over HTTP, each from a process of its own.

    python -m benchmarks.played_cameras SCENE.mp4 --port 9000 --began SECONDS

A scene shows what it shows by the clock, whoever looks, and begins again at its end: a camera that
was gone goes on as if it had not been. While figures fight, white squares in a corner, which a
mask is to cover, say the number of the fight.
"""

import argparse
import time
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import av
import numpy as np

RATE = 5  # frames a second
PART = 8  # seconds: a fight is one part
QUIET_PARTS = 4  # between two fights
FIGHTS = 8  # of a scene
SIDE = 12  # pixels of a square
BITS = 3
MASK = ((0.0, 0.0), (0.25, 0.0), (0.25, 0.1), (0.0, 0.1))
PERIOD = PART * (1 + QUIET_PARTS)  # seconds from one fight to the next


def main(arguments: Sequence[str] | None = None) -> None:
    """Play a scene until a signal."""
    parser = argparse.ArgumentParser(description="Play a scene as a camera.")
    parser.add_argument("scene", type=Path)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--began", type=float, required=True, help="seconds since 1970")
    flags = parser.parse_args(arguments)
    packets, template = _read(flags.scene)

    class Camera(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "video/mp2t")
            self.end_headers()
            try:
                _play(packets, template, flags.began, self.wfile)
            except OSError:  # nobody looks any more
                self.close_connection = True

        def log_message(self, *arguments: object) -> None:
            """Keep the screen clean."""

    with ThreadingHTTPServer(("127.0.0.1", flags.port), Camera) as server:
        server.daemon_threads = True
        server.serve_forever()


def draw_scene(path: Path, seed: int) -> None:
    """Draw a scene of quiet parts and fights, `QUIET_PARTS` and one in turn."""
    from violence_detection.clips.demo import HEIGHT, WIDTH, drawn_images

    parts = ([False] * QUIET_PARTS + [True]) * FIGHTS
    images = drawn_images(parts, np.random.default_rng(seed), RATE, PART)
    with av.open(str(path), "w") as container:
        options = {"preset": "veryfast", "tune": "zerolatency"}
        stream: Any = container.add_stream("libx264", rate=RATE, options=options)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = WIDTH, HEIGHT, "yuv420p", 5
        for number, image in enumerate(images):
            part, position = divmod(number // (RATE * PART), QUIET_PARTS + 1)
            if position == QUIET_PARTS:
                _mark(image, part)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="bgr24")))
        container.mux(stream.encode())


def _mark(image: np.ndarray, fight: int) -> None:
    image[:SIDE, : SIDE * (BITS + 1)] = 0
    for place, is_white in enumerate((1, *(fight >> bit & 1 for bit in range(BITS)))):
        if is_white:
            image[:SIDE, place * SIDE : (place + 1) * SIDE] = 255


def fights_in(path: Path) -> dict[int, int]:
    """Return how many frames of which fights a clip shows."""
    found: dict[int, int] = {}
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            corner = frame.to_ndarray(format="gray")[2 : SIDE - 2, : SIDE * (BITS + 1)]
            squares = corner.reshape(SIDE - 4, BITS + 1, SIDE)[:, :, 2:-2].mean((0, 2))
            if squares[0] > 220 and all(square < 60 or square > 220 for square in squares):
                fight = sum(int(square > 128) << bit for bit, square in enumerate(squares[1:]))
                found[fight] = found.get(fight, 0) + 1
    return found


def fights_between(began: float, start: float, end: float) -> list[tuple[float, int]]:
    """Return when the fights of a scene begin that end before `end`, and their numbers."""
    found = []
    count = 0
    while (begins := began + count * PERIOD + QUIET_PARTS * PART) + PART <= end:
        if begins >= start:
            found.append((begins, count % FIGHTS))
        count += 1
    return found


def _read(path: Path) -> tuple[list[tuple[bytes, bool]], Any]:
    container = av.open(str(path))  # it stays open: its stream is the template
    stream = container.streams.video[0]
    annexb = av.BitStreamFilterContext("h264_mp4toannexb", stream)
    packets = []
    for packet in container.demux(stream):
        if packet.size:
            packets += [(bytes(each), each.is_keyframe) for each in annexb.filter(packet)]
    return packets, stream


def _play(packets: list[tuple[bytes, bool]], template: Any, began: float, output: Any) -> None:
    number = int((time.time() - began) * RATE) + 1
    while not packets[number % len(packets)][1]:
        number += 1
    first = number
    with av.open(output, "w", format="mpegts", options={"flush_packets": "1"}) as container:
        stream: Any = container.add_stream_from_template(template)
        while True:
            time.sleep(max(0.0, began + number / RATE - time.time()))
            content, is_keyframe = packets[number % len(packets)]
            packet = av.Packet(content)
            packet.stream, packet.is_keyframe = stream, is_keyframe
            packet.time_base = stream.time_base or template.time_base
            packet.pts = packet.dts = round((number - first) / RATE / packet.time_base)
            container.mux(packet)
            number += 1


if __name__ == "__main__":
    main()
