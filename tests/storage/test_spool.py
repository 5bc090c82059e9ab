import errno
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from violence_detection.errors import UserError
from violence_detection.storage.spool import CLIPS, Spool, Wanted


def wanted(key: object, size: int = 10, fails: bool = False) -> Wanted:
    def download(path: Path) -> None:
        if fails:
            path.write_bytes(bytes(size // 2))
            raise OSError(errno.EREMOTEIO, "lost")
        path.write_bytes(str(key).encode().ljust(size))

    return Wanted(key, size, ".mp4", download)


def bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*.mp4"))


def test_files_are_never_more_than_the_bound_and_all_come(tmp_path: Path) -> None:
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
            with spool.copy_of(wanted(number, sizes[number])) as path:
                return path.read_bytes()

        reading = []
        for number, size in enumerate(sizes):
            spool.announce(wanted(number, size))
            if number >= 40:
                reading.append(readers.submit(read, number - 40))
        reading += [readers.submit(read, number) for number in range(260, 300)]
        contents = [future.result().split()[0] for future in reading]
    ended.set()
    watcher.join()
    assert contents == [str(number).encode() for number in range(300)]
    assert 0 < max(most) <= 1000
    assert not bytes_in(tmp_path)


def test_downloads_are_on_their_way_at_once_and_ahead(tmp_path: Path) -> None:
    together = threading.Barrier(8, timeout=20)

    def download(path: Path) -> None:
        together.wait()  # passes only if eight are under way
        path.write_bytes(b"x")

    with Spool(tmp_path, 100) as spool:
        files = [Wanted(number, 1, ".mp4", download) for number in range(8)]
        for file in files:
            spool.announce(file)
        for file in files:
            with spool.copy_of(file) as path:
                assert path.read_bytes() == b"x"


def test_a_file_that_fails_gives_its_room_back(tmp_path: Path) -> None:
    with Spool(tmp_path, 10) as spool:
        for number in range(3):
            spool.announce(wanted(number, 10, fails=number == 1))
        for number in range(3):
            if number == 1:
                with pytest.raises(OSError, match="lost"), spool.copy_of(wanted(number)):
                    pass
                continue
            with spool.copy_of(wanted(number)) as path:
                assert path.read_bytes().split() == [str(number).encode()]
        with pytest.raises(OSError, match="--spool-size"), spool.copy_of(wanted("large", 11)):
            pass
        with spool.copy_of(wanted("fits")) as path:
            assert path.exists()


def test_what_a_killed_process_left_is_removed_and_a_living_ones_is_not(tmp_path: Path) -> None:
    left = tmp_path / CLIPS / "123-killed"
    left.mkdir(parents=True)
    (left / "1.mp4").write_bytes(b"x")
    with Spool(tmp_path, 10) as living, living.copy_of(wanted("a")) as path:
        assert not left.exists()
        with Spool(tmp_path, 10) as other:
            assert path.exists()
        assert not other.folder.exists()
        assert path.exists()


def test_leaving_does_not_wait_for_room_that_nobody_gives(tmp_path: Path) -> None:
    started = time.monotonic()
    with Spool(tmp_path, 10) as spool:
        for number in range(50):
            spool.announce(wanted(number, 10))
    assert time.monotonic() - started < 10
    assert not bytes_in(tmp_path)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--spool-dir .*file"), Spool(tmp_path / "file", 10):
        pass
