import io
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from tests.conftest import SHORT, figures_of, held_by_another, results_of
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
from violence_detection.features.cache.record_file import (
    ROW_FIELDS,
    RecordFile,
    row_index,
)
from violence_detection.features.shares import share_number


def test_one_share_is_a_cache_as_every_run_makes_it(extracted: Path) -> None:
    assert rows_in(extracted) == [CLIPS]
    assert not any(path.is_dir() for path in extracted.iterdir())


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
    assert sum(rows_in(cache)) == CLIPS
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
    assert len(rows_in(tmp_path / "cache")) == 2
    assert sum(rows_in(tmp_path / "cache")) == CLIPS


@pytest.mark.parametrize("others", [1, 3])
def test_killed_worker_is_made_up_for_by_another_number_of_workers(
    drawn_clips: Path, tmp_path: Path, extracted_features: Features, others: int
) -> None:
    dataset, cache = drawn_clips, tmp_path / "cache"
    process = start(dataset, cache, "--share", "2/2")
    shard, recipe = cache / "shard_2", recipes_of(dataset)[0]
    rows = shard / f"{recipe.key}.features"

    def first_rows_or_end() -> bool:  # of the first batch, of several
        return (rows.exists() and rows.stat().st_size > 0) or process.poll() is not None

    wait_until(first_rows_or_end, pause=0.001)
    process.kill()
    said, _ = process.communicate()
    assert process.returncode == -signal.SIGKILL, said
    before = rows.read_bytes()
    stored = RecordFile(row_index(shard, recipe.key), "", ROW_FIELDS, writable=False).count
    for share in range(1, others + 1):
        assert extract(dataset, cache, "--share", f"{share}/{others}") == 0
    assert features_in(dataset, cache) == extracted_features
    size = stored * 4 * 64 * 2
    assert rows.read_bytes()[:size] == before[:size]
    if others == 1:  # it writes no shard: what the killed one has stored was not computed again
        assert rows_in(cache)[0] == CLIPS - stored


def test_second_process_of_a_share_waits_for_the_first(
    drawn_clips: Path, extracted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = Path(shutil.copytree(extracted, tmp_path / "cache"))
    (cache / "shard_2").mkdir()
    messages: list[str] = []
    with held_by_another(cache / "shard_2") as other, ThreadPoolExecutor(1) as thread:
        assert extract(drawn_clips, cache, "--share", "1/2") == 0  # of another share: it goes on

        def printed() -> bool:
            messages.append(capsys.readouterr().out)
            return bool(messages[-1])

        def release_once_it_waits() -> None:
            with other.stdin:  # is closed also where nobody waits
                wait_until(printed)

        capsys.readouterr()
        waiting = thread.submit(release_once_it_waits)
        assert extract(drawn_clips, cache, "--share", "2/2") == 0
        waiting.result(60)
        assert f"share 2/2 is being extracted by process {other.pid}: waiting" in messages[-1]


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
    assert sum(sum(rows_in(local)) for local in locals_) == CLIPS
    before = rows_in(cache)
    # Again: nothing is copied twice, and nothing computed that another has.
    assert extract(drawn_clips, cache, "--cache-local", str(locals_[0])) == 0
    assert rows_in(cache) == before
    assert sum(rows_in(locals_[0])) < CLIPS


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
    assert 0 < sum(rows_in(cache)) < CLIPS


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
def test_training_reads_shards_as_one_cache_and_makes_a_damaged_row_good(
    drawn_clips: Path,
    two_shares: tuple[Path, list[str]],
    of_one_cache: Path,
    extracted_features: Features,
    tmp_path: Path,
    local: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cache, run = shutil.copytree(two_shares[0], tmp_path / "cache"), tmp_path / "run"
    rows = cache / "shard_1" / f"{recipes_of(drawn_clips)[0].key}.features"
    data = bytearray(rows.read_bytes())
    data[-1] ^= 0xFF
    rows.write_bytes(data)
    flags = ["--cache-local", str(tmp_path / "local")] if local else []
    assert main([*flags_of(drawn_clips, cache), *training(run), *flags]) == 0
    assert "1 row of" in capsys.readouterr().out
    assert figures_of(run) == figures_of(of_one_cache)
    assert results_of(run)["evaluation"] == results_of(of_one_cache)["evaluation"]
    if local:
        assert rows_in(tmp_path / "local") == [CLIPS]
        return
    assert rows_in(cache)[0] == 1  # the damaged one, computed anew
    assert features_in(drawn_clips, cache) == extracted_features
