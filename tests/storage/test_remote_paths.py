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
from violence_detection.storage.remote_paths import clips_folder, local_copy, prefetched

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
def test_clips_equal_those_of_the_same_folder_on_a_disk(
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
    ("url", "reason"),
    [
        ("s3://nowhere/dataset", r"s3://nowhere/dataset cannot be read: .*bucket does not exist"),
        ("s3://clips/elsewhere", r"s3://clips/elsewhere: no such folder"),
        ("s3://clips/dataset/train", r"neither train/val/test nor violent/nonviolent"),
    ],
)
def test_folder_without_a_dataset_is_refused(
    object_store: ObjectStore, tmp_path: Path, url: str, reason: str
) -> None:
    (tmp_path / "dataset" / "train" / "x").mkdir(parents=True)
    (tmp_path / "dataset" / "train" / "x" / "a.mp4").write_bytes(b"x")
    put(object_store, tmp_path / "dataset")
    with (
        clips_folder(url, tmp_path / "spool", 1.0) as remote,
        pytest.raises(UserError, match=reason),
    ):
        find_clips(remote, seed=0)


def test_missing_permission_or_credentials_are_refused(
    object_store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    object_store.fault = lambda method, path: 403
    with (
        clips_folder(URL, tmp_path / "spool", 1.0) as remote,
        pytest.raises(UserError, match="permission denied"),
    ):
        find_clips(remote, seed=0)
    assert len(object_store.requests) == 1  # a retry would not help
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    with (
        clips_folder(URL, tmp_path / "spool", 1.0) as remote,
        pytest.raises(UserError, match="no credentials found"),
    ):
        find_clips(remote, seed=0)


def test_unreachable_store_is_named(
    object_store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with (
        clips_folder(URL, tmp_path / "spool", 1.0) as remote,
        pytest.raises(RunError, match=r"s3://clips/dataset cannot be read: .*connect"),
    ):
        find_clips(remote, seed=0)


@pytest.mark.parametrize("how", [500, 503, CUT])
def test_transient_errors_are_retried(
    object_store: ObjectStore, tmp_path: Path, how: int | str
) -> None:
    folder = write_layout(tmp_path / "dataset", with_splits=False)
    put(object_store, folder)
    object_store.fault = fail_first(2, how, "GET", "b.mp4")
    with clips_folder(URL, tmp_path / "spool", 1.0) as remote:
        clips = find_clips(remote, seed=0)
        for clip in prefetched(clips, lambda clip: clip.path):
            with local_copy(clip.path) as path:
                assert path.read_bytes() == (folder / clip.name).read_bytes()
    assert object_store.count("GET", "b.mp4") == 3 * 2


def test_unreadable_clip_is_distinguished_from_an_unreachable_store(
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
        with pytest.raises(RunError, match="can no longer be read"):
            local_copy(clips["no-fight/a b.AVI"]).__enter__()


def test_clip_that_changed_after_it_was_listed_is_not_read(
    object_store: ObjectStore, tmp_path: Path
) -> None:
    """The features cached for its listed size and ETag would be those of another clip."""
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


def test_single_file_is_read_without_a_listing(object_store: ObjectStore, tmp_path: Path) -> None:
    put(object_store, write_layout(tmp_path / "dataset", with_splits=False))
    with clips_folder(URL, tmp_path / "spool", 1.0) as remote:
        clip, missing = remote / "Fights/a b.AVI", remote / "Fights/none.mp4"
        assert (str(clip), clip.name, clip.suffix) == (f"{URL}/Fights/a b.AVI", "a b.AVI", ".AVI")
        assert clip.parent == remote / "Fights"
        with local_copy(clip) as path:
            assert path.read_bytes() == b"Fightsa b.AVI"
        assert clip.exists()
        assert not missing.exists()
        with pytest.raises(FileNotFoundError), local_copy(missing):
            pass


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
