"""The report of several finished runs side by side, each compared with the first."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from violence_detection.evaluation.comparison import (
    Comparison,
    RunPredictions,
    compare,
    setting_differences,
)
from violence_detection.evaluation.metrics import FEWEST_FOR_SHARES
from violence_detection.reporting.finished_run import FinishedRun, read_run
from violence_detection.reporting.page import (
    CALIBRATION_NAMES,
    FIGURE_NAMES,
    SPLIT_NAMES,
    cell,
    describe_run,
    draw_plots,
    setting_text,
)
from violence_detection.reporting.reliability import GRAVE
from violence_detection.reporting.rendering import write_page
from violence_detection.runtime.wording import count_of
from violence_detection.settings.setting import flag

COMPARISON = "comparison.html"
TEMPLATE = "comparison.html.j2"


def write_comparison(folders: Sequence[Path], path: Path) -> None:
    """Write the page of several finished runs side by side.

    Args:
        folders: the runs' checkpoint directories; the first one is what others are compared with.
        path: of the page.

    Raises:
        UserError: there is no finished run in a folder, or two runs differ in a clip's label.
        RunError: the page cannot be written.
    """
    runs = [read_run(folder) for folder in folders]
    described = [
        describe_run(run, draw_plots(run), name, with_plots=False)
        for run, name in zip(runs, _short_names(runs), strict=True)
    ]
    write_page(TEMPLATE, path, runs=described, compared=_describe_comparison(runs, described))


def _short_names(runs: Sequence[FinishedRun]) -> list[str]:
    """Return the ends of the runs' paths, as long as they must be to differ."""
    names = [run.folder.name for run in runs]
    for length in range(2, max(len(run.folder.parts) for run in runs) + 1):
        if len(set(names)) == len(names):
            break
        names = ["/".join(run.folder.parts[-length:]) for run in runs]
    return names


def _describe_comparison(
    runs: Sequence[FinishedRun], described: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Return what the runs have in common and in which they differ, a cell per run."""
    first, *others = [
        _predictions(run, of_run["name"]) for run, of_run in zip(runs, described, strict=True)
    ]
    figures = [run.results["evaluation"] for run in runs]
    return {
        "warnings": _common_warnings(described),
        "pairs": [
            _describe_pair(compare(first, other, runs[0].settings["seed"])) for other in others
        ],
        "figures": [
            (title, [cell(of_run, name) for of_run in figures])
            for name, title in (FIGURE_NAMES | CALIBRATION_NAMES).items()
        ],
        "tested": [
            ("tested on", [_tested_on(run) for run in runs]),
            ("groups", [f"{of_run['groups']:,}" for of_run in figures]),
            ("threshold", [f"{of_run['threshold']:.3f}" for of_run in figures]),
            (
                "best epoch",
                [f"{run.results['best_epoch']} of {run.results['epochs_trained']}" for run in runs],
            ),
            ("time, energy and cost", [of_run["usage"] or "not recorded" for of_run in described]),
        ],
        "settings": [
            (flag(name), [setting_text(value) for value in values])
            for name, values in setting_differences([run.settings for run in runs]).items()
        ],
    }


def _tested_on(run: FinishedRun) -> str:
    clips = run.results["evaluation"]["clips"]
    split = SPLIT_NAMES[run.results["evaluated_split"]]
    return f"{clips:,} {split} clip{'' if clips == 1 else 's'}"


def _predictions(run: FinishedRun, name: str) -> RunPredictions:
    return RunPredictions(
        name,
        [clip.name for clip in run.clips],
        [clip.group or "" for clip in run.clips],
        run.labels,
        run.predicted,
    )


def _common_warnings(described: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return each warning once, with the names of its runs, the gravest first."""
    found: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for run in described:
        for warning in run["warnings"]:
            found.setdefault(tuple(warning.items()), []).append(run["name"])
    warnings = [{**dict(warning), "runs": runs} for warning, runs in found.items()]
    return sorted(warnings, key=lambda warning: warning["kind"] != GRAVE)


def _describe_pair(pair: Comparison) -> dict[str, Any]:
    """Return a comparison as the template takes it: in percentage points, or clips if few."""
    few = pair.clips < FEWEST_FOR_SHARES
    better, result = None, None
    if pair.difference:
        direction = "more" if pair.difference > 0 else "less" if not few else "fewer"
        if few:
            clips = count_of(round(abs(pair.difference) * pair.clips), f"{direction} clip")
            better = f"correct on {clips}"
        else:
            better = f"{abs(100 * pair.difference):.1f} points {direction} accurate"
    if pair.first_accuracy is not None and pair.second_accuracy is not None:
        accuracies = pair.second_accuracy, pair.first_accuracy
        if few:
            result = "Correct: {:.0f} versus {:.0f} of the".format(
                *(share * pair.clips for share in accuracies)
            )
        else:
            result = "Accuracy {:.3f} versus {:.3f} on the".format(*accuracies)
    scale, digits, unit = (pair.clips, 0, "clips") if few else (100, 1, "points")
    ends = [_signed(scale * end, digits) for end in pair.interval or ()]
    return {
        "pair": pair,
        "better": better,
        "result": result,
        "interval": f"{' to '.join(ends)} {unit}" if ends else None,
        "mcnemar": None if pair.mcnemar_p is None else f"{pair.mcnemar_p:.2g}",
    }


def _signed(difference: float, digits: int) -> str:
    """Return a difference with its sign; 0 has none."""
    text = f"{difference:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", "−")
