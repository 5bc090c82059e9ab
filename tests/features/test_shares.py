from pathlib import Path

import pytest

from violence_detection.clips.clip import Clip
from violence_detection.errors import UserError
from violence_detection.features.shares import find_share, share_of
from violence_detection.runtime.worker import Worker
from violence_detection.settings.parser import parse_settings
from violence_detection.settings.schema import Settings


def clip(name: str) -> Clip:
    return Clip(Path("/here"), name, 1, "train")


@pytest.mark.parametrize("count", [1, 2, 4, 7])
def test_every_clip_falls_to_one_worker_whatever_the_order_and_the_path(count: int) -> None:
    clips = [clip(f"train/violent/{number}.mp4") for number in range(2000)]
    shares = [share_of(clips, Worker(number, count)) for number in range(count)]
    assert sorted(c.name for share in shares for c in share) == sorted(c.name for c in clips)
    assert all(0.8 < len(share) * count / 2000 < 1.2 for share in shares)
    elsewhere = [Clip(Path("/there"), c.name, 0, "test") for c in reversed(clips)]
    again = share_of(elsewhere, Worker(0, count))
    assert {c.name for c in again} == {c.name for c in shares[0]}


def test_division_is_the_same_on_every_machine_and_in_every_version() -> None:
    names = [f"{number}.mp4" for number in range(8)] + ["\udcff.mp4"]
    shares = [share_of([clip(name)], Worker(0, 2)) != [] for name in names]
    assert shares == [False, True, True, True, True, False, False, False, True]


def settings(tmp_path: Path, *flags: str) -> Settings:
    folders = ("--dataset-path", str(tmp_path), "--vgg19-weights", "random")
    return parse_settings([*folders, "--extract-only", *flags])


def slurm(**numbers: int) -> dict[str, str]:
    return {f"SLURM_ARRAY_TASK_{name.upper()}": str(value) for name, value in numbers.items()}


@pytest.mark.parametrize(
    ("flags", "environment", "worker"),
    [
        ((), {}, (0, 1)),
        (("--share", "2/4"), {}, (1, 4)),
        (("--share", "2/4"), slurm(id=7, min=1, max=9, count=9), (1, 4)),
        ((), slurm(id=3, min=1, max=4, step=1, count=4), (2, 4)),
        ((), slurm(id=0, min=0, max=3, count=4), (0, 4)),
        ((), slurm(id=20, min=10, max=30, step=10, count=3), (1, 3)),
        (("--share", "/4"), slurm(id=3, min=3, max=4, count=2), (2, 4)),
        (("--share", "/8"), {"JOB_COMPLETION_INDEX": "0"}, (0, 8)),
        (("--share", "/8"), {"JOB_COMPLETION_INDEX": "7"}, (7, 8)),
    ],
)
def test_share_by_flag_slurm_array_and_kubernetes_job(
    tmp_path: Path, flags: tuple[str, ...], environment: dict[str, str], worker: tuple[int, int]
) -> None:
    assert find_share(settings(tmp_path, *flags), environment) == Worker(*worker)


@pytest.mark.parametrize(
    ("flags", "environment", "words"),
    [
        (("--share", "/4"), {}, "--share I/4"),
        ((), {"JOB_COMPLETION_INDEX": "3"}, "--share /N"),
        (("--share", "/3"), {"JOB_COMPLETION_INDEX": "3"}, "completions"),
        (("--share", "/4"), slurm(id=0, min=0, max=3, count=4), "--array=1-4"),
        ((), slurm(id=7, min=3, max=7, step=1, count=2), "gaps"),
        ((), {"JOB_COMPLETION_INDEX": "x"}, "not a number"),
    ],
)
def test_share_that_cannot_be_told(
    tmp_path: Path, flags: tuple[str, ...], environment: dict[str, str], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        find_share(settings(tmp_path, *flags), environment)


@pytest.mark.parametrize("share", ["0/4", "5/4", "4", "/", "a/4", "1/0"])
def test_share_that_there_is_not(tmp_path: Path, share: str) -> None:
    with pytest.raises(UserError, match="--share"):
        settings(tmp_path, "--share", share)
