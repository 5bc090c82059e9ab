"""Clips of a test as strips of pictures: which to look at, and their frames in time order."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from violence_detection.clips.decoders import DecoderProcesses, decoder_count
from violence_detection.clips.frames import even_positions
from violence_detection.clips.pictures import as_jpeg, shrink
from violence_detection.clips.video import UnreadableClip
from violence_detection.errors import RunError
from violence_detection.runtime.interrupts import raise_if_interrupted
from violence_detection.storage.remote_paths import AnyPath, local_copy

WORST, LEAST_CERTAIN, CERTAIN = 8, 4, 4  # clips that are shown, at most
SIDE = 144  # pixels of a picture's longer side
STRIP = 16 * SIDE  # pixels of a strip of more pictures: they are smaller
SMALLEST_SIDE = 48  # pixels
JPEG_QUALITY = 70


@dataclass(frozen=True)
class ReportedClip:
    """A clip of the test, and what the detector says of it."""

    name: str  # below the dataset folder, with slashes
    label: int  # 1 is violent
    probability: float  # of violence
    verdict: int
    group: str | None = None
    attention: tuple[float, ...] | None = None  # of each frame, sums to 1; None: not known

    @property
    def is_right(self) -> bool:
        """Whether the verdict is the label."""
        return self.verdict == self.label

    @property
    def error(self) -> float:
        """How far the probability is from the label, 0 to 1."""
        return abs(self.probability - self.label)


@dataclass(frozen=True)
class ChosenClips:
    """The clips of a test that tell most; none is there twice."""

    worst: Sequence[ReportedClip]  # wrong verdicts, the farthest from the label first
    least_certain: Sequence[ReportedClip]  # the nearest to the threshold first
    certain: Sequence[ReportedClip]  # right, of both classes, the nearest to the label first

    def __iter__(self) -> Iterator[ReportedClip]:
        yield from (*self.worst, *self.least_certain, *self.certain)


@dataclass(frozen=True)
class Strip:
    """What is to be seen of a clip."""

    frames: tuple[bytes, ...] = ()  # JPEG files of one size, in time order
    width: int = 0  # pixels
    height: int = 0
    trouble: str | None = None  # why there are no frames


def choose_clips(clips: Sequence[ReportedClip], threshold: float) -> ChosenClips:
    """Return the clips of a test to look at.

    Args:
        threshold: of the probability; from it on a clip is called violent.
    """
    by_name = sorted(clips, key=lambda clip: clip.name)  # equals are in one order
    wrong = [clip for clip in by_name if not clip.is_right]
    worst = sorted(wrong, key=lambda clip: -clip.error)[:WORST]
    rest = [clip for clip in by_name if clip not in worst]
    rest.sort(key=lambda clip: abs(clip.probability - threshold))
    least_certain, rest = rest[:LEAST_CERTAIN], rest[LEAST_CERTAIN:]
    right = sorted((clip for clip in rest if clip.is_right), key=lambda clip: clip.error)
    of_class = [[clip for clip in right if clip.label == label] for label in (0, 1)]
    other = [CERTAIN - len(of_class[1 - label]) for label in (0, 1)]  # places that it leaves
    certain = [
        clip for label in (1, 0) for clip in of_class[label][: max(CERTAIN // 2, other[label])]
    ]
    return ChosenClips(worst, least_certain, certain)


def read_strips(
    paths: Iterable[AnyPath], frames: int, cached_frames: int, timeout: float
) -> dict[AnyPath, Strip]:
    """Return the strips of clips; one that cannot be read now has none, and says why.

    Args:
        frames: that the classifier is given of a clip.
        cached_frames: that are read of a clip, of which those are evenly spread.
        timeout: seconds that reading a clip may take.
    """
    wanted = list(dict.fromkeys(paths))
    if not wanted:
        return {}
    side = min(SIDE, max(SMALLEST_SIDE, STRIP // frames))
    shown = even_positions(cached_frames, frames)
    count = min(decoder_count(), len(wanted))
    decoders = DecoderProcesses(count, count, cached_frames, timeout)

    def read(path: AnyPath) -> Strip:
        try:
            with local_copy(path) as copy:
                images = decoders.read_images(copy)[0][shown]
                return _as_strip(images, decoders.aspect_ratio(copy), side)
        except FileNotFoundError:
            return Strip(trouble="it is not there any more")
        except (UnreadableClip, RunError) as error:  # or nothing can be had from its store
            return Strip(trouble=str(error))
        except OSError as error:
            return Strip(trouble=error.strerror or str(error))

    strips: dict[AnyPath, Strip] = {}
    with ThreadPoolExecutor(count) as threads, decoders:
        for path, strip in zip(wanted, threads.map(read, wanted), strict=True):
            raise_if_interrupted()
            strips[path] = strip
    return strips


def _as_strip(images: np.ndarray, aspect_ratio: float, side: int) -> Strip:
    """Return `(frames, 224, 224, 3)` uint8 RGB as small JPEG files of the clip's own shape."""
    pictures = [shrink(image, aspect_ratio, side) for image in images]
    height, width = pictures[0].shape[:2]
    return Strip(tuple(as_jpeg(picture, JPEG_QUALITY) for picture in pictures), width, height)
