"""The images without Docker: their files run on their own; `benchmarks.container` builds one."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from benchmarks.container import copy_into, exec_form, instructions
from tests.conftest import ROOT
from violence_detection.commands.serve import TOKEN_VARIABLE, make_parser
from violence_detection.settings.parser import parse_settings

SERVING, TRAINING = ROOT / "Dockerfile", ROOT / "Dockerfile.gpu"
HADOLINT = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
BOTH = pytest.mark.parametrize("dockerfile", [SERVING, TRAINING], ids=["serving", "training"])


def only(dockerfile: Path, name: str) -> str:
    """Return the arguments of an instruction that is there once."""
    (arguments,) = [line.arguments for line in instructions(dockerfile) if line.name == name]
    return arguments


@pytest.fixture
def image(dockerfile: Path, tmp_path: Path) -> Path:
    """Return a folder of the files that an image gets, as far as .dockerignore allows them."""
    folder = tmp_path / "image"
    folder.mkdir()
    for name, arguments in instructions(dockerfile):
        if name == "COPY":
            copy_into(folder, arguments)
    return folder


@BOTH
def test_command_starts_from_the_files_of_the_image(image: Path, dockerfile: Path) -> None:
    """As far as a missing folder, of which it complains."""
    needed = {SERVING: "--checkpoint-dir", TRAINING: "--dataset-path"}[dockerfile]
    _, script, *flags = exec_form(only(dockerfile, "ENTRYPOINT"))
    missing = image / "missing"
    flags[flags.index(needed) + 1] = str(missing)
    done = subprocess.run(
        [sys.executable, script, *flags],
        cwd=image,
        env=os.environ | {TOKEN_VARIABLE: "secret-of-the-tests"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert str(missing) in done.stderr


@pytest.mark.parametrize(
    ("dockerfile", "needed"),
    [
        (SERVING, {"tensorflow", "fastapi", "uvicorn", "python-multipart", "prometheus-client"}),
        (TRAINING, {"tensorflow[and-cuda]", "keras", "av"}),
    ],
    ids=["serving", "training"],
)
def test_image_installs_what_its_command_needs(
    image: Path, dockerfile: Path, needed: set[str]
) -> None:
    (command,) = [rest for _, rest in instructions(dockerfile) if "pip install" in rest]
    files = included(image / command.split("-r ")[1])
    lines = [line for path in files for line in path.read_text().splitlines()]
    listed = [line for line in lines if line and not line.startswith(("#", "-r "))]
    assert {re.split("[<>=]", line)[0] for line in listed} >= needed
    assert all(Requirement(line).specifier for line in listed)


def included(requirements: Path) -> list[Path]:
    """Return a file of requirements, and those that it refers to, which must be in the image."""
    lines = requirements.read_text().splitlines()
    others = [requirements.parent / line[3:] for line in lines if line.startswith("-r ")]
    return [requirements, *(file for other in others for file in included(other))]


@BOTH
def test_image_has_no_data_of_the_user(image: Path) -> None:
    kinds = {path.suffix for path in image.rglob("*") if path.is_file()}
    assert kinds <= {".py", ".typed", ".txt", ".j2", ".js", ".css"}


def test_service_listens_on_the_port_that_the_health_check_asks() -> None:
    flags = make_parser().parse_args(exec_form(only(SERVING, "ENTRYPOINT"))[2:])
    assert (flags.host, flags.insecure) == ("0.0.0.0", False)
    assert str(flags.checkpoint_dir) == only(SERVING, "VOLUME")
    _, _, program = exec_form(only(SERVING, "HEALTHCHECK"))
    compile(program, "healthcheck", "exec")
    assert f":{flags.port}/healthz" in program


def test_training_keeps_what_it_writes_in_volumes() -> None:
    _, _, *flags = exec_form(only(TRAINING, "ENTRYPOINT"))
    data = parse_settings([*flags, "--mixed-precision", "--xla"]).data
    volumes = exec_form(only(TRAINING, "VOLUME"))
    weights = re.search(r"KERAS_HOME=(\S+)", only(TRAINING, "ENV"))[1]
    paths = (data.dataset_path, Path(data.cache_dir), data.checkpoint_dir, Path(weights))
    assert {volume for p in paths for volume in volumes if p.is_relative_to(volume)} == set(volumes)
    # A cache with other files in it is refused.
    assert not Path(weights).is_relative_to(data.cache_dir)
    made = next(line for name, line in instructions(TRAINING) if name == "RUN" and "mkdir" in line)
    assert all(volume in made for volume in volumes)


@BOTH
def test_image_does_not_run_as_root_and_contains_no_token(dockerfile: Path) -> None:
    lines = instructions(dockerfile)
    names = [line.name for line in lines]
    assert int(only(dockerfile, "USER")) > 0
    assert names.index("USER") < names.index("ENTRYPOINT")
    assert not any(TOKEN_VARIABLE in rest for name, rest in lines if name == "ENV")


@BOTH
@pytest.mark.skipif(not HADOLINT, reason="hadolint is not installed")
def test_hadolint_has_nothing_to_say(dockerfile: Path) -> None:
    done = subprocess.run([HADOLINT, str(dockerfile)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
