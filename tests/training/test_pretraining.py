import shutil
import signal
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.conftest import SHORT, figures_of
from tests.integration.test_pixels import flags_in
from train_rtx5000_dual_optimized import main
from violence_detection.models.video_networks import pixel_classifier
from violence_detection.runs.files import PRETRAINED
from violence_detection.settings.training import PRETRAIN_TASKS
from violence_detection.training import pretraining
from violence_detection.training.optimizer import make_optimizer
from violence_detection.training.pixel_augmentation import PixelAugmentation
from violence_detection.training.pretraining import AUGMENTED, Pretrainer

CLIPS, FRAMES, SIZE = 16, 8, 16


def moving_squares() -> np.ndarray:
    """Return clips of a square of some colour that moves to the right, as the cache has them."""
    random = np.random.default_rng(0)
    clips = random.integers(0, 30, (CLIPS, FRAMES, SIZE, SIZE, 3), np.uint8)
    for clip in clips:
        colour, row = random.integers(60, 255, 3), random.integers(0, SIZE - 5)
        for frame in range(FRAMES):
            clip[frame, row : row + 5, frame : frame + 5] = colour
    return clips.reshape(CLIPS, FRAMES, -1)


@pytest.mark.parametrize("task", PRETRAIN_TASKS)
def test_what_is_learned_without_labels_is_below_the_logit(task: str) -> None:
    keras.utils.set_random_seed(0)
    network = pixel_classifier("3d", FRAMES, 1, SIZE, dropout=0.0, l2=0.0)
    model = Pretrainer(network, PixelAugmentation(["rgb"], AUGMENTED), task, seed=0)
    model.compile(optimizer=make_optimizer(1e-3, 1.0, loss_scaling=False), jit_compile=False)
    model.build_all()
    before = {layer.name: layer.get_weights() for layer in network.layers if layer.weights}
    clips = moving_squares()
    batches = tf.data.Dataset.from_tensors((clips, np.zeros((CLIPS, 1)), np.ones(CLIPS)))
    losses = model.fit(
        batches.repeat(), steps_per_epoch=10, epochs=4, verbose=0, shuffle=False
    ).history["loss"]
    assert losses[-1] < 0.9 * losses[0]
    changed = {
        name
        for name, weights in before.items()
        if any(
            (a != b).any()
            for a, b in zip(weights, network.get_layer(name).get_weights(), strict=True)
        )
    }
    assert changed == set(before) - {"logit"}


@pytest.mark.slow
@pytest.mark.usefixtures("not_hurried")
def test_interrupted_pretraining_resumes_with_the_same_weights(
    few_clips: Path,
    drawn_clips: Path,
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Among the clips without labels is a copy of a test clip, which is left out."""
    unlabeled = tmp_path / "unlabeled"
    shutil.copytree(drawn_clips / "train" / "violent", unlabeled)
    (copied, *_) = sorted((few_clips / "test" / "violent").iterdir())
    shutil.copy(copied, unlabeled / "copy.mp4")
    network = ("--model", "3d", "--pixels", "16", "--streams", "rgb", *SHORT)
    pretrained = ("--pretrain", str(unlabeled), "--pretrain-epochs", "2")
    whole = flags_in(tmp_path / "whole", few_clips, *network, *pretrained)
    assert main(whole) == 0
    assert "7 unlabeled clips; left out as copies of test clips: 1" in capsys.readouterr().out
    saved = Pretrainer.save_state

    def interrupt(model: Pretrainer, path: Path, epoch: int) -> None:
        saved(model, path, epoch)
        if epoch == 1:
            signal.raise_signal(signal.SIGINT)

    flags = flags_in(tmp_path, few_clips, *network, *pretrained)
    with monkeypatch.context() as pressed:
        pressed.setattr(pretraining.Pretrainer, "save_state", interrupt)
        assert main(flags) == 130
    capsys.readouterr()
    assert main(flags) == 0
    assert "epochs 2 to 2" in capsys.readouterr().out
    assert figures_of(run) == figures_of(tmp_path / "whole" / "run")
    with np.load(run / PRETRAINED) as own, np.load(tmp_path / "whole/run" / PRETRAINED) as other:
        assert all((own[name] == other[name]).all() for name in other.files)

    # Its weights serve another run, of the same network.
    again = flags_in(tmp_path / "again", few_clips, *network, "--pretrain", str(run / PRETRAINED))
    assert main(again) == 0
    assert figures_of(tmp_path / "again" / "run") == figures_of(run)
    assert main([*again, "--fresh", "--streams", "rgb,flow"]) == 2
    assert "give the --model and --streams that it was made with" in capsys.readouterr().err

    for clip in unlabeled.iterdir():
        if clip.name != "copy.mp4":
            clip.unlink()
    assert main(flags_in(tmp_path / "none", few_clips, *network, *pretrained)) == 2
    assert "no clip without labels is left" in capsys.readouterr().err
