import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from violence_detection.commands.output import print_message, write_text
from violence_detection.runtime.wording import count_of


def test_a_file_appears_when_its_text_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"

    def pieces() -> Iterator[str]:
        yield "first\n"
        assert not path.exists()
        yield "second\n"

    write_text(pieces(), path)
    assert path.read_text() == "first\nsecond\n"


def test_text_that_cannot_be_completed_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("before")

    def pieces() -> Iterator[str]:
        yield "first\n"
        raise ValueError("the second row")

    with pytest.raises(ValueError, match="the second row"):
        write_text(pieces(), path)
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_names_that_are_no_text_keep_their_bytes(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    name = b"clip \xff.mp4"
    write_text([os.fsdecode(name)], tmp_path / "rows.csv")
    assert (tmp_path / "rows.csv").read_bytes() == name
    print_message(os.fsdecode(name))
    assert capfdbinary.readouterr().err == b"clip \\udcff.mp4\n"


@pytest.mark.parametrize(("number", "text"), [(0, "0 clips"), (1, "1 clip"), (2, "2 clips")])
def test_a_noun_is_singular_only_after_one(number: int, text: str) -> None:
    assert count_of(number, "clip") == text
