import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.reporting.made_up_runs import (
    Make,
    change_results,
)
from violence_detection.errors import UserError
from violence_detection.reporting.finished_run import read_run


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda run: shutil.rmtree(run), "no such folder"),
        (lambda run: (run / "training_config.json").unlink(), "contains no run"),
        (lambda run: (run / "training_results.json").unlink(), "is not finished"),
        (
            lambda run: (run / "training_results.json").write_text("{}"),
            "not written by this",
        ),
        (lambda run: change_results(run, evaluation=None), "lacks evaluation: .* earlier version"),
        (lambda run: (run / "predictions.csv").unlink(), "predictions.csv cannot be read"),
        (lambda run: (run / "training_history.csv").write_text("epoch\nx\n"), "line 2, is damaged"),
        (lambda run: (run / "splits.csv").write_text("clip\na\n"), "splits.csv, line 2, is damag"),
        (
            lambda run: (run / "label_issues.csv").write_text("clip,suspect\na,yes\n"),
            "label_issues.csv, line 2, is damaged",
        ),
        (lambda run: change_results(run, epochs_trained=9), "has 3 rows, 9 are expected"),
    ],
)
def test_what_is_missing_or_damaged_is_named(
    make_run: Make, damage: Callable[[Path], None], message: str
) -> None:
    run = make_run()
    damage(run)
    with pytest.raises(UserError, match=message):
        read_run(run)
