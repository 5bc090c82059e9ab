import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.object_store import CUT, ObjectStore, fail_first
from violence_detection.clips.dataset import find_clips
from violence_detection.errors import RunError, UserError
from violence_detection.settings.parser import parse_settings
from violence_detection.storage.object_store import announced, clips_folder, local_copy

URL = "s3://clips/dataset"


def write_layout(folder: Path, with_splits: bool) -> Path:
    """Write files that are named as clips are, in one of the two layouts, with groups."""
    folders = ["train", "Validation", "test"] if with_splits else [""]
    names = []
    for split in folders:
        for class_name in ("Fights", "no-fight"):
            for name in ("b.mp4", "a b.AVI", "deep/ü+.mkv", ".hidden.mp4", "notes.txt"):
                path = folder / split / class_name / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(f"{split}{class_name}{name}".encode())
                names.append(path.relative_to(folder).as_posix())
            (folder / split / class_name / ".trash").mkdir()
            (folder / split / class_name / ".trash" / "c.mp4").write_bytes(b"x")
    chosen = [name for name in names if name.endswith("b.mp4")]
    rows = [f"{name},camera{number}\n" for number, name in enumerate(chosen)]
    (folder / "groups.csv").write_text("clip,group\n" + "".join(rows))
    return folder


def put(store: ObjectStore, folder: Path) -> None:
    store.put_folder(folder.parent, "clips")


@pytest.mark.parametrize("with_splits", [True, False])
def test_clips_are_those_of_the_same_folder_on_a_disk(
    object_store: ObjectStore, tmp_path: Path, with_splits: bool
) -> None:
    folder = write_layout(tmp_path / "dataset", with_splits)
    put(object_store, folder)
    local = find_clips(folder, seed=7)
    with clips_folder(URL, tmp_path / "spool", 1.0) as remote:
        found = find_clips(remote, seed=7)
        assert [(c.name, c.label, c.split, c.group) for c in found] == [
            (c.name, c.label, c.split, c.group) for c in local
        ]
        assert any(clip.group for clip in found)
        assert [str(clip.path) for clip in found] == [f"{URL}/{clip.name}" for clip in local]
        for clip, same in zip(found, local, strict=True):
            with local_copy(clip.path) as path:
                assert path.suffix == same.path.suffix
                assert path.read_bytes() == same.path.read_bytes()
    assert not list((tmp_path / "spool").rglob("*.*v*"))


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("s3://nowhere/dataset", r"s3://nowhere/dataset cannot be read: .*bucket does not exist"),
        ("s3://clips/elsewhere", r"s3://clips/elsewhere: no such folder"),
        ("s3://clips/dataset/train", r"neither train/val/test nor violent/nonviolent"),
    ],
)
def test_a_folder_that_is_none_is_the_users_error(
    object_store: ObjectStore, tmp_path: Path, url: str, said: str
) -> None:
    (tmp_path / "dataset" / "train" / "x").mkdir(parents=True)
    (tmp_path / "dataset" / "train" / "x" / "a.mp4").write_bytes(b"x")
    put(object_store, tmp_path / "dataset")
    with clips_folder(url, tmp_path / "spool", 1.0) as remote, pytest.raises(UserError, match=said):
        find_clips(remote, seed=0)


def test_no_permission_and_no_credentials_are_the_users_error(
    object_store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    object_store.fault = lambda method, path: 403
    with (
        clips_folder(URL, tmp_path / "spool", 1.0) as remote,
        pytest.raises(UserError, match="no permission"),
    ):
        find_clips(remote, seed=0)
    assert len(object_store.requests) == 1  # asking again is of no use
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    with (
        clips_folder(URL, tmp_path / "spool", 1.0) as remote,
        pytest.raises(UserError, match="no credentials are found"),
    ):
        find_clips(remote, seed=0)


def test_a_store_that_is_not_there_is_told(
    object_store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with (
        clips_folder(URL, tmp_path / "spool", 1.0) as remote,
        pytest.raises(RunError, match=r"s3://clips/dataset cannot be read: .*connect"),
    ):
        find_clips(remote, seed=0)


@pytest.mark.parametrize("how", [500, 503, CUT])
def test_what_fails_in_passing_is_asked_for_again(
    object_store: ObjectStore, tmp_path: Path, how: int | str
) -> None:
    folder = write_layout(tmp_path / "dataset", with_splits=False)
    put(object_store, folder)
    object_store.fault = fail_first(2, how, "GET", "b.mp4")
    with clips_folder(URL, tmp_path / "spool", 1.0) as remote:
        clips = find_clips(remote, seed=0)
        for clip in announced(clips, lambda clip: clip.path):
            with local_copy(clip.path) as path:
                assert path.read_bytes() == (folder / clip.name).read_bytes()
    assert object_store.count("GET", "b.mp4") == 3 * 2


def test_a_clip_that_stays_unreadable_is_told_apart_from_a_store_that_is_gone(
    object_store: ObjectStore, tmp_path: Path
) -> None:
    folder = write_layout(tmp_path / "dataset", with_splits=False)
    put(object_store, folder)
    with clips_folder(URL, tmp_path / "spool", 1.0) as remote:
        clips = {clip.name: clip.path for clip in find_clips(remote, seed=0)}
        object_store.fault = lambda method, path: 500 if path.endswith("/Fights/b.mp4") else None
        with pytest.raises(OSError, match="told to fail"), local_copy(clips["Fights/b.mp4"]):
            pass
        object_store.client.delete_object(Bucket="clips", Key="dataset/Fights/a b.AVI")
        with pytest.raises(FileNotFoundError), local_copy(clips["Fights/a b.AVI"]):
            pass
        with local_copy(clips["no-fight/b.mp4"]) as path:
            assert path.exists()
        object_store.fault = lambda method, path: CUT
        with pytest.raises(RunError, match="cannot be read any more"):
            local_copy(clips["no-fight/a b.AVI"]).__enter__()


def test_a_clip_that_changes_after_it_was_listed_is_not_read(
    object_store: ObjectStore, tmp_path: Path
) -> None:
    """What is known of it by its listed size and ETag would be another clip's."""
    put(object_store, write_layout(tmp_path / "dataset", with_splits=False))
    with clips_folder(URL, tmp_path / "spool", 1.0) as remote:
        clips = {clip.name: clip.path for clip in find_clips(remote, seed=0)}
        before = {name: path.stamp for name, path in clips.items()}
        for name, content in {
            "Fights/b.mp4": b"Fightsb.mp5",
            "Fights/a b.AVI": b"longer" * 9,
        }.items():
            object_store.client.put_object(Bucket="clips", Key=f"dataset/{name}", Body=content)
            with pytest.raises(OSError, match="changed"), local_copy(clips[name]):
                pass
    with clips_folder(URL, tmp_path / "spool", 1.0) as remote:
        now = {clip.name: clip.path.stamp for clip in find_clips(remote, seed=0)}
    changed = {name for name in now if now[name] != before[name]}
    assert changed == {"Fights/b.mp4", "Fights/a b.AVI"}


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("s3://KEY:SECRET@bucket/clips", "is refused"),
        ("s3://KEY:SEC/RET@bucket/clips", "is refused"),
        ("gs://SECRET@bucket/clips", "is refused"),
        ("hdfs://me:SECRET@host/clips", "is refused"),
        ("s3://bucket/clips?X-Amz-Signature=SECRET", "is refused"),
        ("ftp://host/clips", "ftp:// is none of s3://, gs://, hdfs://"),
        ("s3:///clips", "names no bucket"),
    ],
)
def test_urls_that_are_refused_are_not_repeated(
    url: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for flag in ("--dataset-path", "--cache-dir"):
        with pytest.raises(SystemExit) as ended:
            parse_settings(["--dataset-path", "clips", flag, url])
        told = capsys.readouterr().err
        assert ended.value.code == 2
        assert said in told
        assert "SEC" not in told


def test_urls_are_kept_as_they_are() -> None:
    settings = parse_settings(["--dataset-path", "s3://b/c/", "--cache-dir", "hdfs://me@host:9/c"])
    assert (settings.data.dataset_path, settings.data.cache_dir) == (
        "s3://b/c",
        "hdfs://me@host:9/c",
    )
    with pytest.raises(SystemExit):
        parse_settings(["--dataset-path", "clips", "--checkpoint-dir", "s3://b/c"])


@pytest.mark.parametrize("library", ["fsspec", "s3fs"])
def test_a_missing_library_is_told_with_its_command(tmp_path: Path, library: str) -> None:
    program = (
        f"import sys; sys.modules[{library!r}] = None\n"
        "from train_rtx5000_dual_optimized import main\n"
        f"sys.exit(main(['--dataset-path', {URL!r}, '--spool-dir', {str(tmp_path)!r}]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "pip install fsspec s3fs" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_local_clips_need_no_library(tmp_path: Path) -> None:
    folder = write_layout(tmp_path / "dataset", with_splits=True)
    program = (
        "import sys; sys.modules['fsspec'] = None\n"
        "from pathlib import Path; from violence_detection.clips.dataset import find_clips\n"
        f"print(len(find_clips(Path({str(folder)!r}), 0)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) == 18
    shutil.rmtree(folder)
    assert not re.search("s3fs|boto", done.stderr)
