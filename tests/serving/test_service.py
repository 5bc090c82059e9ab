import dataclasses
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.serving.detectors import ScriptedDetector, scripted
from tests.serving.http import FORM, LIMITS, form_of, problem_detail, ready, started
from tests.waiting import wait_until
from violence_detection.errors import RunError
from violence_detection.inference.detector import Detector
from violence_detection.serving.service import Service

pytestmark = pytest.mark.usefixtures("uploads_removed")
TOKEN = "s3cret"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
ORIGIN = "https://elsewhere.example"
CROSS_SITE = {"Origin": ORIGIN, "Sec-Fetch-Site": "cross-site"}


@pytest.fixture(scope="module")
def strict_service(scripted_detector: ScriptedDetector, uploads: Path) -> Service:
    limits = dataclasses.replace(LIMITS, max_seconds=5, max_requests=2)
    return Service(scripted_detector, uploads, limits, TOKEN, [ORIGIN])


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
    assert client.get("/healthz").json() == {"status": "alive"}


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
