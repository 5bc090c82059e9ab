"""The whole job, as a user runs it."""

import csv
import json
import re
import shlex
import shutil
import signal
import sys
from collections.abc import Callable
from html import unescape
from pathlib import Path

import keras
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.conftest import SHORT, figures_of, results_of, rows_of
from tests.integration.test_remote_run import probabilities_of
from tests.warm_start import ForkedProcess
from train_rtx5000_dual_optimized import main
from violence_detection.inference.detector import load_detector
from violence_detection.runs.directory import RunDirectory
from violence_detection.runtime import machine
from violence_detection.runtime.devices import Precision
from violence_detection.settings.schema import FIELDS
from violence_detection.storage.files import write_json
from violence_detection.training import callbacks
from violence_detection.training.callbacks import write_models_of_last_epoch
from violence_detection.training.trainer import Trainer

Start = Callable[..., ForkedProcess]


@pytest.fixture
def dataset(drawn_clips: Path, tmp_path: Path) -> Path:
    """Return a copy of the drawn clips, to be changed."""
    return Path(shutil.copytree(drawn_clips, tmp_path / "clips"))


@pytest.fixture
def dataset_flags(dataset: Path, quick_flags: list[str]) -> list[str]:
    return ["--dataset-path", str(dataset), *quick_flags]


def test_run_leaves_what_it_promises(finished: Path) -> None:
    run, screen = finished / "run", (finished / "screen.txt").read_text()
    for words in (
        *("train  6 nonviolent, 6 violent", "RANDOM WEIGHTS", "float32", "nonviolent 1.000"),
        *("rgb features of 28 clips at block1_conv1 in ", "mean with "),
    ):
        assert words in screen

    rows = rows_of(run)
    assert [row["epoch"] for row in rows] == [str(epoch) for epoch in range(1, 6)]
    assert float(rows[-1]["learning_rate"]) == pytest.approx(1e-7, rel=1e-3)
    for name in ("best_model.keras", "checkpoint_epoch_005.keras"):
        model = keras.models.load_model(run / name)
        assert model.input_shape == (None, 4, 64)
        assert model.get_layer("attention").output.shape == (None, 4)

    config = json.loads((run / "training_config.json").read_text())
    assert config["settings"].keys() == FIELDS.keys()
    assert all(config["versions"][name] for name in ("python", "tensorflow", "keras", "numpy"))
    assert config["versions"]["opencv-python-headless"]
    assert config["devices"]

    results = results_of(run)
    assert results["best_epoch"] == 5  # of so few clips, no other epoch is better for certain
    assert results["chosen_on"]["clips"] == 8
    assert results["evaluated_split"] == "test"
    assert np.sum(results["evaluation"]["confusion_matrix"]) == 8
    assert results["untrained_vgg19"] is True
    # Console, results and report agree that random weights say nothing about violence.
    page = " ".join(re.sub("<[^>]*>", "", unescape((run / "report.html").read_text())).split())
    verdict = results["verdict"]
    assert "random weights" in verdict[0] and "etter than chance" not in screen + page
    assert all(sentence in page and sentence in " ".join(screen.split()) for sentence in verdict)

    for side, tag in (("train", "epoch/learning_rate"), ("validation", "epoch/accuracy")):
        events = EventAccumulator(str(run / "tensorboard" / side)).Reload()
        assert [event.step for event in events.Scalars(tag)] == [1, 2, 3, 4, 5]
    assert "epoch   5/5" in (run / "training.log").read_text()
    assert (run / "report.html").exists()
    assert {path.stem for path in (run / "plots").glob("*.png")} >= {"curves", "roc", "confusion"}

    with (run / "predictions.csv").open(newline="") as file:
        attention = [
            [float(row[f"attention_{frame}"]) for frame in range(1, 5)]
            for row in csv.DictReader(file)
        ]
    assert np.sum(attention, axis=1) == pytest.approx(np.ones(8), abs=1e-3)


def test_screen_is_lines_that_fit(finished: Path) -> None:
    run, screen = finished / "run", (finished / "screen.txt").read_text()
    assert not re.search(r"[\x00-\x08\x0b-\x1f]", screen + (run / "training.log").read_text())
    lines = screen.splitlines()
    epochs = [line for line in lines if line.startswith("epoch ")]
    assert len(epochs) == 5
    assert max(map(len, epochs)) < 80
    assert any(re.fullmatch(r"device .*CPU.* GiB\)", line) for line in lines)
    stages = results_of(run)["seconds_by_stage"]
    assert {"VGG19", "training", "validation", "test"} <= stages.keys()
    assert sum(stages.values()) == pytest.approx(results_of(run)["usage"]["seconds"], rel=0.2)


@pytest.mark.usefixtures("interrupted")
def test_screen_ends_with_where_everything_is(
    flags: list[str], run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere = tmp_path / "my drive" / "run #1 100%"
    elsewhere.parent.mkdir()
    run = run.rename(elsewhere)
    assert main([*flags, "--checkpoint-dir", str(run), "--quiet", "--cloud-price", "3.6"]) == 0
    lines = capsys.readouterr().out.splitlines()
    spent = results_of(run)["usage"]
    assert spent["energy_kwh"] is None  # there is no GPU to measure
    assert spent["cloud_cost"] == pytest.approx(spent["seconds"] / 1000)
    next_step, accuracy, spent_line, *places, curves, following = lines[-7:]
    assert accuracy.startswith("test accuracy ") and " of 8" in accuracy
    assert spent_line.startswith("best epoch ") and "in the cloud" in spent_line
    assert max(map(len, (next_step, accuracy, spent_line))) <= 80
    report, model = places
    assert shlex.split(report)[1:] == ["python", "report.py", "--checkpoint-dir", str(run)]
    assert model == f"model    {run / 'best_model.keras'}"
    # They can be pasted into a shell.
    assert shlex.split(curves)[1:] == ["tensorboard", "--logdir", str(run / "tensorboard")]
    assert shlex.split(following)[-2:] == [str(run), "CLIP…"]


def test_rows_say_how_the_machine_was_used(finished: Path) -> None:
    for row in rows_of(finished / "run"):
        assert float(row["loss_scale"]) == 1
        assert float(row["memory_mb"]) > 100
        assert 0 <= float(row["cpu_utilization"] or 0) <= 100


@pytest.mark.usefixtures("run_before")
@pytest.mark.parametrize("lost", ["report.html", "tensorboard/hparams/events.out.tfevents.hparams"])
def test_what_a_run_killed_after_its_test_had_not_shown_is_written(
    flags: list[str], run: Path, lost: str
) -> None:
    (run / lost).unlink()
    before = (run / "training_results.json").read_bytes()
    assert main([*flags, "--report"]) == 0
    assert (run / lost).exists()
    assert (run / "training_results.json").read_bytes() == before


@pytest.mark.slow
@pytest.mark.usefixtures("features_before")
def test_profile_and_tracker_of_a_run(flags: list[str], run: Path, tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    place = tmp_path / "tracked"
    assert main([*flags, *SHORT, "--profile", "--mlflow", str(place)]) == 0
    assert list((run / "tensorboard").rglob("*.xplane.pb"))
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{place}/mlflow.db")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    (tracked,) = client.search_runs(experiments)
    assert tracked.info.status == "FINISHED"
    assert tracked.data.params["batch_size"] == "8"
    results = results_of(run)
    assert tracked.data.metrics["test_accuracy"] == results["evaluation"]["accuracy"]
    losses = client.get_metric_history(tracked.info.run_id, "val_loss")
    assert [point.step for point in losses] == [1, 2]

    # As if killed before it was reported; and logged elsewhere, too, once it is finished.
    (run / "resume" / "trackers.json").unlink()
    assert main([*flags, *SHORT, "--mlflow", str(tmp_path / "elsewhere")]) == 0
    client = MlflowClient(f"sqlite:///{tmp_path}/elsewhere/mlflow.db")
    (tracked,) = client.search_runs([e.experiment_id for e in client.search_experiments()])
    assert tracked.info.status == "FINISHED"
    assert tracked.data.metrics["test_accuracy"] == results["evaluation"]["accuracy"]
    losses = client.get_metric_history(tracked.info.run_id, "val_loss")
    assert [point.step for point in losses] == [1, 2]


def test_missing_tracker_is_told_before_anything_costs_time(
    flags: list[str], run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert main([*flags, "--wandb", "project"]) == 2
    assert "pip install wandb" in capsys.readouterr().err
    assert not (run / "training_config.json").exists()


def test_run_on_two_streams_caches_both_and_trains_on_both(
    quick_flags: list[str],
    run: Path,
    few_clips: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    more = ["--streams", "rgb,flow", "--augment", "flip,noise", "--feature-pooling", "max"]
    assert main(["--dataset-path", str(few_clips), *quick_flags, *SHORT, *more]) == 0
    screen = capsys.readouterr().out
    cached = {path.parent for path in (tmp_path / "cache").glob("*/*.rows")}
    assert len(cached) == 4
    for words in (
        "rgb features of",
        "flow features of",
        "flow features (mirrored) of",
        "mean with",
    ):
        assert words in screen
    assert "augmentation: flip, noise" in screen
    assert keras.models.load_model(run / "best_model.keras").input_shape == (None, 4, 2 * 64)
    detector = json.loads((run / "detector.json").read_text())
    assert [recipe["stream"] for recipe in detector["features"]] == ["rgb", "flow"]
    assert detector["frames"] == 4
    name, probability = next(iter(probabilities_of(run).items()))
    (found,) = load_detector(run).predict_clips([few_clips / name])
    assert found.probability == pytest.approx(probability, abs=1e-4)


@pytest.mark.usefixtures("run_before")
def test_finished_run_says_so_and_does_not_train(
    flags: list[str], run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [path for path in run.glob("*.*") if path.name not in ("training.log", ".lock")]
    before = {path: path.stat().st_mtime_ns for path in files}
    assert main(flags) == 0
    assert "finished" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.usefixtures("run_before")
def test_other_settings_are_named_and_refused_until_fresh(
    flags: list[str], run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = [*flags, *SHORT, "--learning-rate", "0.002", "--no-use-class-weights"]
    assert main(other) == 2
    message = capsys.readouterr().err
    for words in ("--learning-rate 0.001", "0.002", "--use-class-weights on", "off", "--fresh"):
        assert words in message
    assert message.count("\n") <= 2
    rows = figures_of(run)
    assert main([*other, "--fresh"]) == 0
    (aside,) = run.glob("earlier_run_*")
    assert figures_of(aside) == rows
    assert (aside / "best_model.keras").exists()
    assert (
        json.loads((aside / "training_config.json").read_text())["settings"]["learning_rate"]
        == 0.001
    )
    assert figures_of(run) != rows


@pytest.mark.usefixtures("run_before")
def test_changed_clips_are_noticed(
    dataset: Path,
    dataset_flags: list[str],
    run: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = json.loads((run / "training_config.json").read_text())
    config["settings"]["dataset_path"] = str(dataset)
    write_json(run / "training_config.json", {k: v for k, v in config.items() if k != "checksum"})
    more = Path(
        shutil.copy(dataset / "val/violent/violent0.mp4", dataset / "train/violent/more.mp4")
    )
    assert main(dataset_flags) == 2
    message = capsys.readouterr().err
    assert "1 new, 0 missing" in message
    assert "more.mp4" in message
    # One replaced under its name: a run that is resumed needs its features.
    more.replace(dataset / "train/violent/violent0.mp4")
    (run / "training_results.json").unlink()
    assert main(dataset_flags) == 2
    assert "the contents of the clips" in capsys.readouterr().err


@pytest.mark.usefixtures("interrupted")
def test_files_lost_between_the_last_epochs_end_and_the_kill_are_restored(
    finished: Path, flags: list[str], run: Path
) -> None:
    """The time that the interrupted command took counts, too."""
    (run / "checkpoint_epoch_005.keras").unlink()
    history = run / "training_history.csv"
    history.write_text("\n".join(history.read_text().splitlines()[:-1]) + "\n7,gar")
    state = json.loads((run / "resume" / "state.json").read_text())
    for row in state["history"]:
        row["seconds"] = 1000.0
    write_json(run / "resume" / "state.json", {k: v for k, v in state.items() if k != "checksum"})
    assert main(flags) == 0
    assert figures_of(run) == figures_of(finished / "run")
    assert results_of(run)["evaluation"] == results_of(finished / "run")["evaluation"]
    assert (run / "checkpoint_epoch_005.keras").exists()
    assert 5000 < results_of(run)["usage"]["seconds"] < 6000


@pytest.mark.slow
@pytest.mark.usefixtures("features_before", "not_hurried")
def test_interrupted_run_goes_on_in_mixed_precision(
    flags: list[str],
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Ctrl-C after two epochs; the loss scale and the optimizer must go on where they were."""
    flags = [*flags, "--epochs", "3"]
    precision = Precision("float32", "mixed_float16", "as on a device that has it")
    monkeypatch.setattr(machine, "choose_precision", lambda *_: precision)
    assert main([*flags, "--checkpoint-dir", str(tmp_path / "whole")]) == 0

    def interrupt(run_directory: RunDirectory, trainer: Trainer) -> None:
        write_models_of_last_epoch(run_directory, trainer)
        if len(run_directory.history) == 2:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as pressed:
        pressed.setattr(callbacks, "write_models_of_last_epoch", interrupt)
        assert main(flags) == 130
    assert "Run the same command again to resume." in capsys.readouterr().err
    assert len(rows_of(run)) == 2
    with monkeypatch.context() as other:
        lower = Precision("float32", "float32", "the GPU is gone")
        other.setattr(machine, "choose_precision", lambda *_: lower)
        assert main(flags) == 2
        assert "the precision changed" in capsys.readouterr().err
    assert main(flags) == 0
    assert figures_of(run) == figures_of(tmp_path / "whole")


@pytest.mark.usefixtures("run_before")
def test_attempt_that_failed_early_blocks_nothing(
    flags: list[str], run: Path, tmp_path: Path
) -> None:
    finished = figures_of(run)
    (tmp_path / "weights.h5").write_bytes(b"not HDF5")
    wrong = [*flags, "--fresh", "--vgg19-weights", str(tmp_path / "weights.h5")]
    assert main(wrong) == 2
    assert figures_of(run) == finished
    assert (run / "best_model.keras").exists()
    assert main([*wrong, "--checkpoint-dir", str(tmp_path / "new")]) == 2
    assert not (tmp_path / "new" / "training_config.json").exists()


@pytest.mark.usefixtures("features_before")
def test_bad_clips_are_left_out_and_listed(
    dataset: Path,
    dataset_flags: list[str],
    run: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    dataset_flags += SHORT
    bad = dataset / "train" / "violent" / "сломан \"x'.mp4"
    bad.write_bytes(b"nothing")
    assert main([*dataset_flags, "--on-bad-clip", "fail"]) == 2
    assert str(bad) in capsys.readouterr().err
    assert main(dataset_flags) == 0
    assert str(bad) in capsys.readouterr().out
    (listed,) = results_of(run)["bad_clips"]
    assert listed["clip"] == "train/violent/сломан \"x'.mp4"
    assert "not a video" in listed["reason"]
    assert str(bad) in (run / "training.log").read_text()
    # It can be read again, but the run continues without it.
    before = figures_of(run)
    shutil.copy(dataset / "train" / "violent" / "violent0.mp4", bad)
    (run / "training_results.json").unlink()
    assert main(dataset_flags) == 0
    assert figures_of(run) == before
    assert results_of(run)["bad_clips"] == [listed]
    # Another run uses it.
    bad = bad.with_name("other.mp4")
    bad.write_bytes(b"nothing")
    assert main([*dataset_flags, "--fresh", "--on-bad-clip", "zeros"]) == 0
    assert results_of(run)["on_bad_clip"] == "zeros"
    assert [item["clip"] for item in results_of(run)["bad_clips"]] == ["train/violent/other.mp4"]
    for number in range(1, 3):
        shutil.copy(bad, dataset / "val" / "violent" / f"bad{number}.mp4")
    assert main([*dataset_flags, "--fresh"]) == 2
    message = capsys.readouterr().err
    assert "2 of the 10 val clips cannot be read, more than 10%" in message


@pytest.mark.usefixtures("features_before")
def test_without_a_test_split_validation_is_reported_as_such(
    drawn_clips: Path,
    quick_flags: list[str],
    run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    dataset = tmp_path / "clips"
    for split in ("train", "val"):
        shutil.copytree(drawn_clips / split, dataset / split)
    assert main(["--dataset-path", str(dataset), *quick_flags, *SHORT]) == 0
    screen = capsys.readouterr().out
    assert "metrics are of the validation clips" in screen
    # Before anything takes time: somebody may have forgotten it.
    assert screen.index("WARNING: no test split") < screen.index("device ")
    assert results_of(run)["evaluated_split"] == "val"


@pytest.mark.usefixtures("features_before")
def test_early_stopping_is_remembered(flags: list[str], run: Path) -> None:
    flags = [*flags, "--epochs", "60", "--learning-rate", "0.05"]
    flags += ["--early-stopping-patience", "1"]
    assert main(flags) == 0
    rows = figures_of(run)
    assert len(rows) < 60
    assert results_of(run)["stopped_early"] is True
    (run / "training_results.json").unlink()  # killed between training and test
    assert main(flags) == 0
    assert figures_of(run) == rows


@pytest.mark.slow
@pytest.mark.usefixtures("features_before")
@pytest.mark.parametrize("replicas", ["1", "2"])
def test_promised_flags_on_one_and_two_replicas(
    flags: list[str], run: Path, replicas: str, train_process: Start
) -> None:
    # In a process of its own: TensorFlow's collectives mix up two models in one.
    more = ["--replicas", replicas, "--xla=all", "--mixed-precision"]
    more += ["--gradient-accumulation", "2"]
    more += ["--use-focal-loss", "--use-class-weights", "--label-smoothing", "0.1"]
    more += ["--epochs", "2", "--head", "attention-lstm"]
    process = train_process(*flags, *more)
    output, errors = process.communicate()
    assert process.returncode == 0, output + errors
    assert output.count("device ") == int(replicas)
    assert len(rows_of(run)) == 2


@pytest.mark.parametrize("folder", ["--checkpoint-dir", "--cache-dir"])
def test_folder_that_cannot_be_written_is_named(
    flags: list[str], tmp_path: Path, folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert main([*flags, folder, str(tmp_path / "file" / "below")]) == 2
    message = capsys.readouterr().err
    assert folder in message
    assert "cannot be written" in message


def test_download_that_fails_says_what_to_do_instead(
    flags: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*arguments: object, **options: object) -> str:
        raise OSError("connection refused")

    monkeypatch.setattr("keras.utils.get_file", refused)
    assert main([*flags, "--vgg19-weights", "imagenet"]) == 1
    message = capsys.readouterr().err
    assert "connection refused" in message
    assert "local copy" in message


def test_demo_does_not_draw_into_a_users_folder(
    drawn_clips: Path, quick_flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(drawn_clips.rglob("*"))
    assert main(["--demo", "--dataset-path", str(drawn_clips), *quick_flags]) == 2
    assert "not empty" in capsys.readouterr().err
    assert sorted(drawn_clips.rglob("*")) == before
