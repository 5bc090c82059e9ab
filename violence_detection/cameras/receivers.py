"""Where alarms go: MQTT with Home Assistant's discovery, web addresses, Apprise, Frigate."""

import contextlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote, urlsplit

import requests

from violence_detection.cameras.outbox import Line, NotDelivered, Outbox, Refused
from violence_detection.errors import UserError
from violence_detection.storage.files import read_json, write_json

TIMEOUT = 10.0  # seconds for an answer
RETRIED = (401, 403, 404, 408, 425, 429)  # statuses that may change, beside those of 500 and above
OUTBOX = ".outbox"
DEVICE = "violence_detection"


@dataclass(frozen=True)
class ReceiverSettings:
    """A `[[receiver]]` of the file."""

    kind: str  # mqtt, webhook, apprise or frigate
    values: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What it is called in logs and in a folder's name: without user, password and path."""
        address = self.values.get("url") or self.values.get("host", "")
        host = urlsplit(address).hostname if "://" in address else address
        return f"{self.kind} {host or ''}".strip()


class Receiver(Protocol):
    """Takes lines."""

    def deliver(self, line: Line) -> None:
        """Send a line; raises `NotDelivered` or `Refused`."""

    def close(self) -> None:
        """Close the connection."""


class Webhook:
    """Posts each line to a web address.

    Args:
        url: http or https.
    """

    def __init__(self, url: str):
        self._url = url

    def deliver(self, line: Line) -> None:
        """Post a line."""
        _request("POST", self._url, dict(line))

    def close(self) -> None:
        """Nothing is open."""


class Frigate:
    """Makes an event of each alarm by Frigate's API, and ends it.

    Args:
        url: of Frigate, such as http://frigate:5000.
        folder: where the events' identifiers are kept until they end.
    """

    def __init__(self, url: str, folder: Path):
        self._url = url.rstrip("/")
        self._known = folder / "frigate.json"

    def deliver(self, line: Line) -> None:
        """Make an event, or end it."""
        if line["kind"] != "alarm":
            return
        known = read_json(self._known) if self._known.exists() else {}
        if line["state"] == "started":
            address = f"{self._url}/api/events/{quote(line['camera'])}/violence/create"
            facts = {"score": line["probability"], "duration": None, "include_recording": True}
            answer = _request("POST", address, facts)
            known[line["event"]] = answer.json()["event_id"]
        elif line["event"] in known:
            ended = datetime.fromisoformat(line["end"]).timestamp()
            address = f"{self._url}/api/events/{known.pop(line['event'])}/end"
            _request("PUT", address, {"end_time": ended})
        write_json(self._known, known)

    def close(self) -> None:
        """Nothing is open."""


class Apprise:
    """Mail, Telegram and the like, by Apprise; an alarm that is over has its snapshot with it.

    Args:
        url: as Apprise has them, such as tgram://token/chat.
        events: folder that snapshots are relative to.
    """

    def __init__(self, url: str, events: Path):
        import apprise

        self._events = events
        self._apprise = apprise.Apprise()
        if not self._apprise.add(url):
            raise UserError("[[receiver]] apprise: url is none that Apprise knows")

    def deliver(self, line: Line) -> None:
        """Send a message."""
        title, body = _in_words(line)
        snapshot = line.get("snapshot")
        attached = [str(self._events / snapshot)] if snapshot else None
        if not self._apprise.notify(body=body, title=title, attach=attached):
            raise NotDelivered("Apprise reports a failure")

    def close(self) -> None:
        """Nothing is open."""


def _in_words(line: Line) -> tuple[str, str]:
    camera = line["camera"]
    if line["kind"] != "alarm":
        return f"{camera}: {line['kind']}", f"{line['time']} {line.get('reason', '')}".strip()
    if line["state"] == "started":
        return f"{camera}: violence", f"since {line['start']}, probability {line['probability']}"
    clip = f", clip {line['clip']}" if line.get("clip") else ""
    return f"{camera}: over", f"{line['start']} to {line['end']}{clip}"


class Mqtt:
    """Publishes lines by MQTT; Home Assistant finds a safety sensor for each camera.

    Args:
        host, port: of the broker.
        cameras: their names.
        user, password: for the broker; empty: none.
        tls: encrypt the connection.
        topic: that all topics begin with.
        discovery: the prefix of Home Assistant's discovery; empty: none.
    """

    def __init__(
        self,
        host: str,
        cameras: Sequence[str],
        port: int = 1883,
        user: str = "",
        password: str = "",
        tls: bool = False,
        topic: str = "violence",
        discovery: str = "homeassistant",
    ):
        from paho.mqtt import client as mqtt

        self._topic, self._discovery, self._cameras = topic, discovery, tuple(cameras)
        self._sent: list[Any] = []  # of the line that is being delivered, confirmed or not
        self._client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
        if user:
            self._client.username_pw_set(user, password)
        if tls:
            self._client.tls_set()
        self._client.will_set(f"{topic}/status", "offline", qos=1, retain=True)
        self._client.on_connect = self._introduce
        self._client.connect_async(host, port, keepalive=30)
        self._client.loop_start()

    def _introduce(self, client: Any, *_: Any) -> None:
        client.publish(f"{self._topic}/status", "online", qos=1, retain=True)
        for camera in self._cameras if self._discovery else ():
            name = "".join(c if c.isalnum() else "_" for c in camera)
            facts = {
                "name": camera,
                "unique_id": f"{DEVICE}_{name}",
                "state_topic": f"{self._topic}/{camera}/alarm",
                "json_attributes_topic": f"{self._topic}/{camera}/event",
                "availability_topic": f"{self._topic}/status",
                "device_class": "safety",
                "device": {"identifiers": [DEVICE], "name": "Violence detector"},
            }
            place = f"{self._discovery}/binary_sensor/{DEVICE}_{name}/config"
            client.publish(place, json.dumps(facts), qos=1, retain=True)

    def deliver(self, line: Line) -> None:
        """Publish a line, and the sensor's state; returns when the broker has confirmed them."""
        if not self._client.is_connected():
            raise NotDelivered("no connection to the broker")
        if not self._sent:  # else they are sent again by the client itself
            self._sent = self._publish(line)
        for sent in self._sent:
            with contextlib.suppress(RuntimeError, ValueError):
                sent.wait_for_publish(TIMEOUT)
            if not sent.is_published():
                raise NotDelivered("the broker does not confirm")
        self._sent = []

    def _publish(self, line: Line) -> list[Any]:
        messages = [(f"{self._topic}/{line['camera']}/event", json.dumps(dict(line)), False)]
        if line["kind"] == "alarm":
            state = "ON" if line["state"] == "started" else "OFF"
            messages.append((f"{self._topic}/{line['camera']}/alarm", state, True))
        return [
            self._client.publish(topic, payload, qos=1, retain=retain)
            for topic, payload, retain in messages
        ]

    def close(self) -> None:
        """Say good-bye to the broker."""
        with contextlib.suppress(RuntimeError, ValueError):
            goodbye = self._client.publish(f"{self._topic}/status", "offline", qos=1, retain=True)
            goodbye.wait_for_publish(1.0)
        self._client.disconnect()
        self._client.loop_stop()


def _request(method: str, url: str, facts: Any) -> requests.Response:
    try:
        answer = requests.request(method, url, json=facts, timeout=TIMEOUT, allow_redirects=False)
    except requests.RequestException as error:
        raise NotDelivered(type(error).__name__) from error  # its text may contain the address
    if answer.status_code < 300:
        return answer
    reason = f"HTTP status {answer.status_code}"
    if answer.status_code >= 500 or answer.status_code in RETRIED:
        raise NotDelivered(reason)
    raise Refused(reason)


def open_receiver(
    settings: ReceiverSettings, cameras: Sequence[str], events: Path, folder: Path
) -> Receiver:
    """Return a receiver, connected or not.

    Args:
        settings: of the file.
        cameras: their names.
        events: folder of the events.
        folder: of what the receiver keeps.

    Raises:
        UserError: its library is not installed; Apprise does not know its address.
    """
    values = settings.values
    makers: dict[str, Callable[[], Receiver]] = {
        "mqtt": lambda: Mqtt(cameras=cameras, **values),
        "webhook": lambda: Webhook(**values),
        "apprise": lambda: Apprise(events=events, **values),
        "frigate": lambda: Frigate(folder=folder, **values),
    }
    try:
        return makers[settings.kind]()
    except ImportError as error:
        raise UserError(
            f"[[receiver]] {settings.kind} needs the package {error.name}: pip install -r "
            "requirements-deploy.txt"
        ) from error


class Receivers:
    """All receivers of a file, each with its outbox.

    Args:
        settings: of the receivers.
        cameras: their names.
        events: folder of the events; what is not delivered waits in it.
    """

    def __init__(self, settings: Sequence[ReceiverSettings], cameras: Sequence[str], events: Path):
        self._open: list[tuple[Receiver, Outbox]] = []
        for number, each in enumerate(settings, start=1):
            folder = events / OUTBOX / f"{number}-{each.name}".replace("/", "_")
            folder.mkdir(parents=True, exist_ok=True)
            receiver = open_receiver(each, cameras, events, folder)
            self._open.append((receiver, Outbox(each.name, folder, receiver.deliver)))

    def put(self, line: Line) -> None:
        """Send a line to all."""
        for _, outbox in self._open:
            outbox.put(line)

    def close(self, patience: float) -> None:
        """Stop; what is not delivered after so many seconds waits for the next start."""
        for receiver, outbox in self._open:
            outbox.close(patience)
            receiver.close()
