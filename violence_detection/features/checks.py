"""What is wrong with clips and labels though every file can be read."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from violence_detection.clips.clip import Clip
from violence_detection.errors import UserError
from violence_detection.features.survey import Survey
from violence_detection.settings.constants import CLASS_NAMES

STATIC_SHARE = 0.03  # of the median change from frame to frame: below it, nothing moves
SURE_ENOUGH = 0.05  # half an interval of the validation accuracy that is not told of
SUPPOSED_ACCURACY = 0.9  # for which that interval is computed


def contradicting_labels(clips: Mapping[Clip, int]) -> list[list[Clip]]:
    """Return the sets of clips that are one file, by content, under both labels.

    Args:
        clips: with the row of each one's features: one file, one row.
    """
    same: dict[int, list[Clip]] = defaultdict(list)
    for clip, row in clips.items():
        same[row].append(clip)
    return [copies for copies in same.values() if len({clip.label for clip in copies}) > 1]


def require_varied_features(survey: Survey) -> None:
    """Raise `UserError` if all clips have the same features: nothing can be learned from them."""
    summaries = survey.summaries
    spread = (summaries.max(axis=0) - summaries.min(axis=0)).max()
    size = max(summaries.max(), -summaries.min())
    if len(summaries) > 1 and spread <= 1e-6 * size:
        raise UserError(
            f"the features of all {len(summaries)} clips are the same: the --vgg19-weights are not "
            "those of a trained VGG19 (or all clips show the same)"
        )


def static_clips(clips: Mapping[Clip, int], survey: Survey) -> list[Clip]:
    """Return the clips whose features hardly change from frame to frame: a still, a test card."""
    changes = survey.changes[survey.places(list(clips.values()))]
    least = STATIC_SHARE * np.median(changes)  # nan, and so below nothing, at one frame a clip
    return [clip for clip, change in zip(clips, changes, strict=True) if change < least]


def uncertain_validation(clips: Sequence[Clip]) -> str | None:
    """Return what to tell the user of a validation split that is too small; None: it is not.

    Wilson's interval (1927), as if the clips were independent; those of one group are less.
    """
    count = len(clips)
    z, share = 1.96, SUPPOSED_ACCURACY
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * math.sqrt(share * (1 - share) / count + (z / count) ** 2 / 4)
    if half <= SURE_ENOUGH:
        return None
    counts = [sum(clip.label == label for clip in clips) for label in (0, 1)]
    of_class = ", ".join(f"{n} {name}" for n, name in zip(counts, CLASS_NAMES, strict=True))
    return (
        f"the validation split is small ({of_class}): an accuracy of {share:.2f} on it may be "
        f"anything from {middle - half:.2f} to {middle + half:.2f}, and it chooses the best epoch "
        "and the threshold; give it more clips"
    )
