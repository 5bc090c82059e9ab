import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from violence_detection.clips.clip import Clip
from violence_detection.errors import RunError, UserError
from violence_detection.runs.directory import RunDirectory
from violence_detection.runtime.worker import Worker
from violence_detection.settings.schema import Settings
from violence_detection.storage.files import write_json

INPUTS = {"the clips that are used": "abc", "the precision": "float32"}
CLIPS = [Clip(Path("/clips"), f"train/violent/{number}.mp4", 1, "train") for number in range(3)]


def history(*losses: float) -> list[dict[str, float]]:
    return [
        {"epoch": epoch, "val_loss": loss, "val_accuracy": accuracy}
        for epoch, (loss, accuracy) in enumerate(
            zip(losses, [0.5, 0.7, 0.7, 0.6], strict=False), start=1
        )
    ]


def writer(text: str) -> Callable[[Path], None]:
    """Return a function that writes weights: here, a text."""

    def write(path: Path) -> None:
        path.write_text(text)

    return write


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunDirectory]:
    """Return a run directory with three finished epochs, of which the second is the best."""
    with RunDirectory(tmp_path / "run") as run:
        assert run.restore(INPUTS) is None
        for row in history(0.2, 0.3, 0.4):
            run.finish_epoch(row, INPUTS, writer(f"weights {row['epoch']}"))
        yield run


def test_epochs_since_the_lowest_loss(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    assert run.epochs_since_lowest_loss() == 0
    run.history = history(0.2, 0.4, 0.3, 0.1)
    assert run.epochs_since_lowest_loss() == 0
    run.history = history(0.2, 0.4, 0.4, 0.3)
    assert run.epochs_since_lowest_loss() == 3


def test_history_is_appended_to_and_repaired(tmp_path: Path) -> None:
    run, path = RunDirectory(tmp_path), tmp_path / "training_history.csv"
    whole = history(0.2, 0.4, 0.3)
    for finished in (1, 2, 3):
        run.history = whole[:finished]
        run.write_history()
    text = path.read_text()
    assert text.splitlines()[0] == "epoch,val_loss,val_accuracy"
    assert len(text.splitlines()) == 4
    for damaged in ("", text[:-9], text + "4,0.1,0.9\n", "nonsense"):
        path.write_text(damaged)
        run.write_history()
        assert path.read_text() == text


def test_only_a_runs_own_files_are_set_aside(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    for name in ("training_config.json", "best_model.keras", "checkpoint_epoch_005.keras"):
        (tmp_path / name).write_text(name)
    (tmp_path / "event_figures").mkdir()
    (tmp_path / "thesis.docx").write_text("the user's own")
    aside = run.set_aside()
    assert sorted(path.name for path in tmp_path.iterdir()) == [aside.name, "thesis.docx"]
    assert (aside / "best_model.keras").read_text() == "best_model.keras"
    assert not run.has_run()


def test_finished_epochs_are_restored_with_the_last_weights(run: RunDirectory) -> None:
    resumed = RunDirectory(run.folder)
    weights = resumed.restore(INPUTS)
    assert weights is not None and weights.read_text() == "weights 3"
    assert resumed.history == run.history
    kept = sorted(path.name for path in (run / "resume").glob("*.npz"))
    assert kept == ["epoch_002.weights.npz", "epoch_003.weights.npz"]


@pytest.mark.parametrize("name", ["epoch_003.weights.npz", "state.json"])
def test_damage_to_the_last_epoch_costs_one_epoch_at_most(
    run: RunDirectory, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    (run / "resume" / name).write_text("damaged")
    resumed = RunDirectory(run.folder)
    with caplog.at_level(logging.WARNING, "violence_detection"):
        weights = resumed.restore(INPUTS)
    assert weights is not None and weights.read_text() == "weights 2"
    assert [row["epoch"] for row in resumed.history] == [1, 2]
    assert name in caplog.text


def test_run_without_intact_weights_is_refused(run: RunDirectory) -> None:
    for path in (run / "resume").glob("*.npz"):
        path.write_text("damaged")
    with pytest.raises(UserError, match=r"resume is damaged.*--fresh"):
        RunDirectory(run.folder).restore(INPUTS)
    with pytest.raises(RunError, match=r"best_model\.keras and .*epoch_002"):
        run.intact_weights_after(2)


def test_changed_inputs_are_named_and_refused(run: RunDirectory) -> None:
    with pytest.raises(UserError, match="the precision changed") as refused:
        RunDirectory(run.folder).restore(INPUTS | {"the precision": "bfloat16"})
    assert "--fresh" in str(refused.value)


def test_other_settings_and_other_clips_are_named_and_refused(run: RunDirectory) -> None:
    settings = Settings().replace(dataset_path=Path("/clips"), epochs=30)
    run.write_config(settings, CLIPS, {}, ["CPU"], "float32")
    run.require_same(settings.replace(quiet=True), CLIPS)  # which may change
    with pytest.raises(UserError, match=r"interrupted run .*--epochs 30; now --epochs 40\.\n"):
        run.require_same(settings.replace(epochs=40), CLIPS)
    with pytest.raises(UserError, match=r"--xla off; now --xla all\."):
        run.require_same(settings.replace(xla="all"), CLIPS)
    with pytest.raises(
        UserError, match=r"different clips; in /clips: 1 new, 0 missing, first .*9\.mp4\."
    ):
        run.require_same(settings, [*CLIPS, Clip(Path("/clips"), "train/9.mp4", 1, "train")])


def test_directory_is_used_by_one_process_at_a_time(run: RunDirectory) -> None:
    with (
        pytest.raises(UserError, match=r"--checkpoint-dir .* is in use by"),
        RunDirectory(run.folder),
    ):
        pass


def test_worker_that_is_not_the_chief_writes_nothing(tmp_path: Path) -> None:
    with RunDirectory(tmp_path, Worker(number=1, count=2)) as run:
        run.write_config(Settings(), CLIPS, {}, ["CPU"], "float32")
        run.finish_epoch(history(0.5)[0], INPUTS, writer("weights"))
        run.write_history()
        assert len(run.history) == 1
    assert list(tmp_path.iterdir()) == []


def test_models_are_intact_until_they_change(run: RunDirectory) -> None:
    for name in ("best_model.keras", "checkpoint_epoch_005.keras"):
        (run / name).write_text(name)
        run.record_checksum(name, epoch=2)
    assert run.is_intact("best_model.keras", epoch=2)
    assert not run.is_intact("best_model.keras", epoch=1)
    assert run.damaged_checkpoints() == []
    (run / "checkpoint_epoch_005.keras").write_text("damaged")
    assert run.damaged_checkpoints() == [run / "checkpoint_epoch_005.keras"]


def test_run_is_finished_once_it_is_tested_for_the_same_goal(run: RunDirectory) -> None:
    assert not run.is_finished("f1")
    (run / "best_model.keras").write_text("a model")
    run.record_checksum("best_model.keras", epoch=2)
    detector = {"chosen_for": "f1", "model": "best_model.keras"}
    for name in ("training_results.json", "detector.json"):
        write_json(run / name, detector)
    assert run.is_finished("f1")
    assert not run.is_finished("accuracy")
    for name in ("best_model.keras", "training_results.json", "detector.json"):
        before = (run / name).read_bytes()
        (run / name).write_bytes(before[:-9])
        assert not run.is_finished("f1")
        (run / name).unlink()
        assert not run.is_finished("f1")
        (run / name).write_bytes(before)
    assert run.is_finished("f1")
