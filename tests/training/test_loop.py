"""The effect of mining and curricula on training, and resuming a run that uses them."""

import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import figures_of, quick_flags_in, results_of
from train_rtx5000_dual_optimized import main
from violence_detection.features.cache.rows import FeatureRows
from violence_detection.runs.directory import RunDirectory
from violence_detection.settings.parser import parse_settings
from violence_detection.settings.schema import Settings
from violence_detection.training import callbacks
from violence_detection.training.batches import ClipFeatures
from violence_detection.training.callbacks import write_models_of_last_epoch
from violence_detection.training.loop import clip_losses, fit
from violence_detection.training.trainer import Trainer

CLIPS = 64


def settings_with(*flags: str) -> Settings:
    common = ("--dataset-path", ".", "--vgg19-weights", "random", "--warmup-epochs", "1")
    small = ("--units", "16", "--projection", "16", "--batch-size", "16")
    return parse_settings([*common, *small, *flags])


@pytest.fixture
def clips(stored_features: Callable[[np.ndarray], FeatureRows]) -> ClipFeatures:
    """Return clips whose first value shows the label, except for the last eight: the other one."""
    random = np.random.default_rng(0)
    features = random.random((CLIPS, 4, 6)).astype(np.float32)
    labels = np.arange(CLIPS) % 2
    features[:, :, 0] += 2 * np.where(np.arange(CLIPS) >= CLIPS - 8, 1 - labels, labels)[:, None]
    return ClipFeatures([stored_features(features)], range(CLIPS), labels)


def test_hard_clips_are_learned_sooner_when_they_are_mined(clips: ClipFeatures) -> None:
    losses = {}
    for flags in ((), ("--hard-mining",)):
        plain = ("--dropout", "0", "--l2", "0", "--no-use-focal-loss", "--label-smoothing", "0")
        settings = settings_with("--epochs", "12", "--learning-rate", "0.01", *plain, *flags)
        trainer = fit(settings, clips, "float32")
        losses[flags] = clip_losses(trainer, clips, 16)[-8:].mean()
    assert losses["--hard-mining",] < 0.9 * losses[()]


def test_failed_training_does_not_wait_for_losses(clips: ClipFeatures) -> None:
    """Two steps an epoch: the batches are ahead by several epochs when it ends."""

    def fail(epoch: int, trainer: Trainer) -> None:
        raise OSError("the disk is full")

    settings = settings_with("--epochs", "40", "--hard-mining", "--batch-size", "32")
    with pytest.raises(OSError, match="the disk is full"):
        fit(settings, clips, "float32", fail)


def test_curriculum_begins_with_what_a_warm_up_model_finds_easy(clips: ClipFeatures) -> None:
    settings = settings_with("--epochs", "2", "--curriculum", "--learning-rate", "0.01")
    easiness = fit(settings, clips, "float32").kept["easiness"]
    assert easiness[-8:].mean() > 1.15 * easiness[:-8].mean()


ALL_OPTIONS = (
    *("--hard-mining", "--sampling", "stratified", "--curriculum"),
    *("--cached-frames", "6", "--augment", "jitter,mixup,noise,flip", "--epochs", "3"),
)


@pytest.fixture(scope="module")
def uninterrupted(drawn_clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the checkpoint directory of a run that was not interrupted."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    flags = ["--dataset-path", str(drawn_clips), *quick_flags_in(folder)]
    assert main([*flags, *ALL_OPTIONS]) == 0
    return folder / "run"


@pytest.mark.slow
@pytest.mark.usefixtures("not_hurried")
def test_interrupted_run_with_all_options_resumes_with_the_same_results(
    flags: list[str],
    run: Path,
    uninterrupted: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of an ensemble, the tests of runs with folds interrupt the second member."""

    def interrupt(of_run: RunDirectory, trainer: Trainer) -> None:
        write_models_of_last_epoch(of_run, trainer)
        if len(of_run.history) == 2:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as pressed:
        pressed.setattr(callbacks, "write_models_of_last_epoch", interrupt)
        assert main([*flags, *ALL_OPTIONS]) == 130
    assert len(figures_of(run)) == 2
    assert main([*flags, *ALL_OPTIONS]) == 0
    assert figures_of(run) == figures_of(uninterrupted)
    assert results_of(run)["evaluation"] == results_of(uninterrupted)["evaluation"]
