import json
import os
from pathlib import Path

import pytest

from violence_detection.errors import RunError, UserError
from violence_detection.storage.files import read_json, replace_file, write_json


def test_file_is_replaced_completely_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    replace_file(path, lambda partial: partial.write_text("first"))

    def disk_full(partial: Path) -> None:
        partial.write_text("seco")
        raise OSError("no space left")

    with pytest.raises(RunError, match=r"model\.keras cannot be written: no space"):
        replace_file(path, disk_full)
    assert path.read_text() == "first"


def test_json_holds_names_in_any_encoding(tmp_path: Path) -> None:
    names = ["драка.mp4", os.fsdecode(b"\xff\xfe.mp4"), 'a "quote".mp4']
    write_json(tmp_path / "results.json", {"names": names})
    assert json.loads((tmp_path / "results.json").read_bytes())["names"] == names
    assert read_json(tmp_path / "results.json") == {"names": names}


def test_changed_json_is_detected(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    write_json(path, {"learning_rate": 0.001})
    path.write_text(path.read_text().replace("0.001", "0.002"))
    with pytest.raises(UserError, match=r"config\.json was changed or damaged"):
        read_json(path)


@pytest.mark.parametrize("text", ["", "{", "[1]", "null"])
def test_file_of_another_kind_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "state.json").write_text(text)
    with pytest.raises(UserError, match=r"state\.json.*--fresh"):
        read_json(tmp_path / "state.json")
