"""The parts of a report that are about single clips: examples, suspects, duplicates, problems."""

from collections.abc import Mapping, Sequence
from typing import Any

from violence_detection.clips.frames import sample_positions
from violence_detection.reporting.finished_run import FinishedRun, PredictedClip, Suspects
from violence_detection.reporting.rendering import css_percent, jpeg_url
from violence_detection.reporting.strips import Strip, choose_clips, strips_of
from violence_detection.settings.constants import CLASS_NAMES

PAIRS_SHOWN = 8  # of duplicates, with their frames
PAIR_FRAMES = 4  # of each of the two
SUSPECTS_SHOWN = 12  # suspect labels, with their clips' frames
LISTED = 200  # names in a list that may have thousands
STRIPS = (  # fields of `ChosenClips`, with title and explanation
    ("worst", "Worst mistakes", "Misclassified, the furthest from their label first."),
    ("least_certain", "Least certain", "Closest to the threshold."),
    ("certain", "Confident and correct", "Closest to their label."),
)


def clip_sections(run: FinishedRun) -> dict[str, Any]:
    """Return the clips that the page shows with their frames: examples, suspects, duplicates."""
    chosen = choose_clips(run.clips, run.results["threshold"])
    pairs = run.results.get("leakage", [])[:PAIRS_SHOWN]
    in_pairs = [pair[side] for pair in pairs for side in ("clip", "repeated")]
    suspects = run.suspects.clips[:SUSPECTS_SHOWN] if run.suspects else []
    names = (clip.shown for clip in (*chosen, *suspects))
    strips = strips_of(run.settings, (*names, *in_pairs))
    frames, threshold = run.settings["frames"], run.results["threshold"]

    def described(clips: Sequence[PredictedClip]) -> list[dict[str, Any]]:
        return [_strip(clip, strips[clip.shown], frames, threshold) for clip in clips]

    return {
        "strips": [
            {
                "title": title,
                "note": note,
                "clips": described(getattr(chosen, field)),
            }
            for field, title, note in STRIPS
        ],
        "even_weight": 1 / run.settings["frames"],
        "has_attention": any(clip.attention for clip in run.clips),
        "suspects": _suspects(run.suspects, described(suspects)) if run.suspects else None,
        "pairs": [_pair(run, pair, strips) for pair in pairs],
    }


def suspect_section(suspects: Suspects, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the suspect labels that a page shows with their clips' frames, and how many there are.

    Args:
        suspects: of a cross-validation, whose folds have a threshold each.
        settings: of it, by name, as JSON values.
    """
    shown = suspects.clips[:SUSPECTS_SHOWN]
    strips = strips_of(settings, (clip.name for clip in shown))
    described = [_strip(clip, strips[clip.name], settings["frames"]) for clip in shown]
    return _suspects(suspects, described)


def _suspects(suspects: Suspects, described: list[dict[str, Any]]) -> dict[str, Any]:
    return {"count": len(suspects.clips), "of": suspects.of, "clips": described}


def _strip(
    clip: PredictedClip, strip: Strip, frames_per_clip: int, threshold: float | None = None
) -> dict[str, Any]:
    weights = clip.attention
    if weights is not None and len(weights) != frames_per_clip:
        weights = None  # of another number of frames
    largest = max(weights) if weights else 0.0
    frames = [
        {
            "picture": jpeg_url(picture),
            "weight": None if weights is None else f"{100 * weights[index]:.1f}",
            "bar": None if weights is None else css_percent(weights[index] / max(largest, 1e-9)),
            "is_largest": weights is not None and weights[index] == largest,
        }
        for index, picture in enumerate(strip.frames)
    ]
    return {
        "clip": clip,
        "label": CLASS_NAMES[clip.label],
        "predicted": CLASS_NAMES[clip.predicted],
        "probability": f"{clip.probability:.3f}",
        "position": css_percent(clip.probability),
        "threshold": None if threshold is None else css_percent(threshold),
        "width": strip.width,
        "height": strip.height,
        "frames": frames,
        "even": css_percent(1 / len(weights) / max(largest, 1e-9)) if weights else None,
        "trouble": strip.trouble,
    }


def _pair(run: FinishedRun, pair: Mapping[str, Any], strips: Mapping[str, Strip]) -> dict[str, Any]:
    def side(name: str) -> dict[str, Any]:
        strip = strips[name]
        indices = sorted(set(sample_positions(len(strip.frames), PAIR_FRAMES).tolist()))
        return {
            "name": name,
            "split": run.splits.get(name),
            "width": strip.width,
            "height": strip.height,
            "frames": [jpeg_url(strip.frames[index]) for index in indices if strip.frames],
            "trouble": strip.trouble,
        }

    near = pair.get("similarity")
    return {
        "sides": [side(pair["clip"]), side(pair["repeated"])],
        "reason": pair["reason"],
        "similarity": None if near is None else f"{near:.3f}",
    }


def data_checks(run: FinishedRun) -> dict[str, Any]:
    """Return the problems of the data that a person has to look at: lists, cut at `LISTED`."""
    results = run.results
    bad = [(item["clip"], item["split"], item["reason"]) for item in results.get("bad_clips", [])]
    leaks = results.get("leakage", [])
    lists = {
        "bad": bad,
        "more_pairs": [(leak["clip"], leak["repeated"]) for leak in leaks[PAIRS_SHOWN:]],
        "excluded": results.get("clips_left_out_for_leakage", []),
        "both_labels": results.get("one_file_under_both_labels", []),
        "static": results.get("static_clips", []),
        "partly_read": [
            (item["clip"], f"{item['share']:.0%}") for item in results.get("partly_read_clips", [])
        ],
        "long": [(item["clip"], item["seconds"]) for item in results.get("long_clips", [])],
        "two_sides": list(results.get("groups_on_two_sides", {}).items()),
    }
    return {
        name: {"count": len(items), "items": items[:LISTED], "more": max(0, len(items) - LISTED)}
        for name, items in lists.items()
    } | {"on_bad_clip": results.get("on_bad_clip", "skip"), "pairs": len(leaks)}
