import contextlib
import os
import re
from pathlib import Path

import pytest

from violence_detection.commands.clip_arguments import find_clips, find_local_clips, require_local
from violence_detection.errors import UserError

BAD, NONVIOLENT, VIOLENT = (
    Path("clips/bad.avi"),
    Path("clips/nonviolent/clip.mp4"),
    Path("clips/violent/clip.mp4"),
)


@pytest.fixture(autouse=True)
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the three clips below the working folder; nothing here looks into them."""
    monkeypatch.chdir(tmp_path)
    for path in (BAD, NONVIOLENT, VIOLENT):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    Path("clips/notes.txt").touch()
    Path("empty").mkdir()


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([str(VIOLENT), "clips"], [VIOLENT, BAD, NONVIOLENT]),
        (["clips/*/*.mp4"], [NONVIOLENT, VIOLENT]),
        (["clips/**/*.mp4"], [NONVIOLENT, VIOLENT]),
    ],
)
def test_clips_are_sorted_within_an_argument_and_each_appears_once(
    names: list[str], expected: list[Path]
) -> None:
    os.symlink("..", "clips/violent/back")  # noqa: PTH211 (a loop)
    assert find_local_clips(names) == expected
    assert find_local_clips([*names, *names, str(expected[0].absolute())]) == expected


def test_a_name_that_looks_like_a_pattern_is_found() -> None:
    Path("clips/[1].mp4").touch()
    assert find_local_clips(["clips/[1].mp4"]) == [Path("clips/[1].mp4")]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gone.mp4", "gone.mp4: no such file or folder"),
        ("clips/*.webm", "clips/*.webm: no such file or folder, and no file matches it"),
        ("empty", "empty contains no clips (file types: .3gp"),
        ("ftp://server/clips", "ftp:// is none of s3://"),
    ],
)
def test_a_name_without_clips_is_an_error(name: str, message: str) -> None:
    with (
        contextlib.ExitStack() as stack,
        pytest.raises(UserError, match=f"^{re.escape(message)}"),
    ):
        find_clips(["clips", name], Path("spool"), stack)


def test_clips_at_a_url_are_not_local(tmp_path: Path) -> None:
    assert require_local("--explain", [BAD]) == [BAD]
    with pytest.raises(UserError, match=r"^s3://bucket/a\.mp4: --explain needs local files"):
        require_local("--explain", [BAD, "s3://bucket/a.mp4"])
