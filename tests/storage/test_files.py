import csv
import json
import os
from pathlib import Path

import pytest

from violence_detection.errors import RunError, UserError
from violence_detection.storage.files import (
    PARTIAL,
    file_checksum,
    read_json,
    remove_partial_files,
    replace_file,
    write_csv,
    write_json,
)


def test_file_is_replaced_completely_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    replace_file(path, lambda partial: partial.write_text("first"))

    def disk_full(partial: Path) -> None:
        partial.write_text("seco")
        raise OSError("no space left")

    with pytest.raises(RunError, match=r"model\.keras cannot be written: no space"):
        replace_file(path, disk_full)
    assert path.read_text() == "first"


def test_shared_file_may_be_written_while_another_process_writes_it(tmp_path: Path) -> None:
    path = tmp_path / "known.json"

    def write(partial: Path) -> None:
        partial.write_text("first")
        replace_file(path, lambda other: other.write_text("second"), shared=True)

    replace_file(path, write, shared=True)
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


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


def test_what_a_killed_run_was_writing_is_removed(tmp_path: Path) -> None:
    for name in ("model.keras", f"{PARTIAL}model.keras"):
        (tmp_path / name).touch()
    remove_partial_files(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["model.keras"]


def test_csv_keeps_file_names_byte_for_byte(tmp_path: Path) -> None:
    rows = [["драка.mp4", "1"], [os.fsdecode(b"\xff\xfe.mp4"), "0"], ['a, "quoted"\nname', "0"]]
    write_csv(tmp_path / "splits.csv", ("clip", "label"), rows)
    with (tmp_path / "splits.csv").open(
        newline="", encoding="utf-8", errors="surrogateescape"
    ) as file:
        assert list(csv.reader(file)) == [["clip", "label"], *rows]


def test_checksum_is_of_the_content(tmp_path: Path) -> None:
    for name, content in {"a": b"same", "b": b"same", "c": b"other"}.items():
        (tmp_path / name).write_bytes(content)
    a, b, c = (file_checksum(tmp_path / name) for name in "abc")
    assert a == b != c
    assert len(a) == 16
