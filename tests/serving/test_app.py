import base64
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import pytest

from tests.clips.videos import write_doubtful_clip
from tests.serving.http import (
    BOUNDARY,
    END,
    FORM,
    LIMITS,
    MP4_HEAD,
    form_of,
    part,
    problem_detail,
    ready,
)
from violence_detection.inference.detector import Detector
from violence_detection.inference.windows import predict_timeline, window_sampling
from violence_detection.serving.access import Access
from violence_detection.serving.service import Service

pytestmark = pytest.mark.usefixtures("uploads_removed")


def test_predictions_equal_those_of_the_runs_own_test(
    client: httpx.Client, detector: Detector, run_predictions: dict[Path, tuple[float, bool]]
) -> None:
    own = detector.predict_clips(list(run_predictions))
    for (path, (probability, violent)), expected in zip(run_predictions.items(), own, strict=True):
        response = client.post("/predict", **form_of(path.read_bytes(), name="../../etc/passwd"))
        assert response.status_code == 200
        answer = response.json()
        assert answer["probability"] == pytest.approx(probability, abs=2e-6)
        assert answer["probability"] == pytest.approx(expected.probability, abs=1e-5)
        assert answer["violent"] == violent
        assert answer["threshold"] == detector.threshold
        frames = answer["frames"]
        assert [frame["time"] for frame in frames] == pytest.approx(expected.times)
        attention = [frame["attention"] for frame in frames]
        assert attention == pytest.approx(expected.attention, abs=1e-5)
        assert all(frame.keys() == {"time", "attention"} for frame in frames)
        assert answer["model"] == detector.name
        assert "random weights" in answer["warning"].lower()
        assert 0 < answer["seconds"] < 60


def test_frames_have_pictures_on_request(client: httpx.Client, drawn_clips: Path) -> None:
    clip = drawn_clips / "test" / "violent" / "violent0.mp4"
    response = client.post("/predict?images=true", **form_of(clip.read_bytes()))
    height, width = cv2.VideoCapture(str(clip)).read()[1].shape[:2]
    frames = response.json()["frames"]
    assert frames
    for frame in frames:
        kind, data = frame["image"].split(",")
        assert kind == "data:image/jpeg;base64"
        picture = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)
        assert picture.shape[1] / picture.shape[0] == pytest.approx(width / height, rel=0.02)


def test_timeline_equals_that_of_the_command_line(
    client: httpx.Client, detector: Detector, long_clip: Path
) -> None:
    response = client.post("/predict/timeline?stride=0.5", **form_of(long_clip.read_bytes()))
    assert response.headers["content-type"] == "application/x-ndjson"
    *lines, last = [json.loads(line) for line in response.text.splitlines()]
    result = last["result"]
    own = predict_timeline(detector, long_clip, window_sampling(detector, 2.0, 0.5))
    assert own.error is None
    for found, expected in ((result["windows"], own.windows), (result["events"], own.events)):
        assert len(found) == len(expected) > 0
        for one, other in zip(found, expected, strict=True):
            assert one == pytest.approx(other._asdict(), abs=1e-5)
    assert [window for line in lines for window in line["windows"]] == result["windows"]
    progress = [line["progress"] for line in lines]
    assert progress == sorted(progress)
    assert len(set(progress)) > 2
    assert result["violent"]
    assert result["duration"] == pytest.approx(6.0)


def test_timeline_of_a_short_clip_is_one_window(client: httpx.Client, clip: bytes) -> None:
    whole = client.post("/predict", **form_of(clip)).json()
    lines = client.post("/predict/timeline?window=5", **form_of(clip)).text.splitlines()
    (window,) = json.loads(lines[-1])["result"]["windows"]
    assert window["probability"] == pytest.approx(whole["probability"])


@pytest.mark.parametrize(
    ("kind", "warning"),
    [
        ("still", "nothing moves in it: its frames are all the same"),
        ("damaged", "only 60% of it could be read"),
    ],
)
def test_clip_that_tells_little_has_a_warning(
    kind: str, warning: str, client: httpx.Client, tmp_path: Path
) -> None:
    content = write_doubtful_clip(tmp_path / "clip.mp4", kind).read_bytes()
    answer = client.post("/predict", **form_of(content)).json()
    assert answer["warnings"][1:] == [warning]  # the first one is on VGG19's random weights
    assert answer["warning"] == "\n".join(answer["warnings"])
    for window in ("0.5", "5"):
        lines = client.post(f"/predict/timeline?stride=0.5&window={window}", **form_of(content))
        result = json.loads(lines.text.splitlines()[-1])["result"]
        assert warning in result["warnings"]


@pytest.mark.parametrize("route", ["/predict", "/predict/timeline"])
@pytest.mark.parametrize(
    ("status", "body", "headers", "reason"),
    [
        (415, b"hello", {"Content-Type": "text/plain"}, "multipart"),
        (415, b"hello", {}, "multipart"),
        (400, b"hello", {"Content-Type": "multipart/form-data"}, "boundary"),
        (400, b"hello", {"Content-Type": "multipart/form-data; boundary="}, "boundary"),
        (400, b"hello", {"Content-Type": f"multipart/form-data; boundary={'a' * 999}"}, "valid"),
        (400, b"hello", FORM, "valid"),
        (400, b"", FORM, "closing boundary"),
        (400, part("video", MP4_HEAD), FORM, "closing boundary"),
        (400, f"--{BOUNDARY}\r\n{'a' * 5000}".encode(), FORM, "valid"),
        (400, f"--{BOUNDARY}\r\nbad header\r\n\r\n".encode() + END, FORM, "valid"),
        (422, END, FORM, "no `video` part"),
        (422, part("clip", MP4_HEAD) + END, FORM, "a part 'clip', and no `video` part"),
        (422, part("\x1b[2J" + 99 * "a", MP4_HEAD) + END, FORM, r"'\x1b[2Jaaaa"),
        (422, part("video", b"") + END, FORM, "empty"),
        (422, part("video", MP4_HEAD) * 2 + END, FORM, "more than one `video` part"),
        (422, part("file", MP4_HEAD) * 2 + END, FORM, "more than one `video` part"),
        (415, part("video", b"hello") + END, FORM, "not a video"),
        (415, part("video", b"hello" * 999) + END, FORM, "not a video"),
        (415, part("video", b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd") + END, FORM, "not a video"),
        (415, part("video", b"ffconcat version 1.0\nfile clip.mp4") + END, FORM, "not a video"),
        (422, part("video", MP4_HEAD) + END, FORM, "cannot be processed"),
        (413, part("video", MP4_HEAD + bytes(2**20)) + END, FORM, "larger than the 1 MB"),
        (413, part("other", bytes(100_000)) + part("video", MP4_HEAD) + END, FORM, "64 kB"),
    ],
)
def test_invalid_upload_is_refused_with_its_reason(
    client: httpx.Client, route: str, status: int, body: bytes, headers: dict[str, str], reason: str
) -> None:
    for content in (body, iter([body[:40], body[40:]])):  # with its length, and without
        response = client.post(route, content=content, headers=headers)
        assert reason in problem_detail(response, status)


def test_too_large_a_content_length_is_refused_at_once(client: httpx.Client) -> None:
    with socket.create_connection((client.base_url.host, client.base_url.port)) as connection:
        head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: {FORM['Content-Type']}\r\n"
        connection.sendall(f"{head}Content-Length: {10**12}\r\n\r\n--".encode())
        assert connection.recv(10_000).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize("query", ["images=perhaps", "images=", "images=true&images=2"])
def test_invalid_parameter_of_a_clip_is_named(
    client: httpx.Client, clip: bytes, query: str
) -> None:
    response = client.post(f"/predict?{query}", **form_of(clip))
    assert "query.images" in problem_detail(response, 422)


@pytest.mark.parametrize(
    "query", ["window=0", "window=nan", "window=1e9", "stride=0", "stride=-1", "stride=3", "window"]
)
def test_invalid_parameter_of_a_timeline_is_named(
    client: httpx.Client, clip: bytes, query: str
) -> None:
    response = client.post(f"/predict/timeline?{query}", **form_of(clip))
    assert f"query.{query.split('=')[0]}" in problem_detail(response, 422)


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/x", 404), ("GET", "/predict", 405)]
)
def test_unknown_route_or_method_is_a_problem(
    client: httpx.Client, method: str, path: str, status: int
) -> None:
    problem_detail(client.request(method, path), status)


def test_concurrent_uploads_all_get_their_own_predictions(
    client: httpx.Client, run_predictions: dict[Path, tuple[float, bool]]
) -> None:
    clips = list(run_predictions.items()) * 2
    found: dict[int, float] = {}

    def ask(number: int, clip: Path) -> None:
        response = client.post("/predict", **form_of(clip.read_bytes()))
        found[number] = response.json()["probability"]

    with ExitStack() as stack:
        for number, (clip, _) in enumerate(clips):
            thread = threading.Thread(target=ask, args=(number, clip))
            thread.start()
            stack.callback(thread.join)
    expected = [probability for _, (probability, _) in clips]
    assert [found[number] for number in range(len(clips))] == pytest.approx(expected, abs=2e-6)


def test_api_document_has_every_route_status_and_example(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    schemas = document["components"]["schemas"]
    assert document["paths"].keys() == {
        *("/predict", "/predict/timeline", "/healthz", "/readyz", "/reload", "/metrics")
    }
    for route in ("/predict", "/predict/timeline"):
        operation = document["paths"][route]["post"]
        assert "multipart/form-data" in operation["requestBody"]["content"]
        expected = {"200", "400", "401", "403", "408", "413", "415", "421", "422", "503"}
        assert operation["responses"].keys() == expected
        for status, response in operation["responses"].items():
            (media_type, content), *more = response["content"].items()
            assert not more
            assert (media_type == "application/problem+json") == (status != "200")
            assert schemas[content["schema"]["$ref"].rsplit("/", 1)[1]]["examples"]


@pytest.fixture(scope="module")
def guarded_client(detector: Detector, uploads: Path) -> Iterator[httpx.Client]:
    with ready(Service(detector, uploads, LIMITS, Access("s3cret"))) as client:
        yield client


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["positive", "negative"])
def test_responses_conform_to_the_api_document(guarded_client: httpx.Client, mode: str) -> None:
    schemathesis = pytest.importorskip("schemathesis")
    from hypothesis import HealthCheck, given, settings
    from schemathesis.specs.openapi.checks import positive_data_acceptance

    schema = schemathesis.openapi.from_url(f"{guarded_client.base_url}/openapi.json")
    schema.config.update(headers={"Authorization": "Bearer s3cret"})
    for operation in (result.ok() for result in schema.get_all_operations()):
        if operation.path == "/reload" or (mode == "negative" and operation.method == "get"):
            continue  # it has no parameters
        cases = operation.as_strategy(schemathesis.GenerationMode(mode))

        @given(case=cases)
        @settings(
            max_examples=30,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        def check(case: Any) -> None:
            # The document cannot express that a generated file has to be a video.
            response = case.call_and_validate(excluded_checks=[positive_data_acceptance])
            assert response.status_code < 500 or response.status_code == 503

        check()
