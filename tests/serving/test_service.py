import base64
import csv
import dataclasses
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import pytest
import uvicorn
from prometheus_client.parser import text_string_to_metric_families

from violence_detection.inference.detector import Detector, load_detector
from violence_detection.inference.windows import predict_timeline, window_sampling
from violence_detection.serving.service import Limits, Service, make_app

LIMITS = Limits(max_upload=2**20, max_seconds=60, places=16, clip_timeout=60)
BOUNDARY = "a-boundary"
FORM = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
MP4_HEAD = b"\0\0\0\x20ftypisom" + bytes(20)


@pytest.fixture(scope="session")
def detector(trained: Path) -> Detector:
    return load_detector(trained / "run")


@contextmanager
def asked(service: Service) -> Iterator[httpx.Client]:
    """Serve until the end of the block, on a port of this machine; give who asks there."""
    with served(service) as client:
        wait_until(lambda: client.get("/readyz").status_code == 200)
        yield client


@contextmanager
def served(service: Service) -> Iterator[httpx.Client]:
    """The same, but ready or not."""
    config = uvicorn.Config(
        make_app(service), port=0, log_config=None, access_log=False, server_header=False, ws="none"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_until(lambda: server.started)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join()


def wait_until(is_so: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture(scope="module")
def uploads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("uploads")


@pytest.fixture(scope="module")
def service(detector: Detector, uploads: Path) -> Service:
    return Service(detector, uploads, LIMITS)


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[httpx.Client]:
    with asked(service) as client:
        yield client


@pytest.fixture(autouse=True)
def nothing_left(uploads: Path) -> Iterator[None]:
    yield
    wait_until(lambda: list(uploads.iterdir()) == [], 10)  # the answer comes first


@pytest.fixture(scope="module")
def long_clip(tmp_path_factory: pytest.TempPathFactory, drawn_clips: Path) -> Path:
    return join_clips(drawn_clips, tmp_path_factory.mktemp("long") / "long.mp4")


def join_clips(drawn_clips: Path, path: Path) -> Path:
    """Write a clip of 6 s: three drawn ones, one after the other, the second of them violent."""
    writer = None
    for name in ("nonviolent/nonviolent0", "violent/violent0", "nonviolent/nonviolent1"):
        clip = cv2.VideoCapture(str(drawn_clips / "test" / f"{name}.mp4"))
        while (image := clip.read()[1]) is not None:
            size = image.shape[1], image.shape[0]
            code = cv2.VideoWriter.fourcc(*"mp4v")
            writer = writer or cv2.VideoWriter(str(path), code, 12, size)
            writer.write(image)
    assert writer is not None
    writer.release()
    return path


def form_of(clip: bytes, name: str = "clip.mp4") -> dict[str, Any]:
    return {"files": {"video": (name, clip)}}


def predictions(trained: Path) -> list[dict[str, str]]:
    with (trained / "run" / "predictions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def assert_problem(response: httpx.Response, status: int) -> str:
    """Return the detail of an answer that tells a problem, and nothing that it must not tell."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    told = response.json()
    assert told.keys() == {"type", "title", "status", "detail"}
    assert told["status"] == status
    for inside in ("/", ".py", "Traceback", "line "):
        assert inside not in told["detail"].replace("multipart/form-data", "")
    return told["detail"]


def test_clips_are_judged_as_in_the_runs_own_test(
    client: httpx.Client, detector: Detector, trained: Path, drawn_clips: Path
) -> None:
    rows = predictions(trained)
    paths = [drawn_clips / row["clip"] for row in rows]
    for path, row, own in zip(paths, rows, detector.predict_clips(paths), strict=True):
        response = client.post("/predict", **form_of(path.read_bytes(), name="../../etc/passwd"))
        assert response.status_code == 200
        answer = response.json()
        assert answer["probability"] == pytest.approx(float(row["probability"]), abs=2e-6)
        assert answer["probability"] == pytest.approx(own.probability, abs=1e-5)
        assert answer["violent"] == (row["verdict"] == "violent")
        assert answer["threshold"] == detector.threshold
        assert [frame["time"] for frame in answer["frames"]] == pytest.approx(own.times)
        assert [f["attention"] for f in answer["frames"]] == pytest.approx(own.attention, abs=1e-5)
        assert all(frame.keys() == {"time", "attention"} for frame in answer["frames"])
        assert answer["model"] == detector.name
        assert "RANDOM WEIGHTS" in answer["warning"]
        assert 0 < answer["seconds"] < 60


def test_frames_come_with_pictures_if_they_are_asked_for(
    client: httpx.Client, drawn_clips: Path
) -> None:
    clip = drawn_clips / "test" / "violent" / "violent0.mp4"
    response = client.post("/predict?images=true", **form_of(clip.read_bytes()))
    shape = cv2.VideoCapture(str(clip)).read()[1].shape
    for frame in response.json()["frames"]:
        kind, data = frame["image"].split(",")
        assert kind == "data:image/jpeg;base64"
        picture = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)
        assert picture.shape[1] / picture.shape[0] == pytest.approx(shape[1] / shape[0], rel=0.02)


def test_timeline_is_that_of_the_command_line(
    client: httpx.Client, detector: Detector, long_clip: Path
) -> None:
    response = client.post("/predict/timeline?stride=0.5", **form_of(long_clip.read_bytes()))
    assert response.headers["content-type"] == "application/x-ndjson"
    *lines, last = [json.loads(line) for line in response.text.splitlines()]
    result = last["result"]
    own = predict_timeline(detector, long_clip, window_sampling(detector, 2.0, 0.5))
    assert own.error is None
    for told, expected in ((result["windows"], own.windows), (result["events"], own.events)):
        assert len(told) == len(expected) > 0
        for one, other in zip(told, expected, strict=True):
            assert one == pytest.approx(other._asdict(), abs=1e-5)
    assert [window for line in lines for window in line["windows"]] == result["windows"]
    shares = [line["progress"] for line in lines]
    assert shares == sorted(shares)
    assert len(set(shares)) > 2
    assert result["violent"]
    assert result["duration"] == pytest.approx(6.0)


def test_timeline_of_a_short_clip_is_one_window(client: httpx.Client, drawn_clips: Path) -> None:
    clip = form_of((drawn_clips / "test" / "violent" / "violent0.mp4").read_bytes())
    whole = client.post("/predict", **clip).json()
    lines = client.post("/predict/timeline?window=5", **clip).text.splitlines()
    result = json.loads(lines[-1])["result"]
    assert [w["probability"] for w in result["windows"]] == [pytest.approx(whole["probability"])]


def part(name: str, content: bytes) -> bytes:
    head = (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"; filename="a.mp4"\r\n\r\n'
    )
    return head.encode() + content + b"\r\n"


END = f"--{BOUNDARY}--\r\n".encode()


@pytest.mark.parametrize("route", ["/predict", "/predict/timeline"])
@pytest.mark.parametrize(
    ("status", "body", "headers", "told"),
    [
        (415, b"hello", {"Content-Type": "text/plain"}, "multipart"),
        (415, b"hello", {}, "multipart"),
        (400, b"hello", {"Content-Type": "multipart/form-data"}, "boundary"),
        (400, b"hello", {"Content-Type": "multipart/form-data; boundary="}, "boundary"),
        (400, b"hello", {"Content-Type": f"multipart/form-data; boundary={'a' * 999}"}, "valid"),
        (400, b"hello", FORM, "valid"),
        (400, b"", FORM, "before its last boundary"),
        (400, part("video", MP4_HEAD), FORM, "before its last boundary"),
        (400, f"--{BOUNDARY}\r\n{'a' * 5000}".encode(), FORM, "valid"),
        (400, f"--{BOUNDARY}\r\nbad header\r\n\r\n".encode() + END, FORM, "valid"),
        (422, END, FORM, "no part"),
        (422, part("other", MP4_HEAD) + END, FORM, "no part"),
        (422, part("video", b"") + END, FORM, "no part"),
        (422, part("video", MP4_HEAD) * 2 + END, FORM, "several"),
        (415, part("video", b"hello") + END, FORM, "no video file"),
        (415, part("video", b"hello" * 999) + END, FORM, "no video file"),
        (415, part("video", b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd") + END, FORM, "no video"),
        (415, part("video", b"ffconcat version 1.0\nfile clip.mp4") + END, FORM, "no video file"),
        (422, part("video", MP4_HEAD) + END, FORM, "cannot be judged: not a video"),
        (413, part("video", MP4_HEAD + bytes(2**20)) + END, FORM, "larger than the 1 MB"),
        (413, part("other", bytes(100_000)) + part("video", MP4_HEAD) + END, FORM, "too much"),
    ],
)
def test_what_is_no_clip_is_refused_with_its_reason(
    client: httpx.Client, route: str, status: int, body: bytes, headers: dict[str, str], told: str
) -> None:
    for content in (body, iter([body[:40], body[40:]])):  # with its length, and without
        assert told in assert_problem(client.post(route, content=content, headers=headers), status)


def test_length_that_is_told_is_refused_before_it_comes(client: httpx.Client) -> None:
    with socket.create_connection((client.base_url.host, client.base_url.port)) as connection:
        head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: {FORM['Content-Type']}\r\n"
        connection.sendall(f"{head}Content-Length: {10**12}\r\n\r\n--".encode())
        answer = connection.recv(10_000)
    assert b"413 Request Entity Too Large" in answer or b"413 Content Too Large" in answer


@pytest.mark.parametrize("query", ["images=perhaps", "images=", "images=true&images=2"])
def test_wrong_parameters_of_a_clip(client: httpx.Client, drawn_clips: Path, query: str) -> None:
    clip = (drawn_clips / "test" / "violent" / "violent0.mp4").read_bytes()
    assert "images" in assert_problem(client.post(f"/predict?{query}", **form_of(clip)), 422)


@pytest.mark.parametrize(
    "query", ["window=0", "window=nan", "window=1e9", "stride=0", "stride=-1", "stride=3", "window"]
)
def test_wrong_parameters_of_a_timeline(client: httpx.Client, long_clip: Path, query: str) -> None:
    response = client.post(f"/predict/timeline?{query}", **form_of(long_clip.read_bytes()))
    assert query.split("=")[0] in assert_problem(response, 422)


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/x", 404), ("GET", "/predict", 405)]
)
def test_what_is_not_there_is_a_problem(
    client: httpx.Client, method: str, path: str, status: int
) -> None:
    assert_problem(client.request(method, path), status)


def test_clip_that_lasts_too_long_is_refused(
    detector: Detector, uploads: Path, long_clip: Path
) -> None:
    limits = dataclasses.replace(LIMITS, max_seconds=5)
    with asked(Service(detector, uploads, limits)) as client:
        for route in ("/predict", "/predict/timeline"):
            response = client.post(route, **form_of(long_clip.read_bytes()))
            assert "lasts 6 s, more than the 5 s" in assert_problem(response, 413)


def test_when_all_places_are_taken_requests_are_told_to_come_back(
    detector: Detector, uploads: Path, drawn_clips: Path
) -> None:
    clip = form_of((drawn_clips / "test" / "violent" / "violent0.mp4").read_bytes())
    service = Service(detector, uploads, dataclasses.replace(LIMITS, places=2))
    with asked(service) as client:
        with service.queue.place(), service.queue.place():
            response = client.post("/predict", **clip)
            assert "all 2 places are taken" in assert_problem(response, 503)
            assert 1 <= int(response.headers["retry-after"]) <= 60
            assert client.get("/healthz").status_code == 200
        assert client.post("/predict", **clip).status_code == 200
        assert client.post("/predict", content=b"", headers=FORM).status_code == 400
        wait_until(lambda: service.queue.taken == 0)


def test_server_that_ends_takes_nothing_more(
    detector: Detector, uploads: Path, drawn_clips: Path
) -> None:
    clip = form_of((drawn_clips / "test" / "violent" / "violent0.mp4").read_bytes())
    service = Service(detector, uploads, LIMITS)
    with asked(service) as client:
        service.draining = True
        for response in (client.get("/readyz"), client.post("/predict", **clip)):
            assert "about to end" in assert_problem(response, 503)
            assert "retry-after" in response.headers
        assert client.get("/healthz").json() == {"status": "alive"}


def test_server_is_not_ready_before_its_networks_are(detector: Detector, uploads: Path) -> None:
    service = Service(detector, uploads, LIMITS)
    busy = threading.Event()
    service.queue._network.submit(busy.wait, 30)  # as if the first pass took long
    with served(service) as client:
        assert "warmed up" in assert_problem(client.get("/readyz"), 503)
        assert "warmed up" in assert_problem(client.post("/predict", content=b""), 503)
        busy.set()
        wait_until(lambda: client.get("/readyz").status_code == 200)
        assert client.get("/readyz").json()["model"] == detector.name
        assert "RANDOM WEIGHTS" in client.get("/readyz").json()["warning"]


def test_only_who_has_the_token_may_ask(
    detector: Detector, uploads: Path, drawn_clips: Path
) -> None:
    clip = form_of((drawn_clips / "test" / "violent" / "violent0.mp4").read_bytes())
    with asked(Service(detector, uploads, LIMITS, token="s3cret")) as client:
        for header in ({}, *({"Authorization": a} for a in ("Bearer s3cre", "s3cret", "Bearer é"))):
            for method, route in (("POST", "/predict"), ("GET", "/metrics")):
                sent = clip if method == "POST" else {}
                encoded = {name: value.encode("latin-1") for name, value in header.items()}
                response = client.request(method, route, headers=encoded, **sent)
                assert_problem(response, 401)
                assert response.headers["www-authenticate"] == "Bearer"
        bearing = {"Authorization": "Bearer s3cret"}
        assert client.post("/predict", headers=bearing, **clip).status_code == 200
        assert client.get("/metrics", headers=bearing).status_code == 200
        for open_to_all in ("/", "/healthz", "/readyz", "/openapi.json"):
            assert client.get(open_to_all).status_code == 200


ELSEWHERE = {"Origin": "https://elsewhere.example", "Sec-Fetch-Site": "cross-site"}


def test_pages_of_other_sites_may_ask_only_if_they_are_named(
    client: httpx.Client, detector: Detector, uploads: Path, drawn_clips: Path
) -> None:
    clip = form_of((drawn_clips / "test" / "violent" / "violent0.mp4").read_bytes())
    response = client.post("/predict", headers=ELSEWHERE, **clip)
    assert "other sites" in assert_problem(response, 403)
    assert "access-control-allow-origin" not in response.headers
    assert client.options("/predict", headers=ELSEWHERE).status_code == 405
    own_page = {"Origin": "http://localhost", "Sec-Fetch-Site": "same-origin"}
    assert client.post("/predict", headers=own_page, **clip).status_code == 200
    named = Service(detector, uploads, LIMITS, origins=["https://elsewhere.example"])
    with asked(named) as client:
        response = client.post("/predict", headers=ELSEWHERE, **clip)
        assert response.status_code == 200
        assert response.headers["access-control-allow-origin"] == "https://elsewhere.example"
        other = ELSEWHERE | {"Origin": "https://third.example"}
        assert_problem(client.post("/predict", headers=other, **clip), 403)
        before = ELSEWHERE | {
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization",
        }
        assert client.options("/predict", headers=before).status_code == 200


def test_every_answer_has_the_headers_that_a_browser_goes_by(client: httpx.Client) -> None:
    for route in ("/", "/page.js", "/healthz", "/metrics", "/openapi.json", "/nothing"):
        headers = client.get(route).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cache-control"] == "no-store"
        assert "server" not in headers


def test_fault_of_the_service_is_told_without_what_is_inside(
    detector: Detector, uploads: Path, drawn_clips: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clip = form_of((drawn_clips / "test" / "violent" / "violent0.mp4").read_bytes())
    # As features of another layer would do.
    broken = dataclasses.replace(detector, frames=3)
    with served(Service(broken, uploads, LIMITS)) as client:
        wait_until(lambda: "not there" in client.get("/readyz").text)
        assert_problem(client.post("/predict", **clip), 503)
        assert client.get("/healthz").status_code == 200
    service = Service(detector, uploads, LIMITS)
    with asked(service) as client:
        service.uploads = uploads / "gone" / "away"
        assert_problem(client.post("/predict", **clip), 503)
        service.uploads, service.limits = uploads, None  # type: ignore[assignment]
        assert "in its log" in assert_problem(client.post("/predict", **clip), 500)
        assert "AttributeError" in caplog.text
        service.limits = LIMITS
        assert client.post("/predict", **clip).status_code == 200


def figures(client: httpx.Client) -> dict[str, float]:
    """Return the figures that Prometheus is told, by name and labels."""
    return {
        " ".join([sample.name, *sample.labels.values()]): sample.value
        for family in text_string_to_metric_families(client.get("/metrics").text)
        for sample in family.samples
    }


def test_metrics_count_what_was_asked(client: httpx.Client, drawn_clips: Path) -> None:
    clip = (drawn_clips / "test" / "violent" / "violent0.mp4").read_bytes()
    before = figures(client)
    client.post("/predict", **form_of(clip))
    client.post("/predict?token=secret", **form_of(b"hello"))
    client.get("/a/b/c")
    elsewhere = "violence_requests_total elsewhere 404"
    wait_until(lambda: figures(client).get(elsewhere, 0) > before.get(elsewhere, 0))
    after = figures(client)
    grown = {name: after[name] - before.get(name, 0) for name in after}
    assert grown["violence_requests_total /predict 200"] == 1
    assert grown["violence_requests_total /predict 415"] == 1
    assert grown[elsewhere] == 1
    assert grown["violence_pass_clips_sum"] == 1
    assert grown["violence_uploaded_bytes_total"] == len(clip)
    wait_until(lambda: figures(client)["violence_places_taken"] == 0)
    assert after["process_resident_memory_bytes"] > 1e7
    assert "secret" not in client.get("/metrics").text


def test_log_has_nothing_that_a_client_has_made_up(
    client: httpx.Client, drawn_clips: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clip = (drawn_clips / "test" / "violent" / "violent0.mp4").read_bytes()
    caplog.set_level("INFO", "violence_detection.serving")
    headers = {"Authorization": "Bearer made-up"}
    client.post("/predict?images=1&token=made-up", headers=headers, **form_of(clip, "made-up.mp4"))
    client.get("/made-up")
    assert "POST /predict 200" in caplog.text
    wait_until(lambda: "GET elsewhere 404" in caplog.text)
    assert "made-up" not in caplog.text.replace("HTTP Request", "")


def test_api_document_has_every_route_status_and_example(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    schemas = document["components"]["schemas"]
    assert document["paths"].keys() == {
        *("/predict", "/predict/timeline", "/healthz", "/readyz", "/metrics")
    }
    for route in ("/predict", "/predict/timeline"):
        operation = document["paths"][route]["post"]
        assert "multipart/form-data" in operation["requestBody"]["content"]
        expected = {"200", "400", "401", "403", "408", "413", "415", "422", "503"}
        assert operation["responses"].keys() == expected
        for status, response in operation["responses"].items():
            (media_type, content), *more = response["content"].items()
            assert not more
            assert (media_type == "application/problem+json") == (status != "200")
            assert schemas[content["schema"]["$ref"].rsplit("/", 1)[1]]["examples"]


def test_uploads_at_once_are_all_judged(
    detector: Detector, uploads: Path, drawn_clips: Path, trained: Path
) -> None:
    rows = predictions(trained) * 2
    service = Service(detector, uploads, LIMITS)
    found: dict[int, float] = {}
    with asked(service) as client, ExitStack() as threads:
        for number, row in enumerate(rows):

            def ask(number: int = number, clip: str = row["clip"]) -> None:
                form = form_of((drawn_clips / clip).read_bytes())
                found[number] = client.post("/predict", **form).json()["probability"]

            thread = threading.Thread(target=ask)
            thread.start()
            threads.callback(thread.join)
    expected = [float(row["probability"]) for row in rows]
    assert [found[number] for number in range(len(rows))] == pytest.approx(expected, abs=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["positive", "negative"])
def test_answers_are_as_the_api_document_says(detector: Detector, uploads: Path, mode: str) -> None:
    schemathesis = pytest.importorskip("schemathesis")
    from hypothesis import HealthCheck, given, settings
    from schemathesis.specs.openapi.checks import positive_data_acceptance

    with asked(Service(detector, uploads, LIMITS, token="s3cret")) as client:
        schema = schemathesis.openapi.from_url(f"{client.base_url}/openapi.json")
        schema.config.update(headers={"Authorization": "Bearer s3cret"})
        for operation in (result.ok() for result in schema.get_all_operations()):
            if mode == "negative" and operation.method == "get":
                continue  # there is nothing in it to be wrong
            cases = operation.as_strategy(schemathesis.GenerationMode(mode))

            @given(case=cases)
            @settings(
                max_examples=60,
                deadline=None,
                database=None,
                suppress_health_check=list(HealthCheck),
            )
            def check(case: Any) -> None:
                # That a file must be a video, the document cannot say so that it is generated.
                response = case.call_and_validate(excluded_checks=[positive_data_acceptance])
                assert response.status_code < 500 or response.status_code == 503

            check()
