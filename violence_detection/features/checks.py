"""What can be wrong with clips and labels even though every file is readable."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from violence_detection.clips.clip import Clip
from violence_detection.clips.frames import WARNED_SHARE
from violence_detection.errors import UserError
from violence_detection.features.survey import Survey
from violence_detection.settings.constants import CLASS_NAMES, LONG_CLIP

STATIC_SHARE = 0.03  # of the median change from frame to frame; below it, nothing moves
TOLERATED_UNCERTAINTY = 0.05  # half an interval of the validation accuracy that needs no warning
ASSUMED_ACCURACY = 0.9  # that the interval is computed for


def contradicting_labels(clips: Mapping[Clip, int]) -> list[list[Clip]]:
    """Return the sets of clips with the same content and different labels.

    Args:
        clips: each with the row of its features; clips with the same content share a row.
    """
    same: dict[int, list[Clip]] = defaultdict(list)
    for clip, row in clips.items():
        same[row].append(clip)
    return [copies for copies in same.values() if len({clip.label for clip in copies}) > 1]


def require_varied_features(survey: Survey) -> None:
    """Require that the clips' features differ: else nothing can be learned from them.

    Raises:
        UserError: all clips have the same features.
    """
    summaries = survey.summaries
    spread = (summaries.max(axis=0) - summaries.min(axis=0)).max()
    size = max(summaries.max(), -summaries.min())
    if len(summaries) > 1 and spread <= 1e-6 * size:
        raise UserError(
            f"the features of all {len(summaries)} clips are the same: --vgg19-weights is not a "
            "trained VGG19, or all clips show the same"
        )


def static_clips(clips: Mapping[Clip, int], survey: Survey) -> list[Clip]:
    """Return the clips whose features hardly change from frame to frame: stills, test cards.

    Args:
        clips: each with the row of its features.
        survey: of those rows.
    """
    changes = survey.changes[survey.indices(list(clips.values()))]
    least = STATIC_SHARE * np.median(changes)  # nan with one frame per clip, so none is below
    return [clip for clip, change in zip(clips, changes, strict=True) if change < least]


def usual_length(rows: Sequence[int], survey: Survey) -> float | None:
    """Return the median length of clips in seconds; None if it is unknown.

    Args:
        rows: of the clips' features.
        survey: of those rows.
    """
    seconds = survey.seconds[survey.indices(rows)]
    known = seconds[np.isfinite(seconds)]
    return round(float(np.median(known)), 3) if len(known) else None


def long_clips(clips: Mapping[Clip, int], survey: Survey, usual: float | None) -> dict[Clip, float]:
    """Return the clips that are far longer than usual, with their seconds.

    Args:
        clips: each with the row of its features.
        survey: of those rows.
        usual: length of a clip in seconds; None: unknown, so none is longer.
    """
    if usual is None:
        return {}
    seconds = survey.seconds[survey.indices(list(clips.values()))].tolist()
    return {
        clip: length
        for clip, length in zip(clips, seconds, strict=True)
        if length > LONG_CLIP * usual
    }


def partly_read_clips(clips: Mapping[Clip, int], survey: Survey) -> dict[Clip, float]:
    """Return the clips of which a part could not be read, with the share that could.

    Args:
        clips: each with the row of its features.
        survey: of those rows.
    """
    shares = survey.shares[survey.indices(list(clips.values()))].tolist()
    return {clip: s for clip, s in zip(clips, shares, strict=True) if s < WARNED_SHARE}


def uncertain_validation(labels: np.ndarray) -> str | None:
    """Return a warning if there are too few validation clips to choose by, else None.

    By Wilson's score interval (1927) of 95 %, as if the clips were independent; the clips of a
    group are less so.

    Args:
        labels: `(clips,)` 0 or 1, of the validation clips.
    """
    count = len(labels)
    z, share = 1.96, ASSUMED_ACCURACY
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * math.sqrt(share * (1 - share) / count + (z / count) ** 2 / 4)
    if half <= TOLERATED_UNCERTAINTY:
        return None
    counts = np.bincount(labels, minlength=len(CLASS_NAMES))
    by_class = ", ".join(f"{n} {name}" for n, name in zip(counts, CLASS_NAMES, strict=True))
    return (
        f"few clips to validate on ({by_class}): add clips\n"
        f"an accuracy of {share:.2f} there could be {middle - half:.2f} to {middle + half:.2f}"
    )
