import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from violence_detection.runs.directory import RunDirectory
from violence_detection.runtime.logs import package_log, start_log
from violence_detection.runtime.stage_clock import StageClock
from violence_detection.training.batches import Supply
from violence_detection.training.callbacks import TimeStages, epoch_line, epoch_titles

ROW = {
    "epoch": 100,
    "loss": 0.1234,
    "accuracy": 0.912,
    "val_loss": 12.3456,
    "val_accuracy": 1.0,
    "val_auc": 0.987,
    "learning_rate": 1e-7,
    "seconds": 1234.5,
}


@pytest.mark.parametrize("epochs", [150, 2000])
@pytest.mark.parametrize("gpus", [{}, {"gpu0_utilization": 100.0, "gpu1_utilization": 100.0}])
def test_epochs_are_aligned_lines_below_80_columns(gpus: dict[str, float], epochs: int) -> None:
    small = dict.fromkeys(ROW, 0.0) | {"epoch": 1, "seconds": 0.04}
    titles = epoch_titles(ROW | gpus, epochs)
    lines = [epoch_line(row | gpus, epochs, is_best=True) for row in (ROW, small)]
    assert max(map(len, lines)) < 80
    assert re.match(r"epoch +100/", lines[0]) and re.match(r"epoch +1/", lines[1])
    assert lines[0].split()[2:9] == [
        "0.1234",
        "0.912",
        "12.345",
        "1.000",
        "0.987",
        "1.0e-07",
        "1234",
    ]
    # Each figure ends where its title does.
    ends = [found.end() for found in re.finditer(r"(val )?\w+", titles)]
    assert len(ends) == 7 + bool(gpus)
    for line in lines:
        assert line.endswith(" best") and len(titles) == len(line) - len(" best")
        assert all(line[end - 1] != " " and line[end] == " " for end in ends)


@pytest.fixture
def log_text(tmp_path: Path) -> Iterator[Callable[[], str]]:
    """Return a function that reads the log file."""
    path = tmp_path / "training.log"
    start_log(path)
    yield path.read_text
    for handler in list(package_log.handlers):
        package_log.removeHandler(handler)
        handler.close()


@pytest.mark.parametrize(
    ("utilization", "seconds", "started", "named"),
    [
        (40.0, {"training": 8, "validation": 1, "writing": 1}, 3, "waiting for batches, 80 %"),
        (40.0, {"training": 8, "validation": 1, "writing": 1}, 6, "the training step"),
        (40.0, {"training": 2, "validation": 7, "writing": 1}, 6, "validation, 70 %"),
        (40.0, {"training": 2, "validation": 1, "writing": 7}, 6, "checkpoints and logs, 70 %"),
        (95.0, {"training": 2, "validation": 1, "writing": 7}, 3, None),
        (None, {"training": 2, "validation": 1, "writing": 7}, 3, None),
    ],
)
def test_bottleneck_of_badly_used_gpus_is_logged(
    tmp_path: Path,
    log_text: Callable[[], str],
    utilization: float | None,
    seconds: dict[str, int],
    started: int,
    named: str | None,
) -> None:
    """`started` batches are ahead of the network; the first epoch, which is traced, is left out."""
    now = 0.0
    run, supply = RunDirectory(tmp_path / "run"), Supply()
    supply.batches = 1000
    stages = TimeStages(run, StageClock(lambda: now), supply)
    stages.set_params({"steps": 10, "epochs": 4})
    for epoch in range(4):
        stages.on_epoch_begin(epoch)
        now += 100 if epoch == 0 else seconds["training"]
        supply.started = (epoch + 1) * 10 + started
        stages.on_train_batch_end(9)
        stages.on_test_begin()
        now += seconds["validation"]
        stages.on_test_end()
        now += seconds["writing"]
        figures = {} if utilization is None else {"gpu0_utilization": utilization}
        run.history.append({"epoch": epoch + 1, **figures})
    stages.on_train_end()
    if named is None:
        assert "bottleneck" not in log_text()
    else:
        assert f"40 %; bottleneck: {named}" in log_text()
