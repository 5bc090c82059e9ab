"""Groups of clips that seem to be of one source, proposed for a dataset without groups.csv.

File names decide where they name a source and number its clips (`cam3_001.mp4`, `cam3_002.mp4`).
The other clips are compared by what they look like: the colours of all frames, and the background,
which is the median of the frames. Clips are often numbered in the order in which they were cut from
their sources, so neighbours need to be less alike than clips from anywhere; whether a dataset is
numbered like that is measured first. Precision comes first: what is not clear is not proposed.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage

from violence_detection.clips.clip import Clip
from violence_detection.clips.folder_names import split_of
from violence_detection.clips.streams import THUMBNAIL_VALUES

# `benchmarks/groups.py` measures what these find and miss.
LARGEST_SHARE = 1 / 3  # of a class's clips; a larger group is an action or a data set, no source
TOLERANCE = 0.02  # difference of colours, 0 to 1, of clips of one source
NEIGHBOUR_TOLERANCE = 0.2  # the same for consecutive numbers; falls with the root of the distance
BACKGROUND_TOLERANCE = 0.3  # 1 - correlation of the backgrounds
ALIKE = 0.1  # difference of colours that tells whether neighbours are more alike than others
STANDARD_ERRORS = 3  # by which they must be
# Of two clips' colours, as a median: below it, most clips show the same, and the tolerances fall
# with the square of the median, since clips of other sources are then nearly as alike.
TYPICAL_DIFFERENCE = 0.15

BINS = 8  # of each colour
LOOK_VALUES = BINS**3 + THUMBNAIL_VALUES
BLOCK = 256  # clips compared with all others at once
MOST_COMPARED = 12_000  # clips of a dataset: memory and time grow with the square, to 2 GB

NUMBERED = re.compile(
    r"(?P<source>.*?)(?P<gap>[/ _.\-]+(?:clip|part|seg|segment|shot|cut|scene)?)?(?P<number>\d+)$",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Proposal:
    """Groups of two or more clips."""

    by_name: dict[str, list[Clip]]  # by the name of the group
    by_picture: dict[str, list[Clip]]
    not_compared: int = 0  # clips that only pictures could group, if there are none

    @property
    def groups(self) -> dict[str, list[Clip]]:
        """All groups."""
        return self.by_name | self.by_picture

    @property
    def group_of(self) -> dict[str, str]:
        """The group of each clip that has one, by the clip's name."""
        return {clip.name: group for group, clips in self.groups.items() for clip in clips}


@dataclass(frozen=True)
class _Name:
    """What a clip's name says."""

    source: str  # what comes before the number
    number: int
    is_separate: bool  # the number stands apart from the source


def propose_groups(clips: Sequence[Clip], looks: np.ndarray | None) -> Proposal:
    """Return the groups that are clear.

    Args:
        clips: all labelled clips of a dataset; their splits and groups are ignored.
        looks: `(clips, LOOK_VALUES)` float32, what each looks like (`looks_of`); zeros for a clip
            that cannot be read, which is then grouped by its name alone. None: all are.
    """
    order = sorted(range(len(clips)), key=lambda index: clips[index].name)
    clips = [clips[index] for index in order]
    looks = None if looks is None else looks[order]
    sizes = Counter(clip.label for clip in clips)
    names = [_name_of(clip) for clip in clips]
    named: dict[str, list[int]] = defaultdict(list)
    for index, name in enumerate(names):
        if name and name.source and name.is_separate:
            named[name.source].append(index)
    by_name = {
        source: members
        for source, members in sorted(named.items())
        if _is_clear(members, clips, sizes) and _names_a_source(source, members, looks)
    }
    grouped = {index for members in by_name.values() for index in members}
    rest = [index for index in range(len(clips)) if index not in grouped]
    found: list[list[int]] = []
    if looks is not None and len(rest) > 1:
        parts = _alike(looks[rest], _numbers([names[i] for i in rest], [clips[i] for i in rest]))
        found = [[rest[index] for index in part] for part in parts]
    found = [members for members in found if _is_clear(members, clips, sizes)]
    digits = len(str(len(found)))
    return Proposal(
        {source: [clips[index] for index in members] for source, members in by_name.items()},
        {
            f"picture_{number:0{digits}d}": [clips[index] for index in members]
            for number, members in enumerate(found, start=1)
        },
        len(rest) if looks is None else 0,
    )


def looks_of(thumbnails: np.ndarray) -> np.ndarray:
    """Return what clips look like.

    Args:
        thumbnails: `(clips, frames, 192)`, as `streams.thumbnails` returns them.

    Returns:
        `(clips, LOOK_VALUES)` float32, two vectors of length 1 side by side: the roots of a
        histogram of colours, whose scalar product is Bhattacharyya's coefficient, and the
        background without its mean colour, whose scalar product is a correlation.
    """
    count, frames, _ = thumbnails.shape
    pixels = np.asarray(thumbnails, np.float32).reshape(count, -1, 3)
    looks = np.empty((count, LOOK_VALUES), np.float32)
    for look, of_clip in zip(looks, pixels, strict=True):
        look[: BINS**3] = np.sqrt(_histogram(of_clip))
        background = np.median(of_clip.reshape(frames, -1, 3), axis=0)
        background -= background.mean(axis=0)
        length = np.linalg.norm(background)
        look[BINS**3 :] = background.ravel() / max(float(length), 1e-6)
    return looks


def _histogram(pixels: np.ndarray) -> np.ndarray:
    """Return `(BINS**3,)` shares of colours; each pixel counts for the eight nearest bins.

    Args:
        pixels: `(pixels, 3)` float32, 0 to 255.
    """
    position = np.clip(pixels * (BINS / 256) - 0.5, 0, BINS - 1)
    lower = np.minimum(position.astype(int), BINS - 2)
    upper_share = position - lower
    counts = np.zeros(BINS**3)
    for corner in np.ndindex(2, 2, 2):
        shares = np.where(corner, upper_share, 1 - upper_share).prod(axis=1)
        bins = (lower + corner) @ (BINS**2, BINS, 1)
        counts += np.bincount(bins, shares, BINS**3)
    return counts / len(pixels)


def _name_of(clip: Clip) -> _Name | None:
    """Return what a clip's path below its class folder says; None without a number at its end."""
    parts = clip.file.split("/")
    below = parts[1:] if split_of(parts[0]) is None else parts[2:]
    match = NUMBERED.fullmatch("/".join(below).rpartition(".")[0])
    if match is None:
        return None
    return _Name(match["source"].strip("/ _.-"), int(match["number"]), match["gap"] is not None)


def _is_clear(members: Sequence[int], clips: Sequence[Clip], sizes: Mapping[int, int]) -> bool:
    """Return whether clips are a group: at least two, and no large part of a class.

    Args:
        members: indices of the clips in question.
        clips: of the dataset.
        sizes: how many of them are of each class.
    """
    counts = Counter(clips[index].label for index in members)
    return len(members) > 1 and all(
        count <= LARGEST_SHARE * sizes[label] for label, count in counts.items()
    )


def _names_a_source(source: str, members: Sequence[int], looks: np.ndarray | None) -> bool:
    """Return whether a name is one of a source; without a digit, it could be that of an action.

    Args:
        source: the name without the clips' numbers.
        members: indices of the clips that have it; without a digit in the name, they must look
            alike, and twice as much as they look like the others.
        looks: of all clips; None: unknown.
    """
    if any(character.isdigit() for character in source):
        return True
    if looks is None:
        return False
    differences = 1 - _colours(looks[members]) @ _colours(looks).T
    others = np.setdiff1d(np.arange(len(looks)), members)
    inside = np.median(differences[:, members][np.triu_indices(len(members), 1)])
    outside = np.median(differences[:, others])
    return bool(inside <= min(NEIGHBOUR_TOLERANCE, outside / 2))


def _numbers(names: Sequence[_Name | None], clips: Sequence[Clip]) -> np.ndarray:
    """Return `(clips, 2)` int64: which sequence a clip is in (-1: none), and its number there.

    Args:
        names: what the names of `clips` say.
        clips: where numbers begin anew in each folder, each folder is a sequence.
    """
    by_source: dict[str, list[int]] = defaultdict(list)
    for index, name in enumerate(names):
        if name:
            by_source[name.source].append(index)
    sequences: dict[tuple[str, str], int] = {}
    numbers = np.full((len(names), 2), -1)
    for source, members in by_source.items():
        found = [name.number for name in (names[index] for index in members) if name]
        is_unique = len(set(found)) == len(found)
        for index, number in zip(members, found, strict=True):
            folder = "" if is_unique else clips[index].file.rpartition("/")[0]
            numbers[index] = sequences.setdefault((source, folder), len(sequences)), number
    return numbers


def _colours(looks: np.ndarray) -> np.ndarray:
    return looks[..., : BINS**3]


def _alike(looks: np.ndarray, numbers: np.ndarray) -> list[list[int]]:
    """Return the indices of clips that look alike, a list per group, by average linkage.

    Linked are groups whose pairs of clips are, on the geometric mean, within their tolerances: one
    pair that is alike by chance joins nothing.

    Args:
        looks: `(clips, LOOK_VALUES)` float32.
        numbers: see `_numbers`.
    """
    count = len(looks)
    everyone = np.arange(count)
    others = [np.roll(everyone, max(1, count // part)) for part in (2, 3, 5)]
    typical = np.median([_differences(looks, everyone, other) for other in others])
    scale = min(1.0, float(typical) / TYPICAL_DIFFERENCE) ** 2
    if not _is_numbered_by_source(looks, numbers, scale * ALIKE):
        numbers = np.full_like(numbers, -1)
    excess = np.empty(count * (count - 1) // 2, np.float32)  # row by row, as `linkage` takes it
    end = 0
    for first in range(0, count, BLOCK):
        block = _excess(looks, numbers, first, min(first + BLOCK, count), scale)
        for row, values in enumerate(block):
            end += len(values) - 1 - row
            excess[end - len(values) + 1 + row : end] = values[row + 1 :]
    # 0 is the smallest distance that it takes.
    lowest = float(excess.min())
    labels = fcluster(linkage(excess - lowest, "average"), -lowest, "distance")
    groups: dict[int, list[int]] = defaultdict(list)
    for index, label in enumerate(labels.tolist()):
        groups[label].append(index)
    return list(groups.values())


def _excess(
    looks: np.ndarray, numbers: np.ndarray, first: int, stop: int, scale: float
) -> np.ndarray:
    """Return how much more than tolerated clips differ from later ones, as logarithms.

    Args:
        looks: `(clips, LOOK_VALUES)` float32.
        numbers: see `_numbers`.
        first: index of the first clip that is compared.
        stop: index after the last one.
        scale: of the tolerances of colours, 0 to 1.

    Returns:
        `(stop - first, clips - first)` float32: each with the clips from `first` on; 0 or less is
        alike.
    """
    colours = 1 - _colours(looks[first:stop]) @ _colours(looks[first:]).T
    backgrounds = 1 - looks[first:stop, BINS**3 :] @ looks[first:, BINS**3 :].T
    (sequences, positions), (others, theirs) = numbers[first:stop].T, numbers[first:].T
    apart = np.maximum(np.abs(positions[:, np.newaxis] - theirs), 1).astype(np.float32)
    tolerance = np.maximum(NEIGHBOUR_TOLERANCE / np.sqrt(apart), np.float32(TOLERANCE))
    are_near = (sequences[:, np.newaxis] == others) & (others >= 0) & (tolerance > TOLERANCE)
    tolerance[~are_near] = TOLERANCE
    too_far = np.log((np.maximum(colours, 0) + 1e-3 * scale + 1e-9) / (scale * tolerance + 1e-9))
    other_background = np.log(np.maximum(backgrounds, 0) / BACKGROUND_TOLERANCE + 1e-2)
    return np.where(are_near, too_far, np.maximum(too_far, other_background))


def _is_numbered_by_source(looks: np.ndarray, numbers: np.ndarray, alike: float) -> bool:
    """Return whether clips with consecutive numbers are more often alike than others.

    Args:
        looks: `(clips, LOOK_VALUES)` float32.
        numbers: see `_numbers`.
        alike: the difference of colours of clips that are alike, at most.
    """
    order = np.lexsort((numbers[:, 1], numbers[:, 0]))
    first, second = order[:-1], order[1:]
    consecutive = (numbers[first, 0] == numbers[second, 0]) & (numbers[first, 0] >= 0)
    if not consecutive.any():
        return False
    near = _differences(looks, first[consecutive], second[consecutive]) <= alike
    others = _differences(looks, order, np.roll(order, len(order) // 2)) <= alike
    share = np.concatenate([near, others]).mean()
    error = np.sqrt(share * (1 - share) * (1 / len(near) + 1 / len(others)))
    return bool(near.mean() - others.mean() > STANDARD_ERRORS * error)


def _differences(looks: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return `(pairs,)`: by how much the colours of clips differ, from 0 to 1.

    Args:
        looks: `(clips, LOOK_VALUES)` float32.
        first: `(pairs,)` int64, indices of clips.
        second: `(pairs,)` int64, each compared with the same of `first`.
    """
    pairs = (slice(start, start + BLOCK) for start in range(0, len(first), BLOCK))
    colours = _colours(looks)
    shared = [np.einsum("ij,ij->i", colours[first[pair]], colours[second[pair]]) for pair in pairs]
    return 1 - np.concatenate(shared)
