"""Lists of clips as people write them."""

from pathlib import Path

import pytest

from violence_detection.clips.manifest import (
    ManifestRow,
    load_manifest,
    parse_time,
    read_manifest,
    write_manifest,
)
from violence_detection.errors import UserError


def written(folder: Path, text: str, name: str = "clips.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "video,start,end,label,split,group\nx.mp4,1:02.5,63,violent,val,cam 1\n"),
        (
            "a.csv",
            "\ufeffgroup;label;end;start;video;split\ncam 1;Fight;1:03;62.5;x.mp4;valid\n",
        ),
        (
            "A.TSV",
            "video\tlabel\tstart\tend\tsplit\tgroup\nx.mp4\t1\t1:02.5\t63.0\tval\tcam 1\n",
        ),
        (
            "a.jsonl",
            '{"video": "x.mp4", "label": 1, "start": 62.5, "end": "1:03", "split": "val", '
            '"group": "cam 1"}\n\n',
        ),
    ],
)
def test_one_row_in_each_form(tmp_path: Path, name: str, text: str) -> None:
    expected = ManifestRow("x.mp4", 1, 62.5, 63.0, "val", "cam 1")
    assert read_manifest(written(tmp_path, text, name)) == [expected]


def test_only_video_and_label_are_needed(tmp_path: Path) -> None:
    path = written(tmp_path, 'label,video\nnormal,"a, b.mp4"\n\n0,c.mp4\n')
    assert read_manifest(path) == [ManifestRow("a, b.mp4", 0), ManifestRow("c.mp4", 0)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("video,lable\na.mp4,violent\n", r"unknown column 'lable'; did you mean label\?"),
        ("video,start\na.mp4,1\n", "no column 'label'"),
        ("video,label,label\na.mp4,1,1\n", "two columns 'label'"),
        ("", "is empty"),
        ("video,label\n", "lists no clips"),
        ("video,label\na.mp4,violent\nb.mp4,maybe\n", r"line 3: label 'maybe': must be violent or"),
        ("video,label\n,violent\n", "line 2: names no video"),
        ("video,label\na.mp4\n", "line 2: has 1 cells, the first line 2"),
        ("video,label,split\na.mp4,1,later\n", "line 2: split 'later': must be train, val or test"),
        ("video,label,start\na.mp4,1,soon\n", "line 2: start 'soon': must be seconds or mm:ss"),
        ("video,label,start\na.mp4,1,-1\n", "line 2: start '-1'"),
        ("video,label,start,end\na.mp4,1,5,4\n", "line 2: end 4 is not after start 5"),
        ("video,label,start,end\na.mp4,1,5,5\n", "line 2: end 5 is not after start 5"),
        (
            "video,label\na.mp4,1\nb.mp4,x\nc.mp4,y\nd.mp4,z\n",
            r"line 3: label 'x'.*\(2 more lines with problems\)",
        ),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as raised:
        read_manifest(written(tmp_path, text))
    assert "clips.csv" in str(raised.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"video": "a.mp4", "label": 1}\nhello\n', "line 2: is not JSON"),
        ('["a.mp4", 1]\n', "line 1: is not an object"),
        ('{"video": 7, "label": 1}\n', "line 1: names no video"),
        ('{"video": "a.mp4", "label": [1]}\n', r"line 1: label '\[1\]': must be"),
        ('{"video": "a.mp4", "label": 1, "start": true}\n', "line 1: start 'True': must be"),
        ('{"video": "a.mp4", "label": 1, "start": -2.0}\n', "line 1: start -2.0"),
        ('{"film": "a.mp4", "label": 1}\n', "unknown column 'film'"),
    ],
)
def test_what_is_wrong_in_json_lines_is_named(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        read_manifest(written(tmp_path, text, "clips.jsonl"))


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(b"\xff\xfe\x00video")
    for path in (tmp_path / "x.csv", tmp_path / "none.csv"):
        with pytest.raises(UserError, match=path.name):
            read_manifest(path)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0), ("12.5", 12.5), (".5", 0.5), ("1:02.25", 62.25), ("1:00:00", 3600), (" 7 ", 7)],
)
def test_times(text: str, seconds: float) -> None:
    assert parse_time(text) == seconds


@pytest.mark.parametrize("text", ["", "-1", "1:", "1:2:3:4", "nan", "inf", "1e3", "1,5"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(ValueError):
        parse_time(text)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    rows = [
        ManifestRow("a, b.mp4", 1, 0.033, 1.5, "train", "x"),
        ManifestRow("/c.mp4", 0),
        ManifestRow("s3://bucket/d.mp4", 1, 3600.0, None, "test"),
    ]
    write_manifest(rows, tmp_path / "clips.csv")
    assert read_manifest(tmp_path / "clips.csv") == rows


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "video,Camera,label,light\na.mp4,gate,1,day\nb.mp4,,0, night\n"),
        (
            "a.jsonl",
            '{"video": "a.mp4", "label": 1, "camera": "gate", "light": "day"}\n'
            '{"video": "b.mp4", "label": 0, "light": "night"}\n',
        ),
    ],
)
def test_columns_that_subgroups_name_are_read(tmp_path: Path, name: str, text: str) -> None:
    path = written(tmp_path, text, name)
    manifest = load_manifest(path, ["light", "Camera"])
    assert manifest.subgroups_of == [("day", "gate"), ("night", "")]
    with pytest.raises(UserError, match="unknown column"):
        load_manifest(path, ["light"])
