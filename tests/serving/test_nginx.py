"""examples/nginx.conf with a real nginx in front of a server."""

import getpass
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import pytest

from tests.conftest import ROOT
from tests.serving.http import FORM, LIMITS, form_of, part, ready
from tests.waiting import wait_until
from violence_detection.inference.detector import Detector
from violence_detection.serving.access import Access
from violence_detection.serving.service import Service

pytestmark = pytest.mark.skipif(not shutil.which("nginx"), reason="nginx is not installed")

NAME = "detector.example"
MAIN = """
user {user}; daemon off; pid {folder}/pid; error_log {folder}/errors.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
    include {folder}/site.conf;
}}
"""


@dataclass
class Proxied:
    service: Service
    client: httpx.Client  # of nginx
    port: int


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


@pytest.fixture(scope="module")
def proxied(detector: Detector, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxied]:
    folder = tmp_path_factory.mktemp("nginx")
    uploads = folder / "uploads"
    uploads.mkdir()
    service = Service(detector, uploads, LIMITS, Access(hosts=[NAME]))
    with ready(service) as direct:
        port = free_port()
        site = (ROOT / "examples" / "nginx.conf").read_text()
        changes = {
            "127.0.0.1:8000": f"127.0.0.1:{direct.base_url.port}",
            "listen 80;": f"listen 127.0.0.1:{port};",
            "client_max_body_size 101m": "client_max_body_size 1m",
            "client_body_timeout 20s": "client_body_timeout 1s",
        }
        for old, new in changes.items():
            assert old in site
            site = site.replace(old, new)
        (folder / "site.conf").write_text(site)
        (folder / "main.conf").write_text(MAIN.format(folder=folder, user=getpass.getuser()))
        command = ["nginx", "-c", str(folder / "main.conf"), "-p", str(folder)]
        with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
            address = f"http://127.0.0.1:{port}"
            with httpx.Client(base_url=address, headers={"Host": NAME}, timeout=60) as client:
                wait_until(lambda: _answers(client))
                yield Proxied(service, client, port)
            process.terminate()


def _answers(client: httpx.Client) -> bool:
    try:
        return client.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False


def begin_upload(port: int, sent: bytes, length: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=20)
    headers = {"Host": NAME, **FORM, "Content-Length": str(length)}
    lines = [f"{name}: {value}" for name, value in headers.items()]
    connection.sendall("\r\n".join(["POST /predict HTTP/1.1", *lines, "", ""]).encode() + sent)
    return connection


def test_clips_and_timelines_are_answered(proxied: Proxied, clip: bytes) -> None:
    answer = proxied.client.post("/predict", **form_of(clip))
    assert answer.status_code == 200
    assert 0 <= answer.json()["probability"] <= 1
    lines = proxied.client.post("/predict/timeline", **form_of(clip)).text.splitlines()
    assert "result" in lines[-1]
    assert proxied.client.get("/").status_code == 200


def test_clip_is_passed_on_only_when_it_is_complete(proxied: Proxied, clip: bytes) -> None:
    form = part("video", clip)
    with begin_upload(proxied.port, form[:2000], len(form)) as connection:
        answer = connection.recv(100)  # after a second without data
        assert answer == b"" or b"408" in answer
        assert proxied.service.pending == 0
    assert list(proxied.service.uploads.iterdir()) == []


def test_too_large_and_too_many_are_refused_before_the_detector(
    proxied: Proxied, clip: bytes
) -> None:
    assert proxied.client.post("/predict", **form_of(bytes(2**20 + 2000))).status_code == 413
    statuses = [proxied.client.get("/readyz").status_code for _ in range(80)]
    assert statuses[0] == 200
    assert 429 in statuses
