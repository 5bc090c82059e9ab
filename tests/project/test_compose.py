"""compose.yaml: valid by the Compose Specification, and what it starts fits together."""

import getpass
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.container import exec_form, instructions
from tests.conftest import ROOT
from tests.serving.test_nginx import MAIN
from violence_detection.commands.serve import TOKEN_VARIABLE, make_parser

FILE = ROOT / "compose.yaml"


@pytest.fixture
def services() -> dict[str, Any]:
    return yaml.safe_load(FILE.read_text())["services"]


def check(path: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    return subprocess.run([*command, str(path)], capture_output=True, text=True, check=False)


def test_file_is_valid_and_a_wrong_one_is_not(tmp_path: Path) -> None:
    pytest.importorskip("check_jsonschema")
    assert check(FILE).returncode == 0
    wrong = tmp_path / "compose.yaml"
    wrong.write_text(FILE.read_text().replace("read_only: true", "readonly: true"))
    assert check(wrong).returncode != 0


def test_detector_is_that_of_the_image(services: dict[str, Any]) -> None:
    detector, lines = services["detector"], dict(instructions(ROOT / "Dockerfile"))
    flags = make_parser().parse_args([*exec_form(lines["ENTRYPOINT"])[2:], *detector["command"]])
    (name,) = flags.allowed_host
    assert f"server_name {name};" in (ROOT / "examples" / "nginx.conf").read_text()
    assert [volume.split(":")[1:] for volume in detector["volumes"]] == [[lines["VOLUME"], "ro"]]
    # It does not start without a secret, and nobody gets past nginx.
    assert re.match(rf"\$\{{{TOKEN_VARIABLE}:\?", detector["environment"][TOKEN_VARIABLE])
    assert "ports" not in detector
    assert detector["tmpfs"][0].split(":")[0] == "/tmp"  # all else is read-only


def test_nginx_gets_the_example_with_the_detectors_name(
    services: dict[str, Any], tmp_path: Path
) -> None:
    nginx = services["nginx"]
    shell, option, script = nginx["command"]
    (mounted,) = nginx["volumes"]
    source, inside, mode = mounted.split(":")
    site, written = tmp_path / "site.conf", tmp_path / "default.conf"
    shutil.copy(FILE.parent / source, site)
    assert mode == "ro"
    sed, then = script.replace(inside, str(site)).split(" && ")
    sed = sed.replace("/etc/nginx/conf.d/default.conf", str(written))
    subprocess.run([shell, option, sed], check=True)
    assert then == "exec nginx -g 'daemon off;'"
    text = written.read_text()
    assert "server detector:8000;" in text
    port = re.search(r"listen (\d+);", text)[1]
    assert nginx["ports"] == [f"127.0.0.1:8080:{port}"]
    if not shutil.which("nginx"):
        pytest.skip("nginx is not installed")
    site.write_text(text.replace("detector:8000", "127.0.0.1:8000"))  # no such name here
    (tmp_path / "main.conf").write_text(MAIN.format(folder=tmp_path, user=getpass.getuser()))
    command = ["nginx", "-t", "-q", "-c", str(tmp_path / "main.conf"), "-p", str(tmp_path)]
    subprocess.run(command, check=True)
