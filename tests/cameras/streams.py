"""Cameras on loopback: pictures sent one after the other, as they would be by a camera."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cv2
import numpy as np

RATE = 10  # pictures a second


class Camera(BaseHTTPRequestHandler):
    """A square moves over the picture; at /still it stands; at /short it lasts two seconds."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        began, number = time.monotonic(), 0
        while not self.server.stopped.is_set():
            if self.path == "/short" and number >= 2 * RATE:
                return
            place = 0 if self.path == "/still" else number % 40
            picture = np.full((48, 64, 3), 90, np.uint8)
            picture[20:30, place : place + 20] = (40, 200, 250)
            jpeg = cv2.imencode(".jpg", picture)[1].tobytes()
            head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
            try:
                self.wfile.write(head.encode() + jpeg + b"\r\n")
            except OSError:  # nobody looks any more
                return
            number += 1
            self.server.stopped.wait(max(0.0, began + number / RATE - time.monotonic()))

    def log_message(self, *arguments: object) -> None:
        """Keep the screen clean."""


@contextmanager
def cameras() -> Iterator[str]:
    """Serve cameras during the block; yield their address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Camera) as server:
        server.stopped = threading.Event()
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.stopped.set()
            server.shutdown()
            thread.join()
