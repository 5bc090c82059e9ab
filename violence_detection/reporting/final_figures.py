"""Where a finished run shows its figures: the report, and TensorBoard's table of runs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from violence_detection.evaluation.metrics import FIGURES
from violence_detection.reporting.finished_run import FinishedRun, read_run
from violence_detection.reporting.model_card import write_model_card
from violence_detection.reporting.page import write_report
from violence_detection.reporting.tensorboard import OF_MODEL, write_hparams
from violence_detection.runs.files import REPORT, TENSORBOARD


def show_final_figures(
    folder: Path, settings: Mapping[str, Any], with_report: bool
) -> dict[str, float | None]:
    """Write the report and the model card of a run, and its settings and figures for TensorBoard.

    Args:
        folder: the run's checkpoint directory.
        settings: by name, as JSON values.
        with_report: whether to write the report.

    Returns:
        The figures, see `final_figures`.

    Raises:
        RunError: they cannot be written.
    """
    if with_report:
        write_report(folder, folder / REPORT)
    write_model_card(folder)
    run = read_run(folder)
    figures = final_figures(run)
    # Few, as TensorBoard's table of runs shows five columns of them.
    compared = {name: figures[name] for name in ("test_accuracy", "test_roc_auc")}
    compared |= {name: figures[f"best_{name}"] for name in OF_MODEL}
    write_hparams(folder / TENSORBOARD, settings, compared, len(run.history))
    return figures


def final_figures(run: FinishedRun) -> dict[str, float | None]:
    """Return what runs are compared by: figures of the test and, of the best epoch, of validation.

    Returns:
        By name, such as "test_accuracy" and "best_val_loss"; None: undefined.
    """
    best = run.history[run.results["best_epoch"] - 1]
    of_test = {f"test_{name}": run.results["evaluation"][name] for name in FIGURES}
    return of_test | {f"best_{name}": best[name] for name in OF_MODEL}
