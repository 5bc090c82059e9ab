"""A checkpoint directory that comes from elsewhere."""

import hashlib
import io
import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest

from violence_detection.errors import UserError
from violence_detection.runs import received
from violence_detection.runs.saved_detector import find_detector
from violence_detection.storage.files import file_checksum, write_json


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Path:
    """Return a copy of a finished run."""
    return Path(shutil.copytree(trained / "run", tmp_path / "run"))


def change(folder: Path, **values: Any) -> None:
    """Change what `detector.json` says; None takes it out."""
    saved = json.loads((folder / "detector.json").read_text()) | values
    del saved["checksum"]
    write_json(
        folder / "detector.json",
        {name: value for name, value in saved.items() if value is not None},
    )


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"model": "../elsewhere.keras"}, ["model is '../elsewhere.keras'", "in this folder"]),
        ({"model": "/etc/passwd"}, ["model is '/etc/passwd'", "in this folder"]),
        ({"temperature": 0}, ["temperature is 0", "above 0"]),
        ({"temperature": float("nan")}, ["temperature is nan", "above 0"]),
        ({"threshold": 2}, ["threshold is 2", "from 0 to 1"]),
        ({"frames": "16"}, ["frames is '16'", "above 0"]),
        ({"temperature": None}, ["temperature is missing"]),
        ({"features": [{"frames": 4}]}, ["features"]),
        ({"features": []}, ["features are missing"]),
    ],
)
def test_file_that_cannot_be_a_detectors_is_refused(
    folder: Path, values: dict[str, Any], words: list[str]
) -> None:
    change(folder, **values)
    with pytest.raises(UserError) as error:
        find_detector(folder)
    assert all(word in str(error.value) for word in ["detector.json", "--fresh", *words])


def test_link_out_of_the_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "best_model.keras").rename(tmp_path / "other.keras")
    (folder / "best_model.keras").symlink_to(tmp_path / "other.keras")
    with pytest.raises(UserError, match="is a link out of this folder"):
        find_detector(folder)


def test_model_that_unpacks_to_too_much_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(received, "MODEL_LIMIT", 2**24)  # gigabytes would take half a minute
    model = folder / "best_model.keras"
    with zipfile.ZipFile(model, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(2**25))
    change(folder, model_checksum=file_checksum(model).hex())
    with pytest.raises(UserError, match=r"unpacks to 0\.0 GiB, more than"):
        find_detector(folder)


def test_model_with_a_layer_of_millions_is_refused(folder: Path) -> None:
    model, changed = folder / "best_model.keras", io.BytesIO()
    with zipfile.ZipFile(model) as archive, zipfile.ZipFile(changed, "w") as written:
        for part in archive.infolist():
            content = archive.read(part)
            if part.filename == "config.json":
                content = content.replace(b'"units": 1,', b'"units": 99999999,')
            written.writestr(part, content)
    model.write_bytes(changed.getvalue())
    change(folder, model_checksum=file_checksum(model).hex())
    with pytest.raises(UserError, match="units 99,999,999"):
        find_detector(folder)


def test_model_is_known_by_its_sha256(folder: Path) -> None:
    expected = hashlib.sha256((folder / "best_model.keras").read_bytes()).hexdigest()
    assert find_detector(folder).model_sha256 == expected
