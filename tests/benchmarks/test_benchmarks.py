import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from benchmarks.ablation import as_markdown, made_imbalanced, paired_gain
from benchmarks.cached_run import FIRST_STEP, cached_dataset, start_training
from benchmarks.speed import AT_LEAST, AT_MOST, compare_with_targets
from benchmarks.tables import Table, figure_at, make_tables
from benchmarks.timing import Way, side_by_side
from benchmarks.training import FEATURES, FRAMES, matrix_product_operations
from tests.conftest import ROOT
from violence_detection.clips.clip import Clip
from violence_detection.models.classifier import classifier

RESULTS = ROOT / "benchmarks" / "results"


def test_rates_are_of_all_parts_and_ratios_of_the_same_round() -> None:
    slow = iter([4.0, 4.0, 2.0, 2.0, 8.0, 8.0])
    fast = iter([1.0, 0.5, 4.0])
    ways = {
        "slow": Way([lambda: next(slow)] * 2, amount=16),
        "fast": Way([lambda: next(fast)], amount=4),
    }
    rates = side_by_side(ways, rounds=3)
    assert rates.per_second == {"slow": [2, 4, 1], "fast": [4, 8, 1]}
    assert rates.median("slow") == 2
    assert rates.ratio("fast", over="slow") == 2


@pytest.mark.parametrize(("figure", "met"), [(2.5, True), (2.2, True), (2.1, False), (None, None)])
def test_target_is_met_missed_or_without_a_device(figure: float | None, met: bool | None) -> None:
    name = "training.float32.ours_over_plain"
    figures = {
        "ours_over_plain": figure,
        "clips_per_second": {"plain": 500},
        "batch_size": 64,
        "milliseconds_at_best": 64,
    }
    rows = compare_with_targets({"training": {"float32": figures}})
    assert {row["name"] for row in rows} == {n for n in AT_LEAST if n.startswith("training")}
    row = next(row for row in rows if row["name"] == name)
    assert row["met"] is met
    assert row["at_best"] == (None if figure is None else 2)


def test_operations_of_the_matrix_products() -> None:
    """The projections twice, forward and for their kernels; the others also for their inputs."""
    model = classifier(FRAMES, FEATURES, dropout=0.5, l2=1e-4)
    projections = 2 * 4096 * 192
    others = (192 + 192) * 4 * 192 + 192 * 64 + 64
    expected = 2 * 16 * (2 * projections + 3 * others) + 2 * 3 * 192
    assert matrix_product_operations(model) == expected


def test_results_in_the_repository_hold_every_figure_that_is_promised() -> None:
    report = json.loads((RESULTS / "speed_cpu.json").read_text())
    for name in [*AT_LEAST, *AT_MOST]:
        *parents, last = name.split(".")
        assert last in figure_at(report, ".".join(parents)), name
    assert report["targets"] == compare_with_targets(report)
    assert report["machine"]["devices"]
    tables = "\n\n".join(table.as_markdown() for table in make_tables(report)) + "\n"
    assert (RESULTS / "speed_cpu.md").read_text() == tables
    for table in make_tables(report):
        assert max(map(len, table.as_text().splitlines())) <= 80, table.title
    for table in make_tables(report)[1:]:  # those of the figures are also the README's
        assert table.as_markdown() in (ROOT / "README.md").read_text(), table.title


def test_table_in_a_terminal_and_in_markdown() -> None:
    table = Table("Speed", ["way", "clips/s"], [["plain", "3"], ["ours", "17.5"]])
    assert table.as_text() == "Speed\nway    clips/s\nplain        3\nours      17.5"
    assert "| ours | 17.5 |" in table.as_markdown()


@pytest.mark.slow
def test_cached_dataset_is_trained_on_without_decoding(tmp_path: Path) -> None:
    said, _ = start_training(cached_dataset(tmp_path, 40), tmp_path).communicate()
    assert FIRST_STEP in said
    assert "features of 40 clips" in said
    assert (tmp_path / "run" / "training_results.json").exists(), said


@pytest.mark.slow
def test_speed_of_decoding_from_the_command_line(drawn_clips: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.speed", "--stages", "decode"]
    command += ["--dataset-path", str(drawn_clips)]
    files = ["--json", str(tmp_path / "speed.json"), "--markdown", str(tmp_path / "speed.md")]
    done = subprocess.run([*command, *files], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    decode = json.loads((tmp_path / "speed.json").read_text())["decode"]
    assert 0 < decode["ours_over_limit"] < 1.5
    assert "grab() alone" in done.stdout
    assert "| grab() alone" in (tmp_path / "speed.md").read_text()
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_training_side_is_made_imbalanced_by_whole_sources() -> None:
    clips = [Clip(Path("/"), str(n), n % 2, "train", f"source {n // 10}") for n in range(200)]
    train = np.arange(40, 200)
    chosen = made_imbalanced(clips, train, seed=0, violent_share=0.78)
    labels = np.array([clips[place].label for place in chosen])
    assert labels.sum() == 80 and labels.mean() == pytest.approx(0.78, abs=0.01)
    assert set(chosen) <= set(train)
    others = Counter(clips[place].group for place in chosen if not clips[place].label)
    assert sorted(others.values())[1:] == [5] * (len(others) - 1)  # but for the last one


@pytest.mark.parametrize(("gain", "real"), [(0.0, False), (0.01, False), (0.2, True), (-0.2, True)])
def test_gain_is_real_if_folds_agree_on_it(gain: float, real: bool) -> None:
    random = np.random.default_rng(0)
    before = random.uniform(0.6, 0.9, 25)
    after = before + gain + random.normal(0, 0.05, 25)
    found = paired_gain(before.tolist(), after.tolist())
    assert found["roc_auc"] == pytest.approx(gain, abs=0.03)
    assert found["real"] == real


@pytest.mark.parametrize("name", ["ablation_fights", "heads_fights"])
def test_readme_shows_the_accuracies_that_are_checked_in(name: str) -> None:
    report = json.loads((RESULTS / f"{name}.json").read_text())
    assert as_markdown(report) in (ROOT / "README.md").read_text()
