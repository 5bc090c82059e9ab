"""What a run goes through on machines that fail: every one ends as if nothing had happened."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import keras
import numpy as np
import psutil
import pytest

from benchmarks.crash import cached_features, crash
from tests.conftest import (
    ROOT,
    SHORT,
    TRAIN,
    figures_of,
    held_by_another,
    results_of,
    write_hanging_clip,
)
from tests.waiting import wait_until
from tests.warm_start import ForkedProcess
from train_rtx5000_dual_optimized import main
from violence_detection.runs.directory import RunDirectory
from violence_detection.storage.files import read_json
from violence_detection.training import callbacks
from violence_detection.training.callbacks import write_models_of_last_epoch
from violence_detection.training.trainer import Trainer

Start = Callable[..., ForkedProcess]
Outcome = tuple[list, dict, list[bytes]]


def outcome_of(run: Path) -> Outcome:
    """Return CSV rows, test figures and the best model's weights."""
    weights = keras.models.load_model(run / "best_model.keras").get_weights()
    return figures_of(run), results_of(run)["evaluation"], [values.tobytes() for values in weights]


@pytest.fixture(scope="session")
def whole(finished: Path) -> Outcome:
    """Return what a run that was left alone ends with."""
    return outcome_of(finished / "run")


def wait_for_line(process: ForkedProcess, words: str) -> None:
    assert any(words in line for line in process.stdout), process.stderr.read()


@pytest.mark.slow
@pytest.mark.usefixtures("features_before")
def test_terminated_run_ends_as_if_it_had_not_been(
    flags: list[str], run: Path, whole: Outcome, finished: Path, train_process: Start
) -> None:
    """Dropout is on, so that its random state must go on too."""
    process = train_process(*flags)
    wait_for_line(process, "epoch   2")
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert time.monotonic() - began < 15
    assert process.returncode == 143
    assert "Run the same command again to resume." in said
    assert "Traceback" not in said
    assert 2 <= len(figures_of(run)) < 5
    assert main(flags) == 0
    assert outcome_of(run) == whole
    ours, theirs = (
        keras.models.load_model(folder / "checkpoint_epoch_005.keras").get_weights()
        for folder in (run, finished / "run")
    )
    for values, expected in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(values, expected)


@pytest.mark.slow
def test_sigterm_in_extraction_keeps_what_is_computed_and_leaves_no_process(
    drawn_clips: Path, tmp_path: Path, quick_flags: list[str], train_process: Start
) -> None:
    dataset = Path(shutil.copytree(drawn_clips, tmp_path / "clips"))
    write_hanging_clip(dataset / "test" / "violent" / "zz.mp4")  # the last clip
    process = train_process("--dataset-path", str(dataset), *quick_flags)

    path = tmp_path / "cache"
    wait_until(lambda: any(path.glob("*/.partial-*.rows")), 120)
    decoders = psutil.Process(process.pid).children(recursive=True)
    assert decoders
    process.terminate()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 143, said
    assert len(cached_features(tmp_path / "cache")) >= 4
    _, left = psutil.wait_procs(decoders, timeout=20)
    assert not left


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Return a folder on a disk of its own of 2 MB, which can be made larger or read-only."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(disk)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def remount(disk: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(disk)], check=True)


def assert_one_clear_error(said: str, *words: str) -> None:
    (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
    for word in words:
        assert word in line
    assert "Traceback" not in said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("folder", "rooms"),
    [
        # Full from the start, in the first epoch's weights, in the first model.
        ("--checkpoint-dir", (0, 150_000, 400_000)),
        # In the features; in the keys.
        ("--cache-dir", (8_000, 20_000)),
    ],
)
def test_disk_that_is_full_then_is_not(
    flags: list[str],
    small_disk: Path,
    run: Path,
    whole: Outcome,
    folder: str,
    rooms: tuple[int, ...],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The same command is given again each time there is more room."""
    remount(small_disk, "size=8m")
    flags = [*flags, folder, str(small_disk / "there")]
    free = os.statvfs(small_disk)
    size = free.f_bavail * free.f_frsize
    for room in rooms:
        # What the run has written before counts as well.
        (small_disk / "ballast").write_bytes(bytes(size - room))
        assert main(flags) == 1
        said = capsys.readouterr().err
        assert_one_clear_error(
            said, str(small_disk), "No space left on device", "run the same command again"
        )
    remount(small_disk, "size=200m")
    assert main(flags) == 0
    assert outcome_of(small_disk / "there" if folder == "--checkpoint-dir" else run) == whole


@pytest.mark.slow
@pytest.mark.usefixtures("features_before")
def test_folder_that_is_lost_in_the_middle_of_a_run(
    flags: list[str],
    small_disk: Path,
    whole: Outcome,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It is gone after the first epoch, and read-only after the second."""
    remount(small_disk, "size=200m")
    run, elsewhere = small_disk / "there", small_disk / "elsewhere"
    flags = [*flags, "--checkpoint-dir", str(run)]

    def remove() -> None:
        run.rename(elsewhere)

    def bring_back() -> None:
        elsewhere.rename(run)

    def make_read_only() -> None:
        for options in (["--bind"], ["-o", "remount,bind,ro"]):  # whatever is open for writing
            subprocess.run(["mount", *options, str(run), str(run)], check=True)

    def make_writable() -> None:
        subprocess.run(["umount", "--lazy", str(run)], check=True)

    faults = ((remove, bring_back), (make_read_only, make_writable))
    for epochs, (lose, repair) in enumerate(faults, start=1):

        def write_then_lose(
            of_run: RunDirectory, trainer: Trainer, lose: Callable[[], None] = lose
        ) -> None:
            write_models_of_last_epoch(of_run, trainer)
            lose()

        with monkeypatch.context() as losing:
            losing.setattr(callbacks, "write_models_of_last_epoch", write_then_lose)
            status = main(flags)
        repair()
        assert status == 1
        assert_one_clear_error(capsys.readouterr().err, str(run), "run the same command again")
        assert len(figures_of(run)) == epochs
    assert main(flags) == 0
    assert outcome_of(run) == whole


@pytest.mark.usefixtures("run_before")
def test_second_run_in_a_checkpoint_directory_is_refused_with_the_holders_id(
    flags: list[str], run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with held_by_another(run) as other:
        assert main(flags) == 2
        assert f"is in use by process {other.pid}" in capsys.readouterr().err
    assert main(flags) == 0


@pytest.mark.slow
def test_two_runs_share_one_cache_at_once(
    flags: list[str], run: Path, tmp_path: Path, finished: Path, train_process: Start
) -> None:
    flags, second = [*flags, *SHORT], tmp_path / "second"
    processes = [train_process(*flags), train_process(*flags, "--checkpoint-dir", str(second))]
    said = [process.communicate(timeout=200) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert outcome_of(run) == outcome_of(second)
    assert features_of(tmp_path / "cache") == features_of(finished / "cache")


# Damage to what a later start relies on.


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


def features_of(cache: Path) -> dict[bytes, bytes]:
    """Return the features in a cache, by the contents of the clips; the newest of each counts."""
    return dict(cached_features(cache))


@pytest.mark.usefixtures("interrupted")
def test_features_in_other_rows_than_said_are_found_and_computed_anew(
    flags: list[str],
    run: Path,
    tmp_path: Path,
    finished: Path,
    whole: Outcome,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As with the keys of the same clips from another cache."""
    (rows,) = (tmp_path / "cache").glob("*/*.rows")
    rows.write_bytes(np.frombuffer(rows.read_bytes(), "V512")[::-1].tobytes())
    assert main(flags) == 0
    screen = capsys.readouterr().out
    assert "28 rows of" in screen
    assert "damaged (checksum mismatch)" in screen
    assert features_of(tmp_path / "cache") == features_of(finished / "cache")
    assert outcome_of(run) == whole


@pytest.mark.usefixtures("features_before")
def test_damaged_keys_are_reported_and_made_anew(
    flags: list[str], tmp_path: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for keys in (tmp_path / "cache").glob("*/*.keys"):
        data = bytearray(keys.read_bytes())
        data[4100:] = os.urandom(len(data) - 4100)
        keys.write_bytes(data)
    assert main([*flags, "--extract-only"]) == 0
    assert "ignoring the damaged part" in capsys.readouterr().out
    ours = features_of(tmp_path / "cache")
    assert features_of(finished / "cache").items() <= ours.items()


@pytest.mark.usefixtures("interrupted")
def test_damaged_weights_and_list_of_models_are_named_and_made_good(
    flags: list[str], run: Path, whole: Outcome, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(run / "resume" / "epoch_005.weights.npz")
    damage(run / "resume" / "models.json")
    assert main(flags) == 0
    screen = capsys.readouterr().out
    assert "going back one epoch" in screen
    assert "models.json" in screen
    assert outcome_of(run) == whole


@pytest.mark.usefixtures("interrupted")
def test_best_model_of_another_run_is_found_out(
    flags: list[str],
    run: Path,
    whole: Outcome,
    capsys: pytest.CaptureFixture[str],
) -> None:
    other = keras.models.load_model(run / "best_model.keras")
    other.set_weights([2 * values for values in other.get_weights()])
    other.save(run / "best_model.keras")
    assert main(flags) == 0
    screen = capsys.readouterr().out
    assert "does not match its checksum" in screen and "rewriting it from" in screen
    assert outcome_of(run) == whole


@pytest.mark.usefixtures("run_before")
def test_config_that_was_edited_is_refused(
    flags: list[str], run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run / "training_config.json"
    path.write_text(path.read_text().replace('"epochs": 5', '"epochs": 7'))
    assert main(flags) == 2
    assert "training_config.json was changed or damaged" in capsys.readouterr().err


@pytest.mark.usefixtures("run_before")
def test_finished_run_that_lost_files_is_tested_again(
    flags: list[str], run: Path, whole: Outcome
) -> None:
    """Each of these alone is noticed, too: see the tests of the run directory."""
    for name in ("best_model.keras", "detector.json"):
        (run / name).unlink()
    path = run / "training_results.json"
    path.write_text(path.read_text()[:-40])
    assert main(flags) == 0
    assert (run / "detector.json").exists()
    assert outcome_of(run) == whole


@pytest.mark.usefixtures("interrupted")
def test_damaged_state_does_not_take_the_place_of_the_one_before(run: Path) -> None:
    damage(run / "resume" / "state.json")
    with RunDirectory(run) as directory:
        inputs = json.loads((run / "resume" / "state_before.json").read_text())["inputs"]
        directory.restore(inputs)
        assert len(directory.history) == 4
    assert len(read_json(run / "resume" / "state.json")["history"]) == 4


def test_no_clip_that_can_be_read(
    drawn_clips: Path, quick_flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = Path(shutil.copytree(drawn_clips, tmp_path / "clips"))
    for path in dataset.rglob("*.mp4"):
        path.write_text("version https://git-lfs.github.com/spec/v1")
    assert main(["--dataset-path", str(dataset), *quick_flags]) == 2
    assert "clips cannot be read, more than 10%" in capsys.readouterr().err


@pytest.mark.usefixtures("features_before")
def test_screen_that_is_full_stops_nothing(flags: list[str], run: Path) -> None:
    with Path("/dev/full").open("w") as full:
        process = ForkedProcess([str(TRAIN), *flags, *SHORT], os.environ, stdout=full.fileno())
        _, said = process.communicate(timeout=200)
    assert "Traceback" not in said
    assert "epoch   2" in (run / "training.log").read_text()
    assert (run / "training_results.json").exists()


@pytest.mark.slow
def test_out_of_memory_names_batch_size_free_memory_and_flags(
    drawn_clips: Path, quick_flags: list[str], tmp_path: Path, train_process: Start
) -> None:
    """A batch of 260 GB: more than any machine that runs the tests has free."""
    for path in drawn_clips.glob("*/*/*0.mp4"):  # few, as they have many frames
        target = tmp_path / "clips" / path.relative_to(drawn_clips)
        target.parent.mkdir(parents=True)
        shutil.copy(path, target)
    more = [*SHORT, "--frames", "32", "--feature-pooling", "grid", "--feature-dtype", "float32"]
    more += ["--batch-size", str(8_000_000)]
    process = train_process("--dataset-path", str(tmp_path / "clips"), *quick_flags, *more)
    output, said = process.communicate(timeout=200)
    assert process.returncode == 1, output + said
    error = said[said.index("error: ") :]
    for words in ("out of memory", "batches of 8000000 clips", "GiB free", "--batch-size"):
        assert words in error


@pytest.mark.slow
def test_crash_harness_finds_no_difference(few_clips: Path, tmp_path: Path) -> None:
    def start(flags: Sequence[str]) -> ForkedProcess:
        return ForkedProcess([str(TRAIN), *flags], os.environ, merged=True)

    report = crash(4, few_clips, "block1_conv1", 0, tmp_path, start)
    assert report["kills"] == 4
    assert report["runs_that_differ"] == 0
    assert len(report["kills_by_stage"]) >= 3  # four, unless a run is over before its kill


@pytest.mark.slow
def test_fuzz_harness_accounts_for_every_clip(tmp_path: Path) -> None:
    report = harness("benchmarks.fuzz_clips", "--count", "12", tmp_path=tmp_path)
    assert report["clips"] == report["with_features"] + report["with_a_reason"] == 12
    assert report["with_features"] > 2
    assert report["frames_of_unwritten_memory"] == 0
    assert 20 < report["decoder_peak_mb"] < 2000


def harness(module: str, *flags: str, tmp_path: Path) -> dict:
    path = tmp_path / "report.json"
    command = [sys.executable, "-m", module, *flags, "--json", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(path.read_text())
