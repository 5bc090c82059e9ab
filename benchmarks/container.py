"""Builds an image's steps without Docker, starts the service in it, and has a clip predicted.

    python -m benchmarks.container --checkpoint-dir ./checkpoints --clip clip.mp4

The base is Debian with its Python 3.11, in the place of `python:3.11-slim`; then each COPY and RUN
of the Dockerfile, in a user namespace (no root is needed), and its ENTRYPOINT as its USER. Needs
mmdebstrap and uidmap (`apt-get install mmdebstrap uidmap`), the Debian mirror and PyPI.
"""

import contextlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.command import make_parser, print_report

ROOT = Path(__file__).resolve().parent.parent
SUITE = "bookworm"  # its Python is 3.11
PACKAGES = ("python3", "python3-pip", "python-is-python3", "ca-certificates", "passwd")
TOKEN = "token-of-the-benchmark"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
FROM_HOST = ("/etc/resolv.conf", "/etc/hosts", "/etc/ssl/certs/ca-certificates.crt")
STOPPING = "service=$!; exec 3<&0; (read -r _ <&3 || kill -TERM $service) & wait $service"
READY = 300.0  # seconds
STOPPED = 60.0  # seconds


class Instruction(NamedTuple):
    """A line of a Dockerfile."""

    name: str
    arguments: str


def instructions(dockerfile: Path) -> list[Instruction]:
    """Return the instructions of a Dockerfile, continued lines joined."""
    text = re.sub(r"^#.*\n", "", dockerfile.read_text(), flags=re.MULTILINE)
    lines = text.replace("\\\n", " ").splitlines()
    return [Instruction(*line.split(maxsplit=1)) for line in lines if line.strip()]


def exec_form(arguments: str) -> list[str]:
    """Return the words of an instruction's JSON array, which may follow options."""
    return json.loads(arguments[arguments.index("[") :])


def allowed_in_context(folder: Path) -> set[str]:
    """Return the names that a `.dockerignore` which ignores everything else lets through."""
    lines = (folder / ".dockerignore").read_text().split()
    return {line[1:] for line in lines if line[0] == "!"}


def copy_into(target: Path, arguments: str) -> None:
    """Do what COPY does: files and folders of the project, as far as they are in the context."""
    *sources, into = arguments.split()
    allowed = allowed_in_context(ROOT)
    for source in sources:
        if source not in allowed:
            raise FileNotFoundError(f"{source} is not in the build context")
        if (ROOT / source).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / source, target / into, ignore=ignored, dirs_exist_ok=True)
        else:
            shutil.copy(ROOT / source, target / into)


@dataclass
class Image:
    """A root file system in the making.

    Args:
        folder: holds it, as `root`, and what is copied into it.
    """

    folder: Path
    environment: dict[str, str] = field(default_factory=lambda: {"PATH": PATH})
    directory: str = "/"
    user: str = "0"

    @property
    def root(self) -> Path:
        """The root file system."""
        return self.folder / "root"

    def unpack(self, base: Path) -> None:
        """Begin with a base system, a tar file; of its devices, the host's are used."""
        self.root.mkdir()
        unpacked = ["tar", "-xp", "--numeric-owner", "--exclude=./dev/*", "-f", str(base)]
        subprocess.run([*namespace(), *unpacked, "-C", str(self.root)], check=True)

    def do(self, instruction: Instruction) -> None:
        """Do what an instruction says; those that concern a container alone do nothing."""
        name, arguments = instruction
        if name == "ENV":
            pairs = (word.partition("=") for word in shlex.split(arguments))
            self.environment |= {key: value for key, _, value in pairs}
        elif name == "WORKDIR":
            self._run_as_root(["mkdir", "-p", arguments])
            self.directory = arguments
        elif name == "USER":
            self.user = arguments
        elif name == "COPY":
            staged = Path(tempfile.mkdtemp(dir=self.folder))
            copy_into(staged, arguments)
            into = self.root / self.directory.strip("/")
            command = ["cp", "-r", "--no-preserve=ownership", f"{staged}/.", str(into)]
            subprocess.run([*namespace(), *command], check=True)
        elif name == "RUN":
            self._run_as_root(["sh", "-c", arguments])

    def _run_as_root(self, command: Sequence[str]) -> None:
        subprocess.run(self.inside(command, user="0"), check=True)

    def inside(
        self,
        command: Sequence[str],
        user: str,
        environment: dict[str, str] | None = None,
        volumes: dict[Path, str] | None = None,
        until_input_ends: bool = False,
    ) -> list[str]:
        """Return the command line that runs a command in the image.

        Args:
            command: and its arguments.
            user: who runs it; a number.
            environment: of the command, beside the image's.
            volumes: folders of this machine, and where they are mounted, read-only.
            until_input_ends: send it SIGTERM at the end of standard input.
        """
        given = {name: value for name, value in os.environ.items() if is_of_network(name)}
        given |= (
            {"PIP_CERT": FROM_HOST[-1], "PIP_ROOT_USER_ACTION": "ignore"} if user == "0" else {}
        )
        variables = self.environment | given | (environment or {})
        words = [f"{name}={value}" for name, value in variables.items()]
        root = shlex.quote(str(self.root))
        mounts = [
            f"mount -t proc proc {root}/proc 2>/dev/null || mount --rbind /proc {root}/proc",
            f"mount --rbind /dev {root}/dev",
            *(
                f"touch {root}{path} && mount --bind {path} {root}{path}"
                for path in FROM_HOST
                if Path(path).exists()
            ),
        ]
        for folder, target in (volumes or {}).items():
            source = shlex.quote(str(folder.resolve()))
            mounts.append(f"mount --bind -o ro {source} {root}{target}")
        enter = [
            "chroot",
            f"--userspec={user}:{user}",
            str(self.root),
            "/usr/bin/env",
            "-i",
            *words,
        ]
        change = ["sh", "-c", 'cd "$0" && exec "$@"', self.directory, *command]
        run = f"exec {shlex.join([*enter, *change])}"
        if until_input_ends:  # no signal from outside reaches another user's process
            run = f"{shlex.join([*enter, *change])} &\n{STOPPING}"
        return [*namespace(), "sh", "-c", "\n".join(["set -e", *mounts, run])]


def is_of_network(name: str) -> bool:
    """Return whether an environment variable says how PyPI is reached."""
    return name.lower().endswith("_proxy") or name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL")


def namespace() -> list[str]:
    """Return the command that runs another in namespaces of its own, as a root that is none."""
    own = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
    return own if os.geteuid() == 0 else [*own, "--map-root-user", "--map-auto"]


def make_base(path: Path) -> None:
    """Write the base system, a tar file."""
    hook = "--customize-hook=rm $1/usr/lib/python3.11/EXTERNALLY-MANAGED"
    what = ["--variant=minbase", f"--include={','.join(PACKAGES)}", hook, SUITE, str(path)]
    subprocess.run(["mmdebstrap", "--quiet", "--mode=unshare", *what], check=True)


@contextlib.contextmanager
def service(image: Image, lines: list[Instruction], checkpoints: Path) -> Iterator[None]:
    """Run the image's ENTRYPOINT in the block, from when its HEALTHCHECK is content."""
    found = dict(lines)
    entry, check = exec_form(found["ENTRYPOINT"]), exec_form(found["HEALTHCHECK"])
    volumes = {checkpoints: found["VOLUME"]}
    token = {"VIOLENCE_API_TOKEN": TOKEN}
    command = image.inside(entry, image.user, token, volumes, until_input_ends=True)
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        try:
            deadline = time.monotonic() + READY
            healthy = image.inside(check, image.user)
            while subprocess.run(
                healthy, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            ).returncode:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise TimeoutError("the service does not become healthy")
                time.sleep(1)
            yield
            process.stdin.close()
            if process.wait(STOPPED):
                raise RuntimeError(f"the service ended with status {process.returncode}")
        finally:
            process.kill()


def post_clip(clip: Path, port: int) -> dict[str, Any]:
    """Return the service's answer for a clip."""
    boundary = uuid.uuid4().hex
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="video"; filename="{clip.name}"'
    body = f"{head}\r\n\r\n".encode() + clip.read_bytes() + f"\r\n--{boundary}--\r\n".encode()
    headers = {
        "Authorization": f"Bearer {TOKEN}",
        "Content-Type": f"multipart/form-data; boundary={boundary}",
    }
    request = urllib.request.Request(f"http://127.0.0.1:{port}/predict", body, headers)
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.load(answer)


def status_of_readiness(port: int, token: str = "") -> int:
    """Return the status of a request for readiness, with or without the token."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(f"http://127.0.0.1:{port}/readyz", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def main() -> int:
    """Build, serve, predict; print what was seen."""
    parser = make_parser(__doc__)
    parser.add_argument("--checkpoint-dir", type=Path, required=True, help="of a finished run")
    parser.add_argument("--clip", type=Path, required=True, help="to be predicted")
    parser.add_argument("--base", type=Path, help="tar file of the base system; made if missing")
    flags = parser.parse_args()
    for program in ("unshare", "mmdebstrap", "newuidmap"):
        if not shutil.which(program):
            parser.error(f"{program} is missing: apt-get install mmdebstrap uidmap")
    lines = instructions(ROOT / "Dockerfile")
    port = int(exec_form(dict(lines)["ENTRYPOINT"])[-1])
    report: dict[str, Any] = {"root": os.geteuid() == 0}
    folder = Path(tempfile.mkdtemp(prefix="container-"))
    try:
        base, began = flags.base or folder / "base.tar", time.monotonic()
        if not base.exists():
            make_base(base)
            report["base_seconds"] = round(time.monotonic() - began)
        image, began = Image(folder), time.monotonic()
        image.unpack(base)
        for line in lines:
            print(f"+ {line.name} {line.arguments}", file=sys.stderr, flush=True)
            image.do(line)
        report["build_seconds"] = round(time.monotonic() - began)
        sizes = subprocess.run(
            [*namespace(), "du", "-s", "--block-size=1M", str(image.root)],
            capture_output=True,
            text=True,
            check=True,
        )
        report["megabytes"] = int(sizes.stdout.split()[0])
        began = time.monotonic()
        with service(image, lines, flags.checkpoint_dir):
            report["healthy_after_seconds"] = round(time.monotonic() - began)
            report["without_token"] = status_of_readiness(port)
            while status_of_readiness(port, TOKEN) != 200:  # it warms up
                if time.monotonic() - began > READY:
                    raise TimeoutError("the service does not become ready")
                time.sleep(1)
            report["ready_after_seconds"] = round(time.monotonic() - began)
            report["answer"] = post_clip(flags.clip, port)
        report["user"] = image.user
    finally:
        # Files of the users in the namespace can be removed from inside only.
        subprocess.run([*namespace(), "rm", "-rf", "--one-file-system", str(folder)], check=False)
    print_report(report, flags.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
