"""Whether watched cameras lose or double events while all that they rest on is killed in turn.

    python -m benchmarks.watch --minutes 20 --cameras 8 --json FILE

Drawn scenes are played as cameras over HTTP, 5 frames a second; `watch.py` watches them with a
small model that is trained first, sends every line to a broker (mosquitto), and shows its page.
Every two minutes something is killed or stopped for a while: a camera, the watcher itself, the
broker, the network of one source, and all but the watcher again. Fights are drawn at known times
and bear a number, which the model cannot see: so each event's clip tells which fight it shows.
"""

import contextlib
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from benchmarks.command import make_parser, write_report
from benchmarks.played_cameras import MASK, PERIOD, draw_scene
from benchmarks.watch_findings import Outage, findings, table

EVERY = 120.0  # seconds from one outage to the next
OUTAGE = 15.0  # seconds that it lasts
LATER = ("broker", "network", "camera")
SAMPLE = 5.0  # seconds from one look at memory and page to the next
WARM = 60.0  # seconds for model and cameras to start
TOPIC = "violence"
SETTINGS = """\
events = "{events}"
silence = 5
[clips]
before = 3
after = 2
[alarm]
windows = "3 of 4"
cool-down = 5
[page]
port = {page}
[[receiver]]
kind = "mqtt"
host = "127.0.0.1"
port = {broker}
topic = "{topic}"
"""
CAMERA = """\
[[camera]]
name = "camera{number}"
source = "http://127.0.0.1:{port}/"
mask = {mask}
"""
TRAINING = [
    *("--vgg19-weights", "random", "--feature-layer", "block1_conv1", "--frames", "8"),
    *("--streams", "difference", "--head", "mean", "--epochs", "40", "--warmup-epochs", "2"),
    *("--batch-size", "16", "--groups", "none", "--folds", "1", "--no-report"),
]


def main() -> None:
    """Run the soak, print its table, and write the file that is asked for."""
    parser = make_parser(__doc__)
    parser.add_argument("--minutes", type=float, default=20.0, help="(default: 20)")
    parser.add_argument("--cameras", type=int, default=8, help="(default: 8)")
    parser.add_argument("--folder", type=Path, help="keep everything in this new folder")
    flags = parser.parse_args()
    if shutil.which("mosquitto") is None:
        sys.exit("mosquitto is not installed: `apt install mosquitto`")
    with tempfile.TemporaryDirectory() as temporary:
        folder = flags.folder or Path(temporary) / "soak"
        folder.mkdir(parents=True)
        soak = Soak(folder, flags.cameras)
        report = soak.run(60 * flags.minutes)
    print(table(report))
    write_report(report, flags.json)


@dataclass
class Soak:
    """The processes of a soak, and what was seen of them."""

    folder: Path
    cameras: int
    began: float = 0.0  # when the scenes begin, in seconds since 1970
    ports: list[int] = field(default_factory=list)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    outages: list[Outage] = field(default_factory=list)
    memory: list[tuple[float, float]] = field(default_factory=list)  # time, MB of the watcher
    page_failures: int = 0
    starts: list[float] = field(default_factory=list)  # of the watcher

    def run(self, seconds: float) -> dict[str, Any]:
        """Prepare, watch for so many seconds, stop, and return what was found."""
        self._prepare()
        with contextlib.ExitStack() as stack:
            stack.callback(self._kill_all)
            received = stack.enter_context(self._broker_and_subscriber())
            for number in range(self.cameras):
                self._start_camera(number)
            self._start_watcher()
            self._watch(time.time() + WARM + seconds)
            ended = time.time()
            self._stop_watcher()
            # What the broker has confirmed may still be on its way to the subscriber.
            time.sleep(5)
            lines = [json.loads(text) for text in received]
        began = [self._began_of(number) for number in range(self.cameras)]
        return findings(self.folder / "events", lines, began, ended, self.outages) | {
            "windows": windows_of(self.folder / "watcher.txt"),
            "cameras": self.cameras,
            "minutes": round(seconds / 60, 1),
            "memory_mb": self._memory_figures(),
            "page_failures": self.page_failures,
        }

    def _prepare(self) -> None:
        clips = self.folder / "clips"
        from violence_detection.clips.demo import draw_demo_clips

        draw_demo_clips(clips)
        flags = ["--dataset-path", str(clips), "--checkpoint-dir", str(self.folder / "run")]
        flags += ["--cache-dir", str(self.folder / "cache"), *TRAINING]
        with (self.folder / "training.txt").open("wb") as log:
            command = [sys.executable, "train_rtx5000_dual_optimized.py", *flags]
            subprocess.run(command, check=True, stdout=log, stderr=log)
        for number in range(self.cameras):
            draw_scene(self.folder / f"scene{number}.mp4", seed=number)
        self.ports = [free_port() for _ in range(self.cameras + 2)]
        settings = SETTINGS.format(
            events=self.folder / "events", page=self.ports[-1], broker=self.ports[-2], topic=TOPIC
        )
        mask = json.dumps([MASK])
        for number in range(self.cameras):
            settings += CAMERA.format(number=number, port=self.ports[number], mask=mask)
        (self.folder / "cameras.toml").write_text(settings)
        self.began = time.time()

    def _start(self, name: str, command: list[str]) -> None:
        with (self.folder / f"{name}.txt").open("ab") as log:
            self.processes[name] = subprocess.Popen(command, stdout=log, stderr=log)

    def _start_camera(self, number: int) -> None:
        module = [sys.executable, "-m", "benchmarks.played_cameras"]
        scene = str(self.folder / f"scene{number}.mp4")
        port, began = str(self.ports[number]), str(self._began_of(number))
        self._start(f"camera{number}", [*module, scene, "--port", port, "--began", began])

    def _began_of(self, camera: int) -> float:
        """Return when the scene of a camera began: their fights are spread over time."""
        return self.began - PERIOD * camera / self.cameras

    def _start_broker(self) -> None:
        self._start("broker", ["mosquitto", "-c", str(self.folder / "mosquitto.conf")])

    def _start_watcher(self) -> None:
        flags = ["--checkpoint-dir", str(self.folder / "run")]
        self.starts.append(time.time())
        self._start(
            "watcher", [sys.executable, "watch.py", str(self.folder / "cameras.toml"), *flags]
        )

    @contextlib.contextmanager
    def _broker_and_subscriber(self) -> Iterator[list[str]]:
        import paho.mqtt.client as mqtt

        store = self.folder / "mosquitto"
        store.mkdir()
        (self.folder / "mosquitto.conf").write_text(
            f"listener {self.ports[-2]} 127.0.0.1\nallow_anonymous true\npersistence true\n"
            f"persistence_location {store}/\nautosave_on_changes true\nautosave_interval 1\n"
            "user root\n"
        )
        self._start_broker()
        received: list[str] = []
        client = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2, client_id="soak", clean_session=False
        )
        client.on_message = lambda *event: received.append(event[-1].payload.decode())

        def subscribe(*_: Any) -> None:
            client.subscribe(f"{TOPIC}/+/event", qos=1)

        client.on_connect = subscribe
        client.reconnect_delay_set(1, 2)
        wait_for_port(self.ports[-2])
        client.connect("127.0.0.1", self.ports[-2])
        client.loop_start()
        try:
            yield received
        finally:
            client.loop_stop()

    def _watch(self, until: float) -> None:
        """Kill and stop things in turn until a time, and look at memory and page meanwhile."""
        due = time.time() + WARM + EVERY / 2
        turn = 0
        while time.time() < until:
            if time.time() >= due and due + EVERY / 2 < until:
                self._disturb(turn)
                turn, due = turn + 1, due + EVERY
            self._look()
            time.sleep(SAMPLE)

    def _disturb(self, turn: int) -> None:
        # The watcher but once: its memory is to be seen over a long time.
        what = ("camera", "watcher", "broker", "network")[turn] if turn < 4 else LATER[turn % 3]
        number = turn % self.cameras
        start = time.time()
        if what == "camera":
            self._kill(f"camera{number}")
            self._pass(OUTAGE)
            self._start_camera(number)
        elif what == "broker":
            self._kill("broker")
            self._pass(OUTAGE)
            self._start_broker()
        elif what == "network":
            self.processes[f"camera{number}"].send_signal(signal.SIGSTOP)
            self._pass(OUTAGE)
            self.processes[f"camera{number}"].send_signal(signal.SIGCONT)
        else:
            self._kill("watcher")
            self._pass(OUTAGE)
            self._start_watcher()
        camera = number if what in ("camera", "network") else None
        self.outages.append(Outage(what, start, time.time(), camera))

    def _pass(self, seconds: float) -> None:
        until = time.time() + seconds
        while time.time() < until:
            self._look()
            time.sleep(1.0)

    def _look(self) -> None:
        """Note the memory of the watcher and its decoders, and whether the page answers."""
        watcher = self.processes["watcher"]
        if watcher.poll() is not None or time.time() - self.starts[-1] < WARM:
            return
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(watcher.pid)
            family = [process, *process.children(recursive=True)]
            # Their own: pages that are shared with other programs come and go with these.
            self.memory.append((time.time(), sum(p.memory_full_info().uss for p in family) / 1e6))
        try:
            address = f"http://127.0.0.1:{self.ports[-1]}/api/cameras"
            with urllib.request.urlopen(address, timeout=5) as answer:
                assert len(json.load(answer)["cameras"]) == self.cameras
        except (OSError, AssertionError):
            self.page_failures += 1

    def _memory_figures(self) -> dict[str, float]:
        """Return the mean memory of the last life's first two minutes, and of its last two."""
        last = [(when, size) for when, size in self.memory if when >= self.starts[-1]]
        if not last:
            return {}
        first = [size for when, size in last if when < last[0][0] + 120]
        end = [size for when, size in last if when > last[-1][0] - 120]
        lasted = (last[-1][0] - last[0][0]) / 60
        mean = {"first": sum(first) / len(first), "last": sum(end) / len(end), "minutes": lasted}
        return {name: round(value, 1) for name, value in mean.items()}

    def _stop_watcher(self) -> None:
        watcher = self.processes["watcher"]
        watcher.send_signal(signal.SIGTERM)
        watcher.wait(60)

    def _kill(self, name: str) -> None:
        process = self.processes[name]
        process.kill()
        process.wait()

    def _kill_all(self) -> None:
        for name, process in self.processes.items():
            process.send_signal(signal.SIGCONT)
            self._kill(name)


def windows_of(log: Path) -> dict[str, int]:
    """Return how many windows the watcher has predicted and skipped, as its log has them."""
    text = log.read_text()
    counts = {"predicted": r"(\d+) windows?", "skipped": r"(\d+) skipped"}
    return {name: sum(map(int, re.findall(each, text))) for name, each in counts.items()}


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for_port(port: int, seconds: float = 30.0) -> None:
    """Wait until something listens on a port; raises `TimeoutError`."""
    until = time.time() + seconds
    while time.time() < until:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.1)
    raise TimeoutError(f"nothing listens on port {port}")


if __name__ == "__main__":
    main()
