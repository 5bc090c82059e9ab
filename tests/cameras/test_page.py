from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.cameras.kept import keep_event
from violence_detection.cameras.page import shown
from violence_detection.cameras.settings import Camera, PageSettings, WatchSettings
from violence_detection.cameras.watcher import Watcher
from violence_detection.errors import UserError
from violence_detection.inference.detector import Detector
from violence_detection.inference.live_source import parse_source

TOKEN = "s3cret"
ROUTES = (
    ("GET", "/api/cameras"),
    ("GET", "/api/cameras/yard/picture"),
    ("POST", "/api/cameras/yard/missed"),
    ("GET", "/api/events"),
    ("GET", "/api/events/a/b/clip"),
    ("POST", "/api/label"),
    ("GET", "/feedback.csv"),
)


@pytest.fixture
def watcher(detector: Detector, tmp_path: Path) -> Watcher:
    camera = Camera("yard", parse_source("rtsp://camera/1"))
    settings = WatchSettings((camera,), events=tmp_path / "events")
    return Watcher(detector, settings, lambda line: None)


@pytest.fixture
def client(watcher: Watcher) -> Iterator[httpx.Client]:
    settings = PageSettings(port=0, token=TOKEN, allowed_hosts=("cameras.lan",))
    with shown(watcher, settings) as address, httpx.Client(base_url=address) as client:
        yield client


@pytest.fixture
def own(client: httpx.Client) -> httpx.Client:
    """Return a client that has given the token."""
    assert client.post("/login", json={"token": TOKEN}).status_code == 204
    return client


def detail_of(answer: httpx.Response) -> str:
    assert answer.headers["content-type"] == "application/problem+json"
    return str(answer.json()["detail"])


@pytest.mark.parametrize(("method", "route"), ROUTES)
def test_who_has_no_token_gets_nothing(client: httpx.Client, method: str, route: str) -> None:
    body: dict[str, Any] = {} if method == "GET" else {"json": {}}
    assert client.request(method, route, **body).status_code == 401
    wrong = client.request(method, route, headers={"Cookie": f"cameras={TOKEN}"}, **body)
    assert wrong.status_code == 401
    headers = {"Authorization": f"Bearer {TOKEN}"}
    assert client.request(method, route, headers=headers, **body).status_code != 401
    assert client.get("/healthz").status_code == 200
    assert client.get("/").status_code == 200


def test_token_is_changed_for_a_cookie_that_scripts_cannot_read(client: httpx.Client) -> None:
    assert client.post("/login", json={"token": "wrong"}).status_code == 401
    answer = client.post("/login", json={"token": TOKEN})
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert TOKEN not in cookie
    assert client.get("/api/cameras").status_code == 200


def test_pages_of_others_and_other_names_are_refused(own: httpx.Client) -> None:
    assert own.get("/api/cameras", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
    assert own.get("/api/cameras", headers={"Host": "evil.example"}).status_code == 421
    assert own.get("/api/cameras", headers={"Host": "cameras.lan"}).status_code == 200


def test_long_body_is_refused_before_it_is_read(own: httpx.Client) -> None:
    assert own.post("/api/label", content=bytes(20_000)).status_code == 413
    assert own.post("/api/label", content=iter([b"{}"])).status_code == 413


def test_events_have_clips_and_labels(
    own: httpx.Client, watcher: Watcher, drawn_clips: Path
) -> None:
    clip = drawn_clips / "test" / "violent" / "violent0.mp4"
    facts = [keep_event(watcher.store, "yard", clip, age) for age in (180, 120, 60)]
    events = own.get("/api/events?count=2").json()
    assert [event["event"] for event in events] == [facts[2]["event"], facts[1]["event"]]
    older = own.get("/api/events", params={"before": events[-1]["folder"]}).json()
    assert [event["event"] for event in older] == [facts[0]["event"]]
    part = own.get(f"/api/events/{events[0]['folder']}/clip", headers={"Range": "bytes=4-7"})
    assert (part.status_code, part.content) == (206, b"ftyp")
    assert own.get(f"/api/events/{events[0]['folder']}/snapshot").status_code == 404

    assert own.get("/feedback.csv").status_code == 404
    label = {"folder": events[0]["folder"], "label": "nonviolent"}
    assert own.post("/api/label", json=label).json()["label"] == "nonviolent"
    assert own.get("/api/events").json()[0]["label"] == "nonviolent"
    assert "nonviolent,,yard" in own.get("/feedback.csv").text
    assert own.post("/api/label", json={**label, "label": "odd"}).status_code == 422


@pytest.mark.parametrize(
    "folder", ["../..", "2026-01-01/120000-yard", "/etc/passwd", "", ".recent/yard", "%2e%2e/x"]
)
def test_only_events_can_be_asked_for(own: httpx.Client, folder: str) -> None:
    assert own.get(f"/api/events/{folder}/clip").status_code == 404
    answer = own.post("/api/label", json={"folder": folder, "label": "violent"})
    assert answer.status_code == 404


def test_unknown_camera_and_taken_port_are_named(own: httpx.Client, watcher: Watcher) -> None:
    answer = own.post("/api/cameras/barn/missed", json={"start": 0, "end": 1})
    assert (answer.status_code, detail_of(answer)) == (404, "no such camera")
    port = own.base_url.port
    with (
        pytest.raises(UserError, match=f"port {port}"),
        shown(watcher, PageSettings(port=port or 0)),
    ):
        pass
