import errno
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from violence_detection.errors import UserError
from violence_detection.storage.spool import CLIPS, Download, Spool


def download_of(key: object, size: int = 10, fails: bool = False) -> Download:
    def write(path: Path) -> None:
        if fails:
            path.write_bytes(bytes(size // 2))
            raise OSError(errno.EREMOTEIO, "lost")
        path.write_bytes(str(key).encode().ljust(size))

    return Download(key, size, ".mp4", write)


def bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*.mp4"))


def test_copies_never_exceed_the_capacity(tmp_path: Path) -> None:
    sizes = [random.Random(number).randint(1, 400) for number in range(300)]
    most, ended = [0], threading.Event()

    def watch() -> None:
        while not ended.is_set():
            try:
                most.append(bytes_in(tmp_path))
            except FileNotFoundError:  # removed while it was looked at
                continue

    watcher = threading.Thread(target=watch)
    watcher.start()
    with Spool(tmp_path, 1000) as spool, ThreadPoolExecutor(5) as readers:

        def read(number: int) -> bytes:
            with spool.copy_of(download_of(number, sizes[number])) as path:
                return path.read_bytes()

        reading = []
        for number, size in enumerate(sizes):
            spool.prefetch(download_of(number, size))
            if number >= 40:
                reading.append(readers.submit(read, number - 40))
        reading += [readers.submit(read, number) for number in range(260, 300)]
        contents = [future.result().split()[0] for future in reading]
    ended.set()
    watcher.join()
    assert contents == [str(number).encode() for number in range(300)]
    assert 0 < max(most) <= 1000
    assert not bytes_in(tmp_path)


def test_prefetched_files_are_downloaded_at_once(tmp_path: Path) -> None:
    together = threading.Barrier(8, timeout=20)

    def write(path: Path) -> None:
        together.wait()  # passes only if eight downloads run at once
        path.write_bytes(b"x")

    with Spool(tmp_path, 100) as spool:
        files = [Download(number, 1, ".mp4", write) for number in range(8)]
        for file in files:
            spool.prefetch(file)
        for file in files:
            with spool.copy_of(file) as path:
                assert path.read_bytes() == b"x"


def test_failed_download_frees_its_space(tmp_path: Path) -> None:
    with Spool(tmp_path, 10) as spool:
        for number in range(3):
            spool.prefetch(download_of(number, 10, fails=number == 1))
        for number in range(3):
            if number == 1:
                with pytest.raises(OSError, match="lost"), spool.copy_of(download_of(number)):
                    pass
                continue
            with spool.copy_of(download_of(number)) as path:
                assert path.read_bytes().split() == [str(number).encode()]
        with pytest.raises(OSError, match="--spool-size"), spool.copy_of(download_of("large", 11)):
            pass
        with spool.copy_of(download_of("fits")) as path:
            assert path.exists()


def test_leftovers_of_a_killed_process_are_removed_and_others_kept(tmp_path: Path) -> None:
    left = tmp_path / CLIPS / "123-killed"
    left.mkdir(parents=True)
    (left / "1.mp4").write_bytes(b"x")
    with Spool(tmp_path, 10) as living, living.copy_of(download_of("a")) as path:
        assert not left.exists()
        with Spool(tmp_path, 10) as other:
            assert path.exists()
        assert not other.folder.exists()
        assert path.exists()


def test_closing_does_not_wait_for_free_space(tmp_path: Path) -> None:
    started = time.monotonic()
    with Spool(tmp_path, 10) as spool:
        for number in range(50):
            spool.prefetch(download_of(number, 10))
    assert time.monotonic() - started < 10
    assert not bytes_in(tmp_path)


def test_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--spool-dir .*file"), Spool(tmp_path / "file", 10):
        pass
