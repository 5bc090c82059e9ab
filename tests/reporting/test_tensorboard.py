"""What a real TensorBoard shows of a run over HTTP; and that no epoch is lost or doubled."""

import json
import os
import re
import resource
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2

from tests.waiting import wait_until
from violence_detection.errors import RunError
from violence_detection.features.cache.rows import FeatureRows
from violence_detection.reporting.event_files import event_files
from violence_detection.reporting.tensorboard import (
    FOLDERS,
    PREDICTED_CLIPS,
    SIDES,
    Profile,
    TensorBoardLog,
    begin_hparams,
    scalars_after,
    write_hparams,
)
from violence_detection.runs.directory import RunDirectory
from violence_detection.runs.files import HPARAMS_BEGUN
from violence_detection.runtime.devices import find_devices, make_strategy
from violence_detection.settings.schema import Settings
from violence_detection.training.batches import (
    ClipFeatures,
    evaluation_batches,
    steps_per_epoch,
    training_batches,
)
from violence_detection.training.order import ClipOrder
from violence_detection.training.trainer import Trainer, make_trainer

EPOCHS = 6
ALL_EPOCHS = list(range(1, EPOCHS + 1))  # the steps
SETTINGS = Settings().replace(
    dataset_path=Path("/clips/street"),
    epochs=EPOCHS,
    warmup_epochs=1,
    batch_size=8,
    units=4,
    projection=4,
    head="mean",
)


class AddRow(keras.callbacks.Callback):
    """Stands in for what finishes an epoch: adds its row to the history."""

    def __init__(self, run: RunDirectory):
        super().__init__()
        self.run = run

    def on_epoch_end(self, epoch: int, logs: dict[str, Any]) -> None:
        row = {"epoch": epoch + 1, "time": f"2026-01-02T03:04:{epoch:02}+01:00"}
        row |= {name: float(value) for name, value in logs.items()}
        row |= {"learning_rate": 0.1 / (epoch + 1), "loss_scale": 1.0, "seconds": 2.0}
        row |= {"clips_per_second": 100.0 + epoch, "gpu0_power": 70.0 + epoch, "gpu0_memory": None}
        self.run.history.append(row)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> ClipFeatures:
    features = np.random.default_rng(0).random((20, 4, 6)).astype(np.float16)
    path = tmp_path_factory.mktemp("clips") / "rows.features"
    path.write_bytes(features.tobytes())
    rows = FeatureRows(path, features.shape[1:], features.dtype.name)
    return ClipFeatures([rows], range(20), np.arange(20) % 2)


@cache
def trainer_of(replicas: int, steps_at_once: int, validation_steps: int) -> Trainer:
    """Return a trainer that all trainings of its kind share: tracing it takes seconds."""
    sample = np.random.default_rng(1).random((8, 4, 6)).astype(np.float16)
    with make_strategy(find_devices(replicas), 8).scope():
        dataset = tf.data.Dataset.from_tensors(sample)
        trainer = make_trainer(SETTINGS, dataset, validation_steps, validation_steps)
    trainer.steps_per_execution = steps_at_once
    return trainer


def train(
    run: RunDirectory,
    clips: ClipFeatures,
    *others: keras.callbacks.Callback,
    replicas: int = 1,
    steps_at_once: int = 16,
    most_clips: int = PREDICTED_CLIPS,
) -> Trainer:
    """Train from the last epoch of the history to the sixth, and log it."""
    steps, first = steps_per_epoch(len(clips), 8), len(run.history)
    trainer = trainer_of(replicas, steps_at_once, steps)
    trainer.fit(
        training_batches(clips, ClipOrder(clips.labels, 0), 8, first, EPOCHS),
        initial_epoch=first,
        epochs=EPOCHS,
        steps_per_epoch=steps,
        validation_data=evaluation_batches(clips, 8),
        validation_steps=steps,
        callbacks=[AddRow(run), *others, TensorBoardLog(run, clips, 8, most_clips)],
        shuffle=False,
        verbose=0,
    )
    return trainer


class StopAfter(keras.callbacks.Callback):
    def __init__(self, epoch: int):
        super().__init__()
        self.epoch = epoch

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self.model.stop_training = epoch + 1 == self.epoch


@pytest.fixture(scope="module")
def stopped_run(clips: ClipFeatures, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """Return a run that ended after four epochs, without what is drawn at the end."""
    run = RunDirectory(tmp_path_factory.mktemp("stopped") / "run")
    train(run, clips, StopAfter(4))
    for path in log_files(run):
        records = list(tf.data.TFRecordDataset(str(path)).as_numpy_iterator())
        drawn = {"train": 1, "validation": 2}.get(path.parent.name, 0)
        with tf.io.TFRecordWriter(str(path)) as file:
            for record in records[: len(records) - drawn]:
                file.write(record)
    return run


@pytest.fixture
def stopped(stopped_run: RunDirectory, tmp_path: Path) -> RunDirectory:
    """Return a copy of the run that ended after four epochs."""
    run = RunDirectory(Path(shutil.copytree(stopped_run.folder, tmp_path / "run")))
    run.history = list(stopped_run.history)
    return run


def log_files(run: RunDirectory) -> list[Path]:
    return [path for side in FOLDERS for path in event_files(run / "tensorboard" / side)]


def tear_all(run: RunDirectory) -> None:
    """Truncate the last record of each file, as a killed process does."""
    for path in log_files(run):
        os.truncate(path, path.stat().st_size - 5)


@contextmanager
def tensorboard(folder: Path) -> Iterator[Callable[..., Any]]:
    """Run TensorBoard; yield a function that makes a request and returns the answer."""
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(folder), "--port", "0"]
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with subprocess.Popen(
        [*command, "--host", "127.0.0.1"], stderr=subprocess.PIPE, text=True
    ) as process:
        output = ""
        while not (address := re.search(r"at (http://[\d.:]+/)", output)):
            line = process.stderr.readline()
            assert line, output
            output += line

        def ask(route: str, post: dict[str, Any] | None = None, **query: str) -> Any:
            request = urllib.request.Request(
                f"{address[1]}data/{route}?{urlencode(query)}",
                data=None if post is None else json.dumps(post).encode(),
                headers={"Content-Type": "application/json"},
            )
            with opener.open(request, timeout=20) as answer:
                whole = answer.read()
            return json.loads(whole) if "json" in answer.headers["Content-Type"] else whole

        try:
            yield ask
        finally:
            process.terminate()
            process.stderr.close()


@pytest.mark.slow
def test_tensorboard_shows_and_compares_two_runs(clips: ClipFeatures, tmp_path: Path) -> None:
    """One of them was killed twice: its last record is torn, and it went back two epochs."""
    runs = {name: RunDirectory(tmp_path / name) for name in ("whole", "killed")}
    trainer = train(runs["whole"], clips)
    killed = runs["killed"]
    train(killed, clips, StopAfter(4))
    tear_all(killed)
    del killed.history[2:]
    train(killed, clips)

    begin_hparams(runs["whole"] / "tensorboard", SETTINGS.by_name())
    write_hparams(runs["whole"] / "tensorboard", SETTINGS.by_name(), {"test_accuracy": 0.1})
    other = SETTINGS.replace(streams=("rgb",), focal_alpha=0.6)
    for run, settings, accuracy in ((runs["whole"], SETTINGS, 0.75), (killed, other, 0.5)):
        figures = {"test_accuracy": accuracy, "test_f1": accuracy / 2, "test_roc_auc": None}
        write_hparams(run / "tensorboard", settings.by_name(), figures)

    asked = {"startIndex": 0, "sliceSize": 10, "allowedStatuses": ["STATUS_SUCCESS"]}
    last_written = [
        (f"{name}/tensorboard/{side}", tag)
        for name in runs
        for side, tag in (("train", "weights/logit/kernel"), ("validation", "validation/attention"))
    ]
    with tensorboard(tmp_path) as ask:

        def is_loaded(run: str, tag: str) -> bool:
            if tag not in ask("plugin/histograms/tags").get(run, {}):
                return False
            points = ask("plugin/histograms/histograms", run=run, tag=tag)
            return points[-1][1] == EPOCHS

        wait_until(lambda: all(is_loaded(*series) for series in last_written))
        wait_until(lambda: len(ask("plugin/hparams/session_groups", asked)["sessionGroups"]) == 2)

        for name, run in runs.items():
            for side in SIDES:
                folder = f"{name}/tensorboard/{side}"
                tags = ask("plugin/scalars/tags")[folder]
                assert set(tags) == set(scalars_after(run, 1)[side])
                for tag in tags:
                    points = ask("plugin/scalars/scalars", run=folder, tag=tag)
                    expected = [scalars_after(run, epoch)[side][tag] for epoch in ALL_EPOCHS]
                    assert [step for _, step, _ in points] == ALL_EPOCHS
                    np.testing.assert_allclose([value for *_, value in points], expected, rtol=1e-6)
        assert set(tags) == {"epoch/loss", "epoch/accuracy", "ranking/auc"}

        validation = "whole/tensorboard/validation"
        images = ask("plugin/images/images", run=validation, tag="validation/curves")
        assert [image["step"] for image in images] == [5, 6]
        png = ask(f"plugin/images/individualImage?{images[-1]['query']}&")
        assert tf.io.decode_png(png).shape == (800, 900, 4)

        histograms = {validation: {"validation/attention": 20 * 4}}
        histograms["whole/tensorboard/train"] = {
            f"weights/{weight.path}": int(np.prod(weight.shape))
            for weight in trainer.classifier.trainable_weights
        }
        for folder, of_tag in histograms.items():
            assert set(ask("plugin/histograms/tags")[folder]) == set(of_tag)
            for tag, count in of_tag.items():
                points = ask("plugin/histograms/histograms", run=folder, tag=tag)
                assert [step for _, step, _ in points] == [5, 6]
                assert sum(bucket[2] for bucket in points[-1][2]) == count

        groups = ask("plugin/hparams/session_groups", asked)["sessionGroups"]
        table = {group["name"]: group for group in groups}
        assert set(table) == {"whole/tensorboard/hparams", "killed/tensorboard/hparams"}
        for name, streams, alpha, accuracy in (
            ("whole", "difference,flow", "none", 0.75),
            ("killed", "rgb", 0.6, 0.5),
        ):
            group = table[f"{name}/tensorboard/hparams"]
            assert group["hparams"]["streams"] == streams
            assert group["hparams"]["focal_alpha"] == alpha
            assert group["hparams"]["batch_size"] == 8
            assert group["hparams"]["dataset_path"] == "street"
            assert "checkpoint_dir" not in group["hparams"]
            values = {
                value["name"]["tag"]: value["value"]
                for value in group["metricValues"]
                if not value["name"]["group"]
            }
            assert values["model/test_accuracy"] == pytest.approx(accuracy)
            assert values["model/test_f1"] == pytest.approx(accuracy / 2)
            best = runs[name].history[runs[name].best_epoch() - 1]
            assert values["model/val_loss"] == pytest.approx(best["val_loss"])
            assert len(values) == len(group["metricValues"]) == 5  # no curves, nothing undefined
        experiment = ask("plugin/hparams/experiment", {"includeMetrics": True})
        differ = {info["name"] for info in experiment["hparamInfos"] if info.get("differs")}
        assert differ == {"streams", "focal_alpha"}

        layout = ask("plugin/custom_scalars/layout")
        charts = [chart["title"] for chart in layout["category"][0]["chart"]]
        assert charts[:3] == ["loss", "accuracy", "learning rate"]


def logged(run: RunDirectory, kind: str = "scalars") -> dict[str, list[int]]:
    """Return the steps of each series of a kind."""
    steps = {}
    for side in FOLDERS:
        events = EventAccumulator(str(run / "tensorboard" / side)).Reload()
        for tag in events.Tags()["tensors"]:
            if events.SummaryMetadata(tag).plugin_data.plugin_name == kind:
                steps[f"{side}/{tag}"] = [event.step for event in events.Tensors(tag)]
    return steps


def lose_last_rows(run: RunDirectory) -> None:
    """Leave the log ahead of the history, as if the weights of two epochs were damaged."""
    del run.history[2:]


def lose_last_record(run: RunDirectory) -> None:
    """Leave an epoch on one side only, torn on the other."""
    path = log_files(run)[0]
    os.truncate(path, path.stat().st_size - 5)


def lose_log(run: RunDirectory) -> None:
    for path in log_files(run):
        path.unlink()


def log_as_keras_does(run: RunDirectory) -> None:
    """Replace our log by one as Keras writes it, as earlier versions did: epochs are from 0."""
    lose_log(run)
    for side in SIDES:
        writer = tf.summary.create_file_writer(str(run / "tensorboard" / side))
        with writer.as_default():
            for row in run.history:
                for tag in ("epoch/loss", "epoch/accuracy"):
                    tf.summary.scalar(tag, 0.0, step=row["epoch"] - 1)
        writer.close()


@pytest.mark.parametrize(
    "happened", [lose_last_rows, tear_all, lose_last_record, lose_log, log_as_keras_does]
)
def test_resumed_run_has_every_epoch_once(
    clips: ClipFeatures, stopped: RunDirectory, happened: Callable[[RunDirectory], None]
) -> None:
    happened(stopped)
    train(stopped, clips)
    every_tag = {
        f"{side}/{tag}" for side, values in scalars_after(stopped, 1).items() for tag in values
    }
    assert logged(stopped) == dict.fromkeys(every_tag, ALL_EPOCHS)
    assert logged(stopped, "images") == {"validation/validation/curves": [5, 6]}


def test_run_that_was_killed_after_its_last_epoch_gets_its_images(
    clips: ClipFeatures, tmp_path: Path
) -> None:
    run = RunDirectory(tmp_path / "run")
    trainer = train(run, clips)
    whole = logged(run)
    lose_log(run)
    for _ in range(2):
        TensorBoardLog(run, clips, 8).catch_up(trainer)
        assert logged(run) == whole
        assert logged(run, "images") == {"validation/validation/curves": [6]}


def test_epochs_have_the_times_of_the_history(stopped_run: RunDirectory) -> None:
    events = EventAccumulator(str(stopped_run / "tensorboard" / "train")).Reload()
    times = [event.wall_time for event in events.Tensors("epoch/loss")]
    assert times == [1767319440.0 + second for second in range(4)]


def test_two_replicas_draw_predictions_too(clips: ClipFeatures, tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    train(run, clips, StopAfter(1), replicas=2)
    assert logged(run, "images") == {"validation/validation/curves": [1]}
    assert logged(run, "histograms")["validation/validation/attention"] == [1]


def test_of_many_validation_clips_a_sample_is_predicted(
    clips: ClipFeatures, tmp_path: Path
) -> None:
    run = RunDirectory(tmp_path / "run")
    train(run, clips, StopAfter(1), most_clips=10)
    events = EventAccumulator(str(run / "tensorboard" / "validation")).Reload()
    (drawn,) = events.Tensors("validation/attention")
    assert tf.make_ndarray(drawn.tensor_proto)[:, 2].sum() == 10 * 4
    words = events.SummaryMetadata("validation/attention").summary_description
    assert "10 of 20 validation clips, evenly spread" in words


def test_log_that_cannot_be_written_is_named(clips: ClipFeatures, tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    (tmp_path / "tensorboard").write_text("in the way")
    with pytest.raises(RunError, match=r"tensorboard/train cannot be written: .*directory"):
        train(run, clips)


def test_full_disk_is_named(tmp_path: Path) -> None:
    """A limit on the size of the process's files stands in for a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    settings = {"streams": "x" * 2_000_000}
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))
    try:
        with pytest.raises(
            RunError, match=r"tfevents\.hparams cannot be written: .*File too large"
        ):
            write_hparams(tmp_path, settings, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize("steps_at_once", [1, 16])
def test_some_steps_are_profiled(
    clips: ClipFeatures, tmp_path: Path, steps_at_once: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Three steps per epoch: with 16 at once, the second epoch is the second call."""
    run = RunDirectory(tmp_path / "run")
    profile = Profile(run / "tensorboard")
    caplog.set_level("INFO", "violence_detection")
    train(run, clips, StopAfter(2), profile, steps_at_once=steps_at_once)
    (recorded,) = (run / "tensorboard").rglob("*.xplane.pb")
    assert recorded.stat().st_size > 1000
    assert f"profiled {min(3, steps_at_once)} step" in caplog.text
    assert f"tensorboard --logdir {run / 'tensorboard'}" in caplog.text


def test_profiler_of_a_failed_training_is_stopped(clips: ClipFeatures, tmp_path: Path) -> None:
    class Fail(keras.callbacks.Callback):
        calls = 0

        def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
            self.calls += 1
            if self.calls > 1:  # of three steps each
                raise OSError("the disk is gone")

    for number in range(2):  # the second could not start while the first runs
        run = RunDirectory(tmp_path / str(number))
        profile = Profile(run / "tensorboard")
        with pytest.raises(OSError, match="the disk is gone"):
            train(run, clips, Fail(), profile)
        profile.end()
        assert list((run / "tensorboard").rglob("*.xplane.pb"))


def test_profile_without_steps_to_record_is_a_warning(
    clips: ClipFeatures, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = RunDirectory(tmp_path)
    train(run, clips, StopAfter(1), Profile(run / "tensorboard"))
    assert "too few steps to profile" in caplog.text and "--epochs" in caplog.text
    assert not list(tmp_path.rglob("*.xplane.pb"))


def test_run_that_was_interrupted_is_a_row_with_the_figures_of_its_best_epoch(
    stopped: RunDirectory,
) -> None:
    folder = stopped / "tensorboard"
    begin_hparams(folder, SETTINGS.by_name())
    begun = (folder / HPARAMS_BEGUN).read_bytes()
    begin_hparams(folder, SETTINGS.by_name())  # as the same command does when it resumes
    assert (folder / HPARAMS_BEGUN).read_bytes() == begun
    events = EventAccumulator(str(folder / "hparams")).Reload()
    started = plugin_data_pb2.HParamsPluginData.FromString(
        events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    )
    assert started.session_start_info.hparams["batch_size"].number_value == 8
    assert "_hparams_/session_end_info" not in events.Tags()["tensors"]
    points = [float(tf.make_ndarray(e.tensor_proto)) for e in events.Tensors("model/val_loss")]
    best = [stopped.selection.best_epoch(stopped.history[:epoch]) for epoch in range(1, 5)]
    expected = [stopped.history[epoch - 1]["val_loss"] for epoch in best]
    assert points == pytest.approx(expected)


def test_first_group_of_charts_is_loss_accuracy_and_rate(stopped: RunDirectory) -> None:
    tags = [tag for values in scalars_after(stopped, 1).values() for tag in values]
    assert all("/" in tag for tag in tags)
    first = min(tag.partition("/")[0] for tag in [*tags, "validation/curves", "weights/kernel"])
    assert {tag for tag in tags if tag.startswith(f"{first}/")} == {
        *("epoch/loss", "epoch/accuracy", "epoch/learning_rate")
    }
