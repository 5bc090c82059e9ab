from pathlib import Path

from violence_detection.runs.directory import RunDirectory


def history(*losses: float) -> list[dict[str, float]]:
    return [
        {"epoch": epoch, "val_loss": loss, "val_accuracy": accuracy}
        for epoch, (loss, accuracy) in enumerate(
            zip(losses, [0.5, 0.7, 0.7, 0.6], strict=False), start=1
        )
    ]


def test_best_epoch_is_of_highest_accuracy_then_of_lowest_loss(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.history = history(0.2, 0.4, 0.3, 0.1)
    assert run.best_epoch() == 3
    assert run.epochs_since_lowest_loss() == 0
    run.history = history(0.2, 0.4, 0.4, 0.3)
    assert run.best_epoch() == 2
    assert run.epochs_since_lowest_loss() == 3


def test_history_goes_on_and_is_mended(tmp_path: Path) -> None:
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
    (tmp_path / "thesis.docx").write_text("the user's own")
    aside = run.set_aside()
    assert sorted(path.name for path in tmp_path.iterdir()) == [aside.name, "thesis.docx"]
    assert (aside / "best_model.keras").read_text() == "best_model.keras"
    assert not run.has_run()
