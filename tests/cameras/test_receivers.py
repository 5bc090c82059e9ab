import base64
import json
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.waiting import wait_until
from violence_detection.cameras.outbox import NotDelivered, Refused
from violence_detection.cameras.receivers import (
    Apprise,
    Frigate,
    Mqtt,
    Receivers,
    ReceiverSettings,
    Webhook,
)
from violence_detection.errors import UserError

STARTED = {
    "event": "yard-1",
    "camera": "yard",
    "kind": "alarm",
    "start": "2026-11-30T12:00:00+00:00",
    "probability": 0.9,
    "state": "started",
}
ENDED = STARTED | {
    "state": "ended",
    "end": "2026-11-30T12:00:10+00:00",
    "clip": "a/clip.mp4",
    "snapshot": "a/snapshot.jpg",
}
LOST = {"camera": "yard", "kind": "lost", "time": "2026-11-30T12:01:00+00:00", "reason": "gone"}


class Stand(BaseHTTPRequestHandler):
    """Keeps what it is sent, and answers as Frigate does."""

    def _take(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.received.append((self.command, self.path, json.loads(content)))
        self.send_response(self.server.status)
        self.end_headers()
        if self.server.status == 200:
            self.wfile.write(b'{"event_id": "f-7"}')

    do_POST = do_PUT = _take  # noqa: N815

    def log_message(self, *arguments: object) -> None:
        """Keep the screen clean."""


@contextmanager
def standing() -> Iterator[Any]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Stand) as server:
        server.received, server.status = [], 200
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def address_of(server: Any) -> str:
    return f"http://127.0.0.1:{server.server_port}"


def test_webhook_gets_lines_and_tells_a_failure_from_a_refusal() -> None:
    with standing() as server:
        webhook = Webhook(f"{address_of(server)}/hook")
        webhook.deliver(STARTED)
        assert server.received == [("POST", "/hook", STARTED)]
        for status, error in ((500, NotDelivered), (429, NotDelivered), (400, Refused)):
            server.status = status
            with pytest.raises(error):
                webhook.deliver(LOST)
    with pytest.raises(NotDelivered):
        webhook.deliver(LOST)


def test_frigate_has_an_event_that_begins_and_ends(tmp_path: Path) -> None:
    with standing() as server:
        Frigate(address_of(server), tmp_path).deliver(STARTED)
        again = Frigate(address_of(server), tmp_path)  # after a restart
        again.deliver(LOST)
        again.deliver(ENDED)
    (made, ended) = server.received
    assert made[:2] == ("POST", "/api/events/yard/violence/create")
    assert made[2]["score"] == 0.9
    assert ended[:2] == ("PUT", "/api/events/f-7/end")
    assert ended[2]["end_time"] == 1796040010


def test_apprise_sends_words_and_the_snapshot(tmp_path: Path) -> None:
    pytest.importorskip("apprise")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "snapshot.jpg").write_bytes(b"\xff\xd8picture")
    with standing() as server:
        receiver = Apprise(address_of(server).replace("http", "json"), tmp_path)
        for line in (STARTED, ENDED, LOST):
            receiver.deliver(line)
        server.status = 500
        with pytest.raises(NotDelivered):
            receiver.deliver(LOST)
    messages = [content for _, _, content in server.received]
    assert [message["title"] for message in messages[:3]] == [
        "yard: violence",
        "yard: over",
        "yard: lost",
    ]
    (attached,) = messages[1]["attachments"]
    assert base64.b64decode(attached["base64"]) == b"\xff\xd8picture"
    with pytest.raises(UserError, match="Apprise"):
        Apprise("nothing", tmp_path)


@contextmanager
def broker(port: int, folder: Path) -> Iterator[None]:
    (folder / "mosquitto.conf").write_text(
        f"listener {port} 127.0.0.1\nallow_anonymous true\npersistence true\n"
        f"persistence_location {folder}/\nuser root\n"
    )
    command = ["mosquitto", "-c", str(folder / "mosquitto.conf")]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        wait_until(lambda: _listens(port))
        yield
        process.terminate()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.skipif(not shutil.which("mosquitto"), reason="mosquitto is not installed")
def test_home_assistant_finds_the_cameras_and_no_line_is_lost_with_the_broker(
    tmp_path: Path,
) -> None:
    mqtt = pytest.importorskip("paho.mqtt.client")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    found: list[tuple[str, str]] = []
    listener = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, "listener", clean_session=False)
    listener.on_connect = lambda client, *_: client.subscribe("#", qos=1)

    def take(_: object, __: object, message: Any) -> None:
        if not message.dup:  # the broker says that it has sent it before
            found.append((message.topic, message.payload.decode()))

    listener.on_message = take
    listener.reconnect_delay_set(1, 1)
    settings = [ReceiverSettings("mqtt", {"host": "127.0.0.1", "port": port})]
    with broker(port, tmp_path):
        listener.connect("127.0.0.1", port)
        listener.loop_start()
        receivers = Receivers(settings, ["yard"], tmp_path / "events")
        receivers.put(STARTED)
        wait_until(lambda: ("violence/yard/alarm", "ON") in found, 20)
    receivers.put(LOST)  # nobody listens
    with broker(port, tmp_path):
        receivers.put(ENDED)
        wait_until(lambda: ("violence/yard/alarm", "OFF") in found, 90)
        receivers.close(10.0)
        wait_until(lambda: found.count(("violence/status", "offline")) >= 1, 20)
    listener.loop_stop()
    lines = [json.loads(text) for topic, text in found if topic == "violence/yard/event"]
    kinds = [(line["kind"], line.get("state")) for line in lines]
    assert kinds == [("alarm", "started"), ("lost", None), ("alarm", "ended")]
    topic = "homeassistant/binary_sensor/violence_detection_yard/config"
    (sensor, *_) = [json.loads(text) for place, text in found if place == topic]
    assert sensor["state_topic"] == "violence/yard/alarm"
    assert sensor["unique_id"] == "violence_detection_yard"


def test_missing_broker_holds_up_nothing(tmp_path: Path) -> None:
    pytest.importorskip("paho.mqtt.client")
    receiver = Mqtt("127.0.0.1", ["yard"], port=9)
    with pytest.raises(NotDelivered, match="no connection"):
        receiver.deliver(STARTED)
    receiver.close()
