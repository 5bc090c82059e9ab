"""Clients of the service for Locust: each sends a clip, waits for the prediction, and repeats.

    locust --headless -f benchmarks/clip_senders.py --users 32 --host http://127.0.0.1:8000 \\
        --clips DIR --report FILE

It imports nothing of this package, since Locust patches Python's sockets and threads.
"""

import json
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

from locust import FastHttpUser, events, task

BOUNDARY = "clip-sender"
MOST_CLIPS = 64  # that are kept in memory


@events.init_command_line_parser.add_listener
def add_flags(parser: Any) -> None:
    """Add flags for the clips and the figures to Locust's own."""
    parser.add_argument("--clips", help="folder of video files")
    parser.add_argument("--report", help="file for the figures")


class ClipSender(FastHttpUser):
    """Sends clips one after the other, and waits as long as a Retry-After asks for."""

    network_timeout = connection_timeout = 300.0
    bodies: ClassVar[list[bytes]] = []
    answers: ClassVar[list[tuple[float, float, int]]] = []  # time sent, seconds, status

    @task
    def send(self) -> None:
        """Send a clip; 503 with Retry-After is a valid answer."""
        began = time.time()
        headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
        body = random.choice(self.bodies)
        sent: Any = {"data": body, "headers": headers}
        with self.client.post("/predict", catch_response=True, **sent) as got:
            status = got.status_code
            self.answers.append((began, time.time() - began, status))
            if status == 503 and "Retry-After" in got.headers:
                got.success()
                time.sleep(int(got.headers["Retry-After"]))


@events.init.add_listener
def read_clips(environment: Any, **_: Any) -> None:
    """Read the clips once for all senders."""
    paths = sorted(Path(environment.parsed_options.clips).rglob("*.mp4"))
    random.Random(0).shuffle(paths)
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="video"\r\n\r\n'.encode()
    end = f"\r\n--{BOUNDARY}--\r\n".encode()
    ClipSender.bodies = [head + path.read_bytes() + end for path in paths[:MOST_CLIPS]]


@events.quitting.add_listener
def write_figures(environment: Any, **_: Any) -> None:
    """Write how many answers had which status, and how long they took."""
    answers = ClipSender.answers
    predicted = [(began, took) for began, took, status in answers if status == 200]
    ends = sorted(began + took for began, took in predicted)
    report = {
        "answers_by_status": dict(Counter(status for *_, status in answers)),
        "seconds": sorted(took for _, took in predicted),
        "ends": ends,  # when each prediction arrived
    }
    Path(environment.parsed_options.report).write_text(json.dumps(report))
