import json
import os
from pathlib import Path

import pytest

from errors import UserError
from run_directory import RunDirectory, read_json, replace_file, write_json


def test_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    replace_file(path, lambda partial: partial.write_text("first"))

    def disk_full(partial: Path) -> None:
        partial.write_text("seco")
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space"):
        replace_file(path, disk_full)
    assert path.read_text() == "first"


def test_json_holds_names_in_any_encoding(tmp_path: Path) -> None:
    names = ["драка.mp4", os.fsdecode(b"\xff\xfe.mp4"), 'a "quote".mp4']
    write_json(tmp_path / "results.json", {"names": names})
    assert json.loads((tmp_path / "results.json").read_bytes()) == {"names": names}


@pytest.mark.parametrize("text", ["", "{", "[1]", "null"])
def test_file_of_another_kind_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "state.json").write_text(text)
    with pytest.raises(UserError, match=r"state\.json.*--fresh"):
        read_json(tmp_path / "state.json")


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
