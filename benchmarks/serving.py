"""The service under load, over thousands of requests, and with hostile input.

    python -m benchmarks.serving --checkpoint-dir checkpoints --dataset-path DIR --json FILE

Load: Locust's clients on loopback, and before and after them `predict_clips`, as in predict.py, on
the same clips in a process of its own. Memory: that of server and decoders while small drawn clips
are sent. Fuzz: mutated clips and malformed forms. Exit status 1 if a target is missed.
"""

import contextlib
import http.client
import importlib.util
import itertools
import json
import os
import random
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from benchmarks.command import make_parser, print_report
from benchmarks.fuzz_clips import mutate, originals
from benchmarks.timing import in_own_process
from violence_detection.errors import UserError
from violence_detection.runtime.interrupts import explain

ROOT = Path(__file__).parent.parent
PARTS = ("load", "memory", "fuzz")
SENDERS = 8  # clients in memory and fuzz
SAMPLE_EVERY = 0.5  # seconds between two samples of the memory
BOUNDARY = "benchmark"
FLAT = 1.05  # largest ratio of the memory in the last quarter to that in the second
AT_LEAST = 0.9  # smallest ratio to predict.py's rate
BAD_FORMS = 200
TIMEOUT = 300.0  # seconds for an answer


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and write the file that is asked for; return the exit status."""
    parser = make_parser(__doc__)
    parser.add_argument("--checkpoint-dir", type=Path, default=Path("checkpoints"))
    parser.add_argument("--vgg19-weights", help="as for predict.py")
    parser.add_argument("--dataset-path", type=Path, help="real clips (default: drawn ones)")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="(default: all)")
    parser.add_argument("--clients", type=int, default=32, metavar="N", help="(default: 32)")
    parser.add_argument("--seconds", type=float, default=60, help="of load (default: 60)")
    parser.add_argument("--requests", type=int, default=2000, help="of memory (default: 2000)")
    parser.add_argument("--count", type=int, default=500, help="of mutated clips (default: 500)")
    flags = parser.parse_args(arguments)
    if "load" in flags.parts and importlib.util.find_spec("locust") is None:
        return explain("the load needs Locust: pip install -r requirements-dev.txt", 2)
    try:
        report = measure(flags)
    except UserError as error:
        return explain(str(error), 2)
    report["targets"] = targets_of(report)
    print_report(report, flags.json)
    return int(not all(report["targets"].values()))


def measure(flags: Any) -> dict[str, Any]:
    """Return the figures of the chosen parts."""
    report: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clips = originals(flags.dataset_path, folder)
        if "load" in flags.parts:
            report["load"] = measure_load(flags, clips, folder)
        if {"memory", "fuzz"}.isdisjoint(flags.parts):
            return report
        with served(flags, folder) as server:  # its memory is measured while it is new
            if "memory" in flags.parts:
                report["memory"] = measure_memory(server, flags.requests, folder)
            if "fuzz" in flags.parts:
                report["fuzz"] = fuzz(server, flags.count, clips, folder)
    return report


def targets_of(report: dict[str, Any]) -> dict[str, bool]:
    """Return whether each target of the measured parts is met."""
    targets = {}
    if load := report.get("load"):
        targets["load: nothing but 200 and 503"] = set(load["answers"]) <= {"200", "503"}
        targets[f"load: at least {AT_LEAST:g} of predict.py"] = load["over_predict"] >= AT_LEAST
    if memory := report.get("memory"):
        targets["memory: nothing but 200"] = set(memory["answers"]) == {"200"}
        targets[f"memory: grows by less than {FLAT - 1:.0%}"] = memory["last_over_second"] < FLAT
    if fuzzed := report.get("fuzz"):
        statuses = {int(s) for part in ("clips", "forms") for s in fuzzed[part] if s.isdigit()}
        targets["fuzz: no 5xx but 503"] = all(s < 500 or s == 503 for s in statuses)
        targets["fuzz: every clip is answered"] = "no answer" not in fuzzed["clips"]
        targets["fuzz: no file is left"] = fuzzed["files_left"] == 0
        targets["fuzz: it judges as before"] = fuzzed["judges_as_before"]
        targets["fuzz: no dead decoder is left"] = fuzzed["dead_processes"] == 0
    return targets


@dataclass(frozen=True)
class Server:
    """A running server."""

    process: psutil.Process
    address: str
    folder: Path  # for its temporary files

    def files_left(self) -> list[Path]:
        """Return the uploads that are stored."""
        return [path for path in self.folder.rglob("*") if re.fullmatch("[0-9a-f]{32}", path.name)]


@contextlib.contextmanager
def served(flags: Any, folder: Path) -> Iterator[Server]:
    """Run a server on loopback until the end of the block."""
    uploads = Path(tempfile.mkdtemp(dir=folder))
    command = [sys.executable, str(ROOT / "serve.py"), "--port", "0", "--host", "127.0.0.1"]
    command += ["--checkpoint-dir", str(flags.checkpoint_dir)]
    if flags.vgg19_weights:
        command += ["--vgg19-weights", flags.vgg19_weights]
    log = uploads / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(command, stderr=file, env={**os.environ, "TMPDIR": str(uploads)})
    try:
        while "ready:" not in log.read_text():
            if process.poll() is not None:
                raise UserError(log.read_text().strip().removeprefix("error: "))
            time.sleep(0.1)
        address = re.search(r"http://\S+:\d+", log.read_text())
        assert address
        yield Server(psutil.Process(process.pid), address[0], uploads)
    finally:
        process.terminate()
        process.wait()


class MemoryWatch:
    """Samples the memory of a server and its decoders until the end of the block, in MB."""

    def __init__(self, server: Server):
        self.server = server
        self.samples: list[float] = []  # of all processes; shared pages count once
        self._done = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "MemoryWatch":
        self._watcher.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._watcher.join()

    def _watch(self) -> None:
        while not self._done.wait(SAMPLE_EVERY):
            self.samples.append(memory_mb(self.server))


def memory_mb(server: Server) -> float:
    """Return the proportional set size of a server and its decoders."""
    total = 0
    for process in [server.process, *server.process.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            total += process.memory_full_info().pss
    return total / 2**20


def measure_load(flags: Any, clips: Sequence[Path], folder: Path) -> dict[str, Any]:
    """Return the clips/s that many clients get predicted, and how long each one waits."""
    predicting = flags.checkpoint_dir, flags.vgg19_weights, list(clips), flags.seconds / 2
    with served(flags, folder) as server:
        before = in_own_process(predict_rate, *predicting)
        with MemoryWatch(server) as memory:
            figures = run_locust(flags, server, clips, folder)
        shared = clips_per_pass(server)
        after = in_own_process(predict_rate, *predicting)
    seconds, ends = figures["seconds"], figures["ends"]
    # From the first prediction to the last one; all clients start at once.
    rate = (len(ends) - 1) / (ends[-1] - ends[0]) if len(ends) > 1 else 0.0
    predict = statistics.mean((before, after))
    return {
        "clients": flags.clients,
        "answers": {str(status): n for status, n in figures["answers_by_status"].items()},
        "clips_per_second": round(rate, 3),
        "predict_clips_per_second": [round(before, 3), round(after, 3)],
        "over_predict": round(rate / predict, 3),
        "clips_per_pass": round(shared, 2),
        "latency_p50": round(percentile(seconds, 50), 3),
        "latency_p99": round(percentile(seconds, 99), 3),
        "peak_mb": round(max(memory.samples)),
    }


def clips_per_pass(server: Server) -> float:
    """Return the mean number of clips per forward pass."""
    with urllib.request.urlopen(f"{server.address}/metrics", timeout=TIMEOUT) as response:
        text = response.read().decode()
    metrics = dict(re.findall(r"^violence_pass_clips_(sum|count) (\S+)$", text, re.MULTILINE))
    return float(metrics["sum"]) / max(float(metrics["count"]), 1.0)


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the value that `percent` of the sorted values do not exceed."""
    return values[min(len(values) - 1, int(len(values) * percent / 100))] if values else 0.0


def run_locust(flags: Any, server: Server, clips: Sequence[Path], folder: Path) -> dict[str, Any]:
    """Let Locust's clients send clips for a while; return their figures."""
    report = folder / "locust.json"
    sent = folder / "sent"
    sent.mkdir(exist_ok=True)
    for number, clip in enumerate(clips):
        with contextlib.suppress(FileExistsError):
            (sent / f"{number}.mp4").symlink_to(clip.absolute())
    command = [sys.executable, "-m", "locust", "-f", str(ROOT / "benchmarks" / "clip_senders.py")]
    command += ["--headless", "--only-summary", "--host", server.address, "--loglevel", "ERROR"]
    command += ["--users", str(flags.clients), "--spawn-rate", str(flags.clients)]
    command += ["--run-time", f"{flags.seconds:g}s", "--stop-timeout", f"{TIMEOUT:g}"]
    command += ["--clips", str(sent), "--report", str(report)]
    limit = flags.seconds + 2 * TIMEOUT
    subprocess.run(command, cwd=folder, timeout=limit, capture_output=True, check=False)
    return json.loads(report.read_text())


def predict_rate(
    checkpoint_dir: Path, vgg19_weights: str | None, clips: Sequence[Path], seconds: float
) -> float:
    """Return the clips/s of `predict_clips`, once it has warmed up."""
    from violence_detection.inference.detector import load_detector

    detector = load_detector(checkpoint_dir, vgg19_weights)
    at_once = detector.clips_per_batch
    with contextlib.closing(detector.predict_clips(itertools.cycle(clips))) as predictions:
        for _ in itertools.islice(predictions, 2 * at_once):  # warm-up
            pass
        began = now = time.perf_counter()
        predicted = 0
        while now - began < seconds:
            predicted += len(list(itertools.islice(predictions, at_once)))
            now = time.perf_counter()
    return predicted / (now - began)


def measure_memory(server: Server, requests: int, folder: Path) -> dict[str, Any]:
    """Return how the memory develops over many requests."""
    drawn = folder / "small"
    drawn.mkdir(exist_ok=True)
    clips = [path.read_bytes() for path in originals(None, drawn)]
    answers: Counter[str] = Counter()
    samples = []
    with ThreadPoolExecutor(SENDERS) as senders:
        for first in range(0, requests, 50):
            count = min(50, requests - first)
            sent = [form_of(clips[number % len(clips)]) for number in range(count)]
            answers.update(senders.map(lambda form: send(server, form), sent))
            samples.append(memory_mb(server))
    quarter = max(1, len(samples) // 4)
    second, last = samples[quarter : 2 * quarter] or samples, samples[-quarter:]
    return {
        "requests": requests,
        "answers": dict(answers),
        "mb_after_each_50": [round(sample) for sample in samples],
        "last_over_second": round(statistics.median(last) / statistics.median(second), 4),
        "peak_mb": round(max(samples)),
    }


def form_of(clip: bytes) -> bytes:
    """Return a form with a clip."""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="video"; filename="a"\r\n\r\n'
    return head.encode() + clip + f"\r\n--{BOUNDARY}--\r\n".encode()


def send(server: Server, form: bytes, route: str = "/predict") -> str:
    """Return the status of the answer on a form; "no answer" if there is none."""
    return ask(server, form, route)[0]


def ask(server: Server, form: bytes, route: str = "/predict") -> tuple[str, bytes]:
    """Return status and body of the answer on a form."""
    connection = http.client.HTTPConnection(urlsplit(server.address).netloc, timeout=TIMEOUT)
    headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    try:
        connection.request("POST", route, form, headers)
        response = connection.getresponse()
        return str(response.status), response.read()
    except (OSError, http.client.HTTPException):
        return "no answer", b""
    finally:
        connection.close()


def fuzz(server: Server, count: int, clips: Sequence[Path], folder: Path) -> dict[str, Any]:
    """Return what happens to hostile clips and forms, and to the server."""
    mutated = mutate(clips, count, 0, folder / "mutated")
    good = clips[0].read_bytes()
    forms = [*itertools.islice(bad_forms(form_of(good[:20_000])), BAD_FORMS)]
    with ThreadPoolExecutor(SENDERS) as senders:
        before = predict(server, good)
        began = time.perf_counter()

        def send_clip(number_and_path: tuple[int, Path]) -> str:
            number, path = number_and_path
            route = "/predict/timeline" if number % 5 == 4 else "/predict"
            return send(server, form_of(path.read_bytes()), route)

        clip_statuses = Counter(senders.map(send_clip, enumerate(mutated)))
        form_statuses = Counter(senders.map(lambda form: send(server, form), forms))
        for request in bad_requests(good):
            send_raw(server, request)
        seconds = time.perf_counter() - began
        after = predict(server, good)
        deadline = time.monotonic() + 10  # until the server notices clients that are gone
        while server.files_left() and time.monotonic() < deadline:
            time.sleep(0.1)
        processes = server.process.children(recursive=True)
        dead = sum(process.status() == psutil.STATUS_ZOMBIE for process in processes)
        return {
            "clips": dict(clip_statuses),
            "forms": dict(form_statuses),
            "files_left": len(server.files_left()),
            "judges_as_before": before is not None and after == before,
            "processes": len(processes),
            "dead_processes": dead,
            "seconds": round(seconds, 1),
        }


def predict(server: Server, clip: bytes) -> float | None:
    """Return the probability of a clip; None if there is no prediction."""
    status, body = ask(server, form_of(clip))
    return round(json.loads(body)["probability"], 5) if status == "200" else None


def bad_forms(form: bytes) -> Iterator[bytes]:
    """Yield endless forms that are truncated, reordered, or have a damaged head."""
    rng = random.Random(0)
    head = form.index(b"\r\n\r\n") + 4
    while True:
        data = bytearray(form)
        way = rng.randrange(5)
        if way == 0:
            data = data[: rng.randrange(len(data))]
        elif way == 1:
            for _ in range(rng.randrange(1, 20)):
                data[rng.randrange(head)] = rng.randrange(256)
        elif way == 2:
            data = data[rng.randrange(1, head) :]
        elif way == 3:
            data[head:head] = f"\r\n--{BOUNDARY}\r\n".encode() * rng.randrange(1, 50)
        else:
            offset = rng.randrange(head)
            data[offset:offset] = rng.randbytes(rng.randrange(1, 10_000))
        yield bytes(data)


def bad_requests(clip: bytes) -> Iterator[bytes]:
    """Yield requests that are not HTTP, or incomplete."""
    form = form_of(clip)
    head = f"Host: x\r\nContent-Type: multipart/form-data; boundary={BOUNDARY}\r\n"
    for length in (len(form), 10 * len(form), 10**15, -1, "x"):
        begin = f"POST /predict HTTP/1.1\r\n{head}Content-Length: {length}\r\n\r\n".encode()
        yield begin + form[: len(form) // 2]
    chunked = f"POST /predict HTTP/1.1\r\n{head}Transfer-Encoding: chunked\r\n\r\n".encode()
    for chunk in (b"", b"zz\r\n", b"ffffffffffffffff\r\nabc", b"5\r\nabcdef\r\n", b"-1\r\n"):
        yield chunked + chunk
    yield b"\0" * 1000
    yield b"GET / HTTP/1.1\r\n" + b"X: " + b"a" * 100_000 + b"\r\n\r\n"
    yield b"GET /" + b"%00" * 1000 + b" HTTP/1.1\r\nHost: x\r\n\r\n"
    yield b"POST /predict HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n"


def send_raw(server: Server, request: bytes) -> None:
    """Send bytes and disconnect."""
    parts = urlsplit(server.address)
    with (
        contextlib.suppress(OSError),
        socket.create_connection((parts.hostname, parts.port), timeout=1) as connection,
    ):
        connection.sendall(request)
        connection.recv(1000)


if __name__ == "__main__":
    sys.exit(main())
