import io
import shutil
import signal
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from tests.conftest import SHORT, figures_of, results_of
from tests.extraction import (
    CLIPS,
    Features,
    extract,
    features_in,
    flags_of,
    recipes_of,
    rows_in,
    start,
)
from tests.waiting import wait_until
from train_rtx5000_dual_optimized import main
from violence_detection.clips.dataset import find_clips
from violence_detection.features.cache import transfer
from violence_detection.features.shares import share_number


@pytest.fixture(scope="module")
def two_shares(
    drawn_clips: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[str]]:
    """Return the cache that two processes make one after the other, and what they print."""
    folder, printed = tmp_path_factory.mktemp("shares"), []
    for share in ("1/2", "2/2"):
        flags = ("--share", share, "--checkpoint-dir", str(folder / "checkpoints"))
        with redirect_stdout(io.StringIO()) as screen:
            assert extract(drawn_clips, folder / "cache", *flags) == 0
        printed.append(screen.getvalue())
    return folder / "cache", printed


def test_two_shares_have_the_features_of_one_process_and_say_what_is_missing(
    drawn_clips: Path, two_shares: tuple[Path, list[str]], extracted_features: Features
) -> None:
    cache, (first, second) = two_shares
    own = len([c for c in find_clips(drawn_clips, 0) if share_number(c, 2) == 0])
    assert f"{own} of 28 clips have features" in first
    assert f"{CLIPS - own} clips missing (share 2/2: {CLIPS - own}): " in first
    assert "28 of 28 clips have features" in second
    assert "nothing is missing" in second
    assert features_in(drawn_clips, cache) == extracted_features
    assert rows_in(cache) == CLIPS
    assert not (cache.parent / "checkpoints").exists()


@pytest.mark.slow
def test_slurm_array_of_processes_at_once(
    drawn_clips: Path, tmp_path: Path, extracted_features: Features
) -> None:
    array = {"MIN": "1", "MAX": "2", "STEP": "1", "COUNT": "2"}
    names = {f"SLURM_ARRAY_TASK_{name}": value for name, value in array.items()}
    processes = [
        start(drawn_clips, tmp_path / "cache", **names, SLURM_ARRAY_TASK_ID=str(task))
        for task in (1, 2)
    ]
    said = [process.communicate(timeout=200)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert features_in(drawn_clips, tmp_path / "cache") == extracted_features
    assert rows_in(tmp_path / "cache") == CLIPS


def test_killed_worker_is_made_up_for_by_another_number_of_workers(
    drawn_clips: Path, tmp_path: Path, extracted_features: Features
) -> None:
    """It has completed the parts of one recipe, and is killed before it is done."""
    cache = tmp_path / "cache"
    process = start(drawn_clips, cache, "--share", "2/2")
    wait_until(lambda: any(cache.glob("*/.partial-*")) or process.poll() is not None, pause=0.001)
    process.kill()
    said, _ = process.communicate()
    assert process.returncode == -signal.SIGKILL, said
    for share in range(1, 4):
        assert extract(drawn_clips, cache, "--share", f"{share}/3") == 0
    assert features_in(drawn_clips, cache) == extracted_features
    assert rows_in(cache) == CLIPS


def test_damaged_rows_are_computed_again(
    drawn_clips: Path,
    extracted: Path,
    extracted_features: Features,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cache = Path(shutil.copytree(extracted, tmp_path / "cache"))
    (rows,) = cache.glob(f"{recipes_of(drawn_clips)[0].key}/*.rows")
    data = bytearray(rows.read_bytes())
    data[-1] ^= 0xFF
    rows.write_bytes(data)
    assert extract(drawn_clips, cache) == 0
    assert "1 row of difference features" in (said := capsys.readouterr().out)
    assert "nothing is missing" in said
    assert features_in(drawn_clips, cache) == extracted_features


def test_own_disk_then_the_shared_one(
    drawn_clips: Path,
    tmp_path: Path,
    extracted_features: Features,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cache, locals_ = tmp_path / "cache", [tmp_path / f"disk{n}" / "cache" for n in range(2)]
    for number, local in enumerate(locals_, start=1):
        flags = ("--share", f"{number}/2", "--cache-local", str(local))
        assert extract(drawn_clips, cache, *flags) == 0
    assert "nothing is missing" in capsys.readouterr().out
    assert features_in(drawn_clips, cache) == extracted_features
    assert sum(map(rows_in, locals_)) == CLIPS
    # Again: nothing is copied twice, and nothing computed that another has.
    assert extract(drawn_clips, cache, "--cache-local", str(locals_[0])) == 0
    assert rows_in(cache) == CLIPS
    assert rows_in(locals_[0]) < CLIPS


def test_own_disk_is_handed_over_while_more_is_computed(
    drawn_clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "UPLOAD_INTERVAL", 0.0)
    monkeypatch.setattr(transfer, "UPLOAD_TIME_SHARE", 1e9)
    dataset = Path(shutil.copytree(drawn_clips, tmp_path / "clips"))
    (dataset / "val" / "violent" / "zzz.mp4").write_bytes(b"no video")
    cache, local = tmp_path / "cache", tmp_path / "disk"
    flags = ("--cache-local", str(local), "--on-bad-clip", "fail")
    assert extract(dataset, cache, *flags) == 2
    assert 0 < rows_in(cache) < CLIPS


def test_clips_that_cannot_be_read_are_told_of(
    drawn_clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = Path(shutil.copytree(drawn_clips, tmp_path / "clips"))
    bad = dataset / "val" / "violent" / "broken.mp4"
    bad.write_bytes(b"no video")
    for number in (1, 2):
        assert extract(dataset, tmp_path / "cache", "--share", f"{number}/2") == 0
    said = capsys.readouterr().out
    assert "28 of 29 clips have features" in said
    assert f"1 clip cannot be read: {bad}" in said
    assert "nothing is missing" in said


@pytest.fixture(scope="module")
def of_one_cache(
    drawn_clips: Path, extracted: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Return the checkpoint directory of a short training on the features of one process."""
    folder = tmp_path_factory.mktemp("trained_on_one")
    cache = Path(shutil.copytree(extracted, folder / "cache"))
    assert main([*flags_of(drawn_clips, cache), *training(folder / "run")]) == 0
    return folder / "run"


def training(run: Path) -> list[str]:
    return [
        *("--checkpoint-dir", str(run), *SHORT, "--warmup-epochs", "0"),
        *("--batch-size", "8", "--deterministic", "--folds", "1"),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("local", [False, True])
def test_training_reads_what_shares_made_and_makes_a_damaged_row_good(
    drawn_clips: Path,
    two_shares: tuple[Path, list[str]],
    of_one_cache: Path,
    extracted_features: Features,
    tmp_path: Path,
    local: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cache, run = shutil.copytree(two_shares[0], tmp_path / "cache"), tmp_path / "run"
    rows, _ = cache.glob(f"{recipes_of(drawn_clips)[0].key}/*.rows")
    data = bytearray(rows.read_bytes())
    data[-1] ^= 0xFF
    rows.write_bytes(data)
    flags = ["--cache-local", str(tmp_path / "local")] if local else []
    assert main([*flags_of(drawn_clips, cache), *training(run), *flags]) == 0
    assert "1 row of" in capsys.readouterr().out
    assert figures_of(run) == figures_of(of_one_cache)
    assert results_of(run)["evaluation"] == results_of(of_one_cache)["evaluation"]
    if local:
        assert rows_in(tmp_path / "local") == CLIPS + 1  # the damaged one, too
        return
    assert rows_in(cache) == CLIPS + 1
    assert features_in(drawn_clips, cache) == extracted_features
