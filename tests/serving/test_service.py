import contextlib
import dataclasses
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.serving.detectors import ScriptedDetector, scripted
from tests.serving.http import FORM, LIMITS, form_of, part, problem_detail, ready, started
from tests.waiting import wait_until
from violence_detection.errors import RunError
from violence_detection.inference.detector import Detector
from violence_detection.serving.access import Access
from violence_detection.serving.service import Service

pytestmark = pytest.mark.usefixtures("uploads_removed")
TOKEN = "s3cret"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
ORIGIN = "https://elsewhere.example"
CROSS_SITE = {"Origin": ORIGIN, "Sec-Fetch-Site": "cross-site"}


@pytest.fixture(scope="module")
def strict_service(scripted_detector: ScriptedDetector, uploads: Path) -> Service:
    limits = dataclasses.replace(LIMITS, max_seconds=5, max_requests=2)
    return Service(scripted_detector, uploads, limits, Access(TOKEN, [ORIGIN]))


@pytest.fixture(scope="module")
def strict_client(strict_service: Service) -> Iterator[httpx.Client]:
    """Return a client of a server with a token, an allowed origin and tight limits."""
    with ready(strict_service) as client:
        yield client


@pytest.mark.parametrize("route", ["/predict", "/predict/timeline"])
def test_too_long_a_clip_is_refused(
    strict_client: httpx.Client, long_clip: Path, route: str
) -> None:
    response = strict_client.post(route, headers=BEARER, **form_of(long_clip.read_bytes()))
    assert "lasts 6 s, more than the 5 s allowed" in problem_detail(response, 413)


def test_busy_server_refuses_requests_until_a_slot_is_free(
    strict_service: Service, strict_client: httpx.Client, clip: bytes
) -> None:
    with strict_service.queue.slot(), strict_service.queue.slot():
        assert "2 of 2" in problem_detail(strict_client.get("/readyz"), 503)
        response = strict_client.post("/predict", headers=BEARER, **form_of(clip))
        assert "2 of 2 request slots" in problem_detail(response, 503)
        assert 1 <= int(response.headers["retry-after"]) <= 60
        assert strict_client.get("/healthz").status_code == 200
    assert strict_client.post("/predict", headers=BEARER, **form_of(clip)).status_code == 200
    assert strict_client.post("/predict", headers=BEARER | FORM, content=b"").status_code == 400
    wait_until(lambda: strict_service.queue.slots_taken == 0)


@pytest.mark.parametrize("given", [None, "Bearer s3cre", "s3cret", "Bearer é"])
def test_requests_without_the_token_are_refused(
    strict_client: httpx.Client, clip: bytes, given: str | None
) -> None:
    headers = {"Authorization": given.encode("latin-1")} if given else {}
    for response in (
        strict_client.post("/predict", headers=headers, **form_of(clip)),
        strict_client.get("/metrics", headers=headers),
    ):
        problem_detail(response, 401)
        assert response.headers["www-authenticate"] == "Bearer"


def test_token_opens_what_it_guards_and_the_rest_is_open(
    strict_client: httpx.Client, clip: bytes
) -> None:
    assert strict_client.post("/predict", headers=BEARER, **form_of(clip)).status_code == 200
    assert strict_client.get("/metrics", headers=BEARER).status_code == 200
    for open_to_all in ("/", "/healthz", "/readyz", "/openapi.json"):
        assert strict_client.get(open_to_all).status_code == 200


def test_where_other_machines_ask_the_status_needs_the_token(
    scripted_detector: ScriptedDetector, uploads: Path
) -> None:
    service = Service(scripted_detector, uploads, LIMITS, Access(TOKEN), guards_status=True)
    with started(service) as client:
        wait_until(lambda: client.get("/readyz", headers=BEARER).status_code == 200, 120)
        for route in ("/readyz", "/openapi.json", "/metrics"):
            problem_detail(client.get(route), 401)
            assert client.get(route, headers=BEARER).status_code == 200
        assert client.get("/healthz").status_code == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        *(("localhost", 200), ("LOCALHOST:80", 200), ("camera.lan", 200), ("10.0.0.7:8000", 200)),
        *(("[::1]:8000", 200), ("attacker.example", 421), ("localhost.attacker.example", 421)),
    ],
)
def test_server_answers_to_its_own_names_only(
    scripted_detector: ScriptedDetector, uploads: Path, host: str, status: int
) -> None:
    service = Service(scripted_detector, uploads, LIMITS, Access(hosts=["localhost", "camera.lan"]))
    with started(service) as client:
        assert client.get("/openapi.json", headers={"Host": host}).status_code == status
        # Whatever probes the server may not know its name.
        assert client.get("/healthz", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    ("origin", "refused"),
    [
        ("http://attacker.example", True),
        ("null", True),
        ("http://camera.lan", False),
        (None, False),
    ],
)
def test_pages_without_https_are_told_by_their_origin(
    client: httpx.Client, clip: bytes, origin: str | None, refused: bool
) -> None:
    """Browsers send `Sec-Fetch-Site` only from where they have come by https."""
    headers = {"Host": "camera.lan"} | ({"Origin": origin} if origin else {})
    response = client.post("/predict", headers=headers, **form_of(clip))
    assert response.status_code == (403 if refused else 200)


@pytest.mark.parametrize("route", ["/", "/healthz", "/readyz", "/openapi.json", "/metrics"])
def test_head_is_the_answer_without_its_body(client: httpx.Client, route: str) -> None:
    head, whole = client.head(route), client.get(route)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == whole.headers["content-type"]


@pytest.mark.parametrize(
    ("limit", "words"),
    [
        ({"max_windows": 3}, ["windows", "more than the 3 allowed", "larger stride"]),
        ({"max_samples": 9}, ["samples", "more than the 9 allowed", "--max-samples"]),
        ({"max_frames": 9}, ["24 frames", "more than the 9 allowed", "shorter video"]),
    ],
)
def test_video_that_would_take_too_much_work_is_refused(
    scripted_detector: ScriptedDetector,
    uploads: Path,
    clip: bytes,
    limit: dict[str, int],
    words: list[str],
) -> None:
    limits = dataclasses.replace(LIMITS, **limit)
    with ready(Service(scripted_detector, uploads, limits)) as client:
        route = "/predict/timeline?window=0.5&stride=0.1"
        detail = problem_detail(client.post(route, **form_of(clip)), 422)
        assert all(word in detail for word in words), detail


def test_drip_is_refused_and_holds_up_nobody(
    scripted_detector: ScriptedDetector, uploads: Path, clip: bytes
) -> None:
    """Two uploads at once, one per client, one slot: one that drips leaves the slot free."""
    limits = dataclasses.replace(
        LIMITS, max_requests=1, max_uploads=4, least_rate=1e6, grace=1.0, stall_timeout=30
    )

    head = f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: {FORM['Content-Type']}\r\n"
    service = Service(scripted_detector, uploads, limits)
    with ready(service) as client:
        address = client.base_url.host, client.base_url.port
        with socket.create_connection(address, timeout=0.2) as dripping:
            dripping.sendall(f"{head}Content-Length: 1000000\r\n\r\n".encode())
            dripping.sendall(part("video", clip)[:600])
            wait_until(lambda: service.pending == 1)
            assert client.post("/predict", **form_of(clip)).status_code == 200
            answer = b""
            for _ in range(100):
                with contextlib.suppress(TimeoutError):
                    answer = dripping.recv(1000)
                    break
                dripping.sendall(b"x")
            assert answer.startswith(b"HTTP/1.1 408")


def test_pages_on_other_sites_are_refused(client: httpx.Client, clip: bytes) -> None:
    response = client.post("/predict", headers=CROSS_SITE, **form_of(clip))
    assert "--cors" in problem_detail(response, 403)
    assert "access-control-allow-origin" not in response.headers
    assert client.options("/predict", headers=CROSS_SITE).status_code == 405
    own_page = {"Origin": "http://localhost", "Sec-Fetch-Site": "same-origin"}
    assert client.post("/predict", headers=own_page, **form_of(clip)).status_code == 200


def test_pages_on_allowed_sites_are_served(strict_client: httpx.Client, clip: bytes) -> None:
    response = strict_client.post("/predict", headers=CROSS_SITE | BEARER, **form_of(clip))
    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == ORIGIN
    other = CROSS_SITE | BEARER | {"Origin": "https://third.example"}
    problem_detail(strict_client.post("/predict", headers=other, **form_of(clip)), 403)
    preflight = CROSS_SITE | {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization",
    }
    assert strict_client.options("/predict", headers=preflight).status_code == 200


def test_failed_prediction_is_an_internal_error_and_the_next_one_succeeds(
    strict_client: httpx.Client,
    scripted_detector: ScriptedDetector,
    clip: bytes,
    caplog: pytest.LogCaptureFixture,
) -> None:
    scripted_detector.failures.append(MemoryError("no memory left on /device:GPU:0"))
    response = strict_client.post("/predict", headers=BEARER, **form_of(clip))
    assert "server's log" in problem_detail(response, 500)
    assert "no memory left" in caplog.text
    assert strict_client.post("/predict", headers=BEARER, **form_of(clip)).status_code == 200


def test_server_that_shuts_down_refuses_new_requests(
    service: Service, client: httpx.Client, clip: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "draining", True)
    for response in (client.get("/readyz"), client.post("/predict", **form_of(clip))):
        assert "shutting down" in problem_detail(response, 503)
        assert "retry-after" in response.headers
    assert client.get("/healthz").json()["status"] == "alive"


def test_server_is_not_ready_while_the_model_loads_nor_if_it_fails(
    detector: Detector, uploads: Path, clip: bytes
) -> None:
    loading = scripted(detector)
    loading.released.clear()
    loading.failures.append(RunError("the weights cannot be loaded"))
    with started(Service(loading, uploads, LIMITS)) as client:
        for response in (client.get("/readyz"), client.post("/predict", content=b"")):
            assert "starting up" in problem_detail(response, 503)
        loading.released.set()
        wait_until(lambda: "could not be loaded" in client.get("/readyz").text)
        problem_detail(client.post("/predict", **form_of(clip)), 503)
        assert client.get("/healthz").status_code == 200


def test_readiness_has_model_and_warning(client: httpx.Client, detector: Detector) -> None:
    readiness = client.get("/readyz").json()
    assert readiness["model"] == detector.name
    assert readiness["threshold"] == detector.threshold
    assert "random weights" in readiness["warning"].lower()
