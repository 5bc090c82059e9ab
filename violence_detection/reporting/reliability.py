"""What makes the figures of a run less reliable than they look."""

from violence_detection.models import backbone_title
from violence_detection.reporting.finished_run import FinishedRun
from violence_detection.runtime.wording import count_of
from violence_detection.settings.constants import VGG19
from violence_detection.settings.setting import weights_flag

FEW_GROUPS = 30  # of a test; with fewer, its intervals are wide
GRAVE, MILD = "grave", "mild"  # kinds of warnings


def warnings_about(run: FinishedRun) -> list[dict[str, str]]:
    """Return what makes the figures less reliable than they look, the gravest first.

    Each has its `kind`, a `title`, a `text`, and `where` in a report there is more about it.
    """
    results, groups = run.results, run.results["evaluation"]["groups"]
    warnings = []

    def warn(kind: str, title: str, text: str, where: str = "") -> None:
        warnings.append({"kind": kind, "title": title, "text": text, "where": where})

    if results.get("untrained_vgg19"):
        backbone = run.settings.get("backbone", VGG19)
        warn(
            GRAVE,
            f"{backbone_title(backbone)} had random weights",
            "Its features are untrained, so the metrics below say nothing about a real detector. "
            f"Train with {weights_flag(backbone)} imagenet or a file of weights.",
        )
    if results["evaluated_split"] == "val":
        warn(
            GRAVE,
            "No test split: these are metrics of validation clips",
            "Epoch, temperature and threshold were chosen on these very clips: expect worse "
            "results on new ones.",
        )
    excluded = set(results.get("clips_left_out_for_leakage", []))
    if remaining := {leak["clip"] for leak in results.get("leakage", [])} - excluded:
        warn(
            GRAVE,
            f"{count_of(len(remaining), 'clip')} repeated in a later split",
            "Clips that were trained on, or used to choose the model, are tested on again: the "
            "metrics look better than they are.",
            "The pairs are listed under data checks.",
        )
    if groups < FEW_GROUPS:
        effect = (
            "Clips of one source resemble each other, so intervals are resampled by group. With so "
            "few groups they are wide."
            if groups > 1
            else "With a single group, no interval can be computed."
        )
        warn(
            MILD,
            f"Only {count_of(groups, 'group')} in the test",
            f"{effect} Use --cross-validate to test on every clip.",
        )
    if files := results.get("one_file_under_both_labels"):
        warn(
            MILD,
            f"{count_of(len(files), 'file')} under both labels",
            "One of the two labels is wrong.",
            "See data checks.",
        )
    return warnings
