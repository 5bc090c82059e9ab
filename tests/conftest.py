"""Clips that the tests draw themselves, the real ones where they are, and two CPU replicas."""

import csv
import gc
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
import pytest
from filelock import FileLock

from violence_detection.runtime.tensorflow_log import quiet_tensorflow

quiet_tensorflow()
import tensorflow as tf

from tests.warm_start import ForkedProcess
from violence_detection.clips.demo import draw_clip
from violence_detection.features.cache.feature_cache import FeatureCache, Recipe
from violence_detection.features.cache.folder import CacheFolder
from violence_detection.features.cache.rows import FeatureRows
from violence_detection.runtime import interrupts
from violence_detection.storage import object_store as object_store_module

ROOT = Path(__file__).parent.parent
TRAIN = ROOT / "train_rtx5000_dual_optimized.py"
SHARED = ROOT.parent / "shared"
REAL_CLIPS = SHARED / "fights"
REAL_WEIGHTS = SHARED / "vgg19_imagenet_blocks1-3.h5"

SHORT = ("--epochs", "2")  # added to a quick run whose training is not what is tested

# One process for all tests: the CPU can only be divided before it is first used.
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)


class _Garbage:
    """Collects garbage between tests, and not while they run.

    Tracing a network makes so many objects that the usual search takes a sixth of all CPU time.
    """

    GROWTH = 500e6  # bytes that the process may grow by until it is searched again

    def __init__(self) -> None:
        gc.disable()
        self.limit = self._memory() + self.GROWTH

    @staticmethod
    def _memory() -> int:
        return psutil.Process().memory_info().rss

    def collect_if_large(self) -> None:
        if self._memory() > self.limit:
            gc.collect()
            self.limit = self._memory() + self.GROWTH


GARBAGE = _Garbage()


@pytest.fixture(autouse=True)
def garbage() -> Iterator[None]:
    """Let garbage lie until the end of a test."""
    yield
    GARBAGE.collect_if_large()


MadeOnce = Callable[[str, Callable[[Path], None]], Path]


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> MadeOnce:
    """Return a function that has a folder filled by the first process of the tests to need it."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent

    def fill(name: str, make: Callable[[Path], None]) -> Path:
        folder, made = root / name, root / f"{name}.made"
        with FileLock(root / f"{name}.lock"):
            if not made.exists():
                folder.mkdir()
                make(folder)
                made.touch()
        return folder

    return fill


@pytest.fixture(scope="session")
def drawn_clips(made_once: MadeOnce) -> Path:
    """Return a folder in layout 1: 6, 4 and 4 clips of each class."""

    def draw(folder: Path) -> None:
        random = np.random.default_rng(0)
        for split, count in {"train": 6, "val": 4, "test": 4}.items():
            for class_name in ("nonviolent", "violent"):
                (folder / split / class_name).mkdir(parents=True)
                for number in range(count):
                    path = folder / split / class_name / f"{class_name}{number}.mp4"
                    draw_clip(path, class_name == "violent", random)

    return made_once("drawn", draw)


@pytest.fixture
def few_clips(drawn_clips: Path, tmp_path: Path) -> Path:
    """Return a folder with two of the drawn clips of each class and split."""
    for path in drawn_clips.glob("*/*/*[01].mp4"):
        target = tmp_path / "clips" / path.relative_to(drawn_clips)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    return tmp_path / "clips"


@pytest.fixture
def real_clips() -> Path:
    """Return the folder of real clips, or skip."""
    if not REAL_CLIPS.is_dir():
        pytest.skip(f"the real clips are not in {REAL_CLIPS}")
    return REAL_CLIPS


@pytest.fixture
def real_weights() -> Path:
    """Return the real VGG19 kernels, or skip."""
    if not REAL_WEIGHTS.is_file():
        pytest.skip(f"the real kernels are not in {REAL_WEIGHTS}")
    return REAL_WEIGHTS


@contextmanager
def opened_cache(folder: Path, recipe: Recipe) -> Iterator[FeatureCache]:
    """Hold a cache folder until the end of the block; what was stored is kept."""
    with CacheFolder(folder) as held:
        cache = FeatureCache(held, recipe)
        yield cache
        cache.commit()


@pytest.fixture
def stored_features(tmp_path: Path) -> Callable[..., FeatureRows]:
    """Return a function that puts `(clips, frames, features)` into a file of rows."""

    def store(features: np.ndarray, name: str = "rows") -> FeatureRows:
        path = tmp_path / f"{name}.features"
        path.write_bytes(features.tobytes())
        return FeatureRows(path, features.shape[1:], features.dtype.name)

    return store


def write_hanging_clip(path: Path) -> Path:
    """Write a clip that FFmpeg reads for hours: an AVI followed by a terabyte of zeros."""
    writer = cv2.VideoWriter(f"{path}.avi", cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    for number in range(5):
        writer.write(np.full((48, 64, 3), number, np.uint8))
    writer.release()
    os.truncate(f"{path}.avi", 2**40)  # sparse: it takes no space
    return Path(f"{path}.avi").rename(path)


def quick_flags_in(folder: Path) -> list[str]:
    """Return flags for a run of seconds on the drawn clips, its folders below `folder`."""
    return [
        *("--cache-dir", str(folder / "cache"), "--checkpoint-dir", str(folder / "run")),
        *("--vgg19-weights", "random", "--feature-layer", "block1_conv1", "--frames", "4"),
        *("--streams", "rgb", "--head", "mean"),  # the LSTM takes seconds longer to be traced
        *("--epochs", "5", "--warmup-epochs", "1", "--batch-size", "8", "--deterministic"),
        *("--no-mixed-precision", "--groups", "none", "--folds", "1"),
        "--no-report",  # its plots take as long as the training
    ]


@pytest.fixture
def quick_flags(tmp_path: Path) -> list[str]:
    """Return the flags of a quick run below `tmp_path`."""
    return quick_flags_in(tmp_path)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Return the checkpoint directory of `quick_flags`."""
    return tmp_path / "run"


@pytest.fixture
def flags(drawn_clips: Path, quick_flags: list[str]) -> list[str]:
    """Return the flags of a quick run on the drawn clips."""
    return ["--dataset-path", str(drawn_clips), *quick_flags]


@pytest.fixture(scope="session")
def finished(drawn_clips: Path, made_once: MadeOnce) -> Path:
    """Return the folder of a finished run of `flags`, which is not to be changed.

    It holds the checkpoint directory `run`, the features in `cache`, and `screen.txt`.
    """
    from train_rtx5000_dual_optimized import main

    def train(folder: Path) -> None:
        with redirect_stdout(io.StringIO()) as screen:
            flags = ["--dataset-path", str(drawn_clips), *quick_flags_in(folder), "--report"]
            assert main(flags) == 0
        (folder / "screen.txt").write_text(screen.getvalue())

    return made_once("finished", train)


@pytest.fixture
def run_before(finished: Path, tmp_path: Path) -> None:
    """Put a finished run where `flags` would have it, and its features."""
    for name in ("cache", "run"):
        shutil.copytree(finished / name, tmp_path / name)


@pytest.fixture
def features_before(finished: Path, tmp_path: Path) -> None:
    """Put the features of the drawn clips where `flags` would have them."""
    shutil.copytree(finished / "cache", tmp_path / "cache")


@pytest.fixture(scope="session")
def trained(drawn_clips: Path, made_once: MadeOnce) -> Path:
    """Return the folder of a finished run, of two streams, with more frames cached than used.

    It holds the checkpoint directory `run` and the features in `cache`.
    """
    from train_rtx5000_dual_optimized import main

    def train(folder: Path) -> None:
        command = [
            *("--dataset-path", str(drawn_clips), "--cache-dir", str(folder / "cache")),
            *("--checkpoint-dir", str(folder / "run"), "--vgg19-weights", "random"),
            *("--feature-layer", "block1_conv1", "--frames", "4", "--cached-frames", "6"),
            *("--epochs", "4", "--warmup-epochs", "1", "--batch-size", "8", "--deterministic"),
            *("--folds", "1", "--no-report"),
        ]
        assert main(command) == 0

    return made_once("trained", train)


@pytest.fixture(scope="session")
def exported(trained: Path, made_once: MadeOnce) -> Path:
    """Return a folder with the end-to-end files of `trained`, in each format there is a runtime of.

    Their speeds are measured as little as possible.
    """
    from violence_detection.commands.export import PACKAGES
    from violence_detection.commands.export import main as export
    from violence_detection.export import runtimes

    formats = [name for name, needs in PACKAGES.items() if all(map(find_spec, needs))]

    def write(folder: Path) -> None:
        flags = ["--end-to-end", "--clips", "2", "--format", *formats, "--output", str(folder)]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(runtimes, "SECONDS_EACH", 0.0)
            assert export(["--checkpoint-dir", str(trained / "run"), *flags]) == 0

    return made_once("exported", write)


@pytest.fixture(scope="session")
def extracted(drawn_clips: Path, made_once: MadeOnce) -> Path:
    """Return the cache that `tests.extraction.extract` makes in one process; not to be changed."""
    from tests.extraction import extract

    def extract_all(folder: Path) -> None:
        assert extract(drawn_clips, folder / "cache") == 0

    return made_once("extracted", extract_all) / "cache"


@pytest.fixture(scope="session")
def extracted_features(
    drawn_clips: Path, extracted: Path, tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, bytes]]:
    """Return the features in that cache: for each recipe, of each clip by its name."""
    from tests.extraction import features_in

    copy = tmp_path_factory.mktemp("copy") / "cache"
    return features_in(drawn_clips, shutil.copytree(extracted, copy))


@pytest.fixture
def not_hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let an interrupted run end at its own pace: after `GRACE` the tests' process would end."""
    monkeypatch.setattr(interrupts, "GRACE", 600.0)


def rows_of(run: Path) -> list[dict[str, str]]:
    """Return the rows of a run's CSV."""
    with (run / "training_history.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def figures_of(run: Path) -> list[tuple[str, ...]]:
    """Return what is the same in each epoch of two equal runs."""
    names = ("epoch", "loss", "accuracy", "val_loss", "val_accuracy", "learning_rate")
    return [tuple(row[name] for name in names) for row in rows_of(run)]


def results_of(run: Path) -> dict[str, Any]:
    """Return a run's results."""
    return json.loads((run / "training_results.json").read_text())


@pytest.fixture
def train_process() -> Callable[..., ForkedProcess]:
    """Return a function that starts the training command in a process of its own."""

    def start(*flags: str) -> ForkedProcess:
        return ForkedProcess([str(TRAIN), *flags], os.environ)

    return start


@contextmanager
def held_by_another(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Hold a folder in a process of its own until the end of the block, or its death."""
    program = (
        "import sys; from pathlib import Path\n"
        "from violence_detection.storage.locks import locked\n"
        "with locked(Path(sys.argv[1]), print): print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(folder)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, text=True, **pipes) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.stdin.close()


@pytest.fixture
def object_store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Start an S3 server on loopback, empty, that this process and those it starts find."""
    for name, value in {
        "AWS_ACCESS_KEY_ID": "tests",
        "AWS_SECRET_ACCESS_KEY": "tests",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "1",  # botocore's own tries: it is ours that are tested
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(object_store_module, "RETRY_WAITS", (0.05, 0.1, 0.2))
    from moto.s3.models import s3_backends

    from tests.object_store import ObjectStore

    store = ObjectStore()
    monkeypatch.setenv("AWS_ENDPOINT_URL", store.url)
    yield store
    store.close()
    for account in s3_backends.values():
        for backend in account.values():
            backend.reset()
