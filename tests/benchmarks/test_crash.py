import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from benchmarks.crash import compare, moment_in
from tests.waiting import wait_until


def test_results_that_differ_or_are_missing_are_named() -> None:
    expected = {"features": b"a", "CSV rows": [1], "predictions.csv": "x"}
    assert compare(expected, dict(expected)) == []
    found = {"features": b"b", "CSV rows": [1]}
    assert compare(expected, found) == ["features differ", "predictions.csv differ"]


def test_a_moment_in_training_follows_the_first_step(tmp_path: Path) -> None:
    lines: list[str] = []
    attempt: Any = SimpleNamespace(
        folder=tmp_path, has_printed=lambda words: any(words in line for line in lines)
    )
    reached = moment_in("training", attempt, random.Random(0), extraction_seconds=1.0)
    assert not reached()
    lines.append("first step after 3.1 s")
    wait_until(reached, 5)


def test_a_moment_in_cache_writes_comes_when_rows_are_written(tmp_path: Path) -> None:
    attempt: Any = SimpleNamespace(folder=tmp_path)
    reached = moment_in("cache write", attempt, random.Random(0), extraction_seconds=1.0)
    assert not reached()
    (tmp_path / "cache" / "recipe").mkdir(parents=True)
    (tmp_path / "cache" / "recipe" / "a.rows").write_bytes(b"row")
    assert reached()
