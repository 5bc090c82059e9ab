"""`--preflight` as users run it, on the CPU with two replicas."""

from collections.abc import Iterator
from pathlib import Path

import keras
import pytest
import tensorflow as tf

from train_rtx5000_dual_optimized import main
from violence_detection.runtime.wording import COLUMNS
from violence_detection.training.trainer import Trainer

QUICK = [
    *("--preflight", "--replicas", "2", "--vgg19-weights", "random"),
    *("--feature-layer", "block1_conv1", "--frames", "2", "--streams", "difference"),
    *("--batch-size", "4", "--units", "8", "--projection", "8", "--no-report"),
]


def checks_in(screen: str) -> dict[str, str]:
    """Return the state of each check by its name."""
    states = ("passed", "FAILED", "skipped")
    rows = [line for line in screen.splitlines() if line.split(" ")[0] in states]
    return {row[8:35].strip(): row.split(" ")[0] for row in rows}


def files_below(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_a_machine_that_works_passes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a dataset, on clips that it draws."""
    monkeypatch.chdir(tmp_path)
    assert main(QUICK) == 0
    screen = capsys.readouterr().out
    assert all(len(line) <= COLUMNS for line in screen.splitlines())
    checks = checks_in(screen)
    passed = {name for name, state in checks.items() if state == "passed"}
    assert passed >= {
        *("cache writable", "disk room, cache", "checkpoints writable", "codecs"),
        *("decoders and features", "VGG19 on CPU:0", "VGG19 on CPU:1"),
        *("LSTM unrolled", "unrolled with XLA", "float16, unrolled", "float16 with XLA"),
        *("2 replicas equal one", "all-reduce"),
    }
    assert checks["LSTM by cuDNN"] == checks["CUDA libraries"] == "skipped"
    for figure in ("until features are there", "an epoch", "the run", "cache", "memory"):
        assert figure in screen
    assert "10,000 clips" in screen
    assert not list(tmp_path.iterdir())


@pytest.fixture
def wrong_numbers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Plant a loss scaled by too much, and replicas that do not add up their gradients."""
    scale_loss = keras.optimizers.LossScaleOptimizer.scale_loss
    monkeypatch.setattr(
        *(keras.optimizers.LossScaleOptimizer, "scale_loss"),
        lambda self, loss: 1.1 * scale_loss(self, loss),
    )

    def train_alone(self: Trainer, batches: list, size: int = 0) -> None:
        features, labels, weights = batches[0]
        gradients, _, _ = self.gradients(features, labels, weights, tf.ones(()))
        self.optimizer.apply_gradients(
            zip(gradients, self.classifier.trainable_weights, strict=True)
        )

    monkeypatch.setattr(Trainer, "train_step", train_alone)
    yield


@pytest.mark.slow
def test_what_is_wrong_fails_and_nothing_is_changed(
    few_clips: Path, tmp_path: Path, wrong_numbers: None, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()  # in the place of a folder
    bad = few_clips / "train" / "violent" / "violent0.mp4"
    bad.write_bytes(b"no video")
    before = files_below(tmp_path)
    flags = ["--dataset-path", str(few_clips), "--cache-dir", str(tmp_path / "file" / "cache")]
    flags += ["--checkpoint-dir", str(tmp_path / "run"), "--max-bad-clips", "0.05"]
    assert main([*QUICK, *flags]) == 1
    screen = capsys.readouterr().out
    failed = {name for name, state in checks_in(screen).items() if state == "FAILED"}
    assert failed == {
        *("cache writable", "decoders and features"),
        *("float16, unrolled", "float16 with XLA", "2 replicas equal one"),
    }
    assert "violent0.mp4" in screen
    assert "--no-mixed-precision" in screen
    assert f"for {len(list(few_clips.rglob('*.mp4')))} clips" in screen
    assert files_below(tmp_path) == before


def test_a_dataset_without_clips_is_the_users_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*QUICK, "--dataset-path", str(tmp_path / "nowhere")]) == 2
    assert "nowhere" in capsys.readouterr().err
