from pathlib import Path

import pytest

from violence_detection.clips.clip import Clip
from violence_detection.errors import UserError
from violence_detection.features.shares import find_share, share_of
from violence_detection.runtime.worker import Worker
from violence_detection.settings.parser import parse_settings


def clip(name: str) -> Clip:
    return Clip(Path("/here"), name, 1, "train")


@pytest.mark.parametrize("count", [1, 2, 4, 7])
def test_every_clip_belongs_to_one_worker_whatever_its_order_and_path(count: int) -> None:
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


def slurm(**numbers: int) -> dict[str, str]:
    return {f"SLURM_ARRAY_TASK_{name.upper()}": str(value) for name, value in numbers.items()}


@pytest.mark.parametrize(
    ("share", "environment", "worker"),
    [
        (None, {}, (0, 1)),
        ("2/4", {}, (1, 4)),
        ("2/4", slurm(id=7, min=1, max=9, count=9), (1, 4)),
        (None, slurm(id=3, min=1, max=4, step=1, count=4), (2, 4)),
        (None, slurm(id=0, min=0, max=3, count=4), (0, 4)),
        (None, slurm(id=20, min=10, max=30, step=10, count=3), (1, 3)),
        ("/4", slurm(id=3, min=3, max=4, count=2), (2, 4)),
        ("/8", {"JOB_COMPLETION_INDEX": "0"}, (0, 8)),
        ("/8", {"JOB_COMPLETION_INDEX": "7"}, (7, 8)),
    ],
)
def test_share_by_flag_slurm_array_and_kubernetes_job(
    share: str | None, environment: dict[str, str], worker: tuple[int, int]
) -> None:
    assert find_share(share, "tf-config", environment) == Worker(*worker)


@pytest.mark.parametrize(
    ("share", "environment", "words"),
    [
        ("/4", {}, "--share I/4"),
        (None, {"JOB_COMPLETION_INDEX": "3"}, "--share /N"),
        ("/3", {"JOB_COMPLETION_INDEX": "3"}, "completions"),
        ("/4", slurm(id=0, min=0, max=3, count=4), "--array=1-4"),
        (None, slurm(id=7, min=3, max=7, step=1, count=2), "gaps"),
        (None, {"JOB_COMPLETION_INDEX": "x"}, "not a number"),
    ],
)
def test_share_that_cannot_be_determined(
    share: str | None, environment: dict[str, str], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        find_share(share, "tf-config", environment)


@pytest.mark.parametrize("share", ["0/4", "5/4", "4", "/", "a/4", "1/0"])
def test_impossible_share_is_refused(tmp_path: Path, share: str) -> None:
    with pytest.raises(UserError, match="--share"):
        parse_settings(["--dataset-path", str(tmp_path), "--extract-only", "--share", share])
