from pathlib import Path

import pytest

from violence_detection.commands.predict import main


@pytest.fixture(autouse=True)
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a clip below `clips`, and an empty folder."""
    monkeypatch.chdir(tmp_path)
    Path("clips").mkdir()
    Path("clips/clip.mp4").touch()
    Path("empty").mkdir()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name clips, folders or patterns, or give a live --source"),
        (["gone.mp4"], "gone.mp4: no such file"),
        (["clips/*.webm"], "clips/*.webm: no such file or folder, and no file matches it"),
        (["empty"], "empty contains no clips"),
        (["clips", "--threshold", "1.5"], "--threshold 1.5: must be from 0 to 1"),
        (["clips", "--clip-timeout", "0"], "--clip-timeout 0: must be above 0"),
        (["clips", "--replicas", "0"], "--replicas 0: must be 1 or more"),
        (["clips", "--output", "gone/rows.csv"], "--output gone/rows.csv: its folder does not"),
        (["clips", "--output", "clips/clip.mp4"], "--output clips/clip.mp4: is one of the clips"),
        (
            ["clips/clip.mp4#t=0,1", "--output", "clips/clip.mp4"],
            "--output clips/clip.mp4: is one of the clips",
        ),
        (["clips", "--stride", "1"], "--stride needs --window"),
        (["clips/clip.mp4#t=1,2", "--explain"], "clips/clip.mp4#t=1,2: --explain takes whole"),
        (["clips/clip.mp4#t=1,2", "--window", "2"], "clips/clip.mp4#t=1,2: --window takes whole"),
        (["clips/clip.mp4#t=2,1"], "clips/clip.mp4#t=2,1: the segment ends before it starts"),
        (["clips/gone.mp4#t=1,2"], "clips/gone.mp4: no such file"),
        (["gone.csv"], "gone.csv: no such file"),
        (["clips", "--webhook", "https://host"], "--webhook needs --source"),
        (["clips", "--checkpoint-dir", "gone"], "--checkpoint-dir gone: no such folder"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_status_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"error: {message}")
    assert captured.err.count("\n") == 1
