import httpx
import pytest

from tests.serving.http import form_of
from tests.waiting import wait_until


@pytest.mark.parametrize(
    "route", ["/", "/page.js", "/healthz", "/metrics", "/openapi.json", "/nothing"]
)
def test_every_response_has_security_headers(client: httpx.Client, route: str) -> None:
    headers = client.get(route).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"] == "no-store"
    assert "server" not in headers


def test_log_has_nothing_that_a_client_chooses(
    client: httpx.Client, clip: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "violence_detection.serving")
    headers = {"Authorization": "Bearer made-up"}
    client.post("/predict?images=1&token=made-up", headers=headers, **form_of(clip, "made-up.mp4"))
    client.get("/made-up")
    wait_until(lambda: "GET elsewhere 404" in caplog.text)
    assert "POST /predict 200" in caplog.text
    assert "made-up" not in caplog.text.replace("HTTP Request", "")
