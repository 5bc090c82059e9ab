"""Clips of a test as strips of pictures: which ones to look at, and their frames in time order."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from violence_detection.clips.clip import Segment, file_and_segment
from violence_detection.clips.decoders import DecoderProcesses, decoder_count
from violence_detection.clips.frames import even_positions
from violence_detection.clips.locations import dataset_locations
from violence_detection.clips.pictures import as_jpeg, shrink
from violence_detection.clips.video import UnreadableClip
from violence_detection.errors import RunError, UserError
from violence_detection.reporting.finished_run import PredictedClip
from violence_detection.runtime.interrupts import raise_if_interrupted
from violence_detection.settings.constants import CLIP_TIMEOUT
from violence_detection.settings.schema import Settings
from violence_detection.settings.values import folder_or_url
from violence_detection.storage.remote_paths import AnyPath, local_copy

WORST, LEAST_CERTAIN, CERTAIN = 8, 4, 4  # clips that are shown, at most
SIDE = 144  # pixels of a picture's longer side
STRIP = 16 * SIDE  # pixels of a strip: with more pictures, they are smaller
SMALLEST_SIDE = 48  # pixels
JPEG_QUALITY = 70
CLIPS_PER_DECODER = 8  # a process takes about as long to start as to read several

Source = tuple[AnyPath, Segment | None]  # a clip's file, and its segment of that


@dataclass(frozen=True)
class ChosenClips:
    """The most telling clips of a test, each of them once."""

    worst: Sequence[PredictedClip]  # misclassified, the furthest from the label first
    least_certain: Sequence[PredictedClip]  # the nearest to the threshold first
    certain: Sequence[PredictedClip]  # correct, of both classes, the nearest to the label first

    def __iter__(self) -> Iterator[PredictedClip]:
        yield from (*self.worst, *self.least_certain, *self.certain)


@dataclass(frozen=True)
class Strip:
    """The frames of a clip as pictures."""

    frames: tuple[bytes, ...] = ()  # JPEG files of one size, in time order
    width: int = 0  # pixels
    height: int = 0
    trouble: str | None = None  # why there are no frames


def choose_clips(clips: Sequence[PredictedClip], threshold: float) -> ChosenClips:
    """Return the clips of a test to look at.

    Args:
        clips: that were tested.
        threshold: a clip of at least this probability is predicted violent.
    """
    by_name = sorted(clips, key=lambda clip: clip.name)  # a stable order of equals
    wrong = [clip for clip in by_name if not clip.is_correct]
    worst = sorted(wrong, key=lambda clip: -clip.error)[:WORST]
    rest = [clip for clip in by_name if clip not in worst]
    rest.sort(key=lambda clip: abs(clip.probability - threshold))
    least_certain, rest = rest[:LEAST_CERTAIN], rest[LEAST_CERTAIN:]
    correct = sorted((clip for clip in rest if clip.is_correct), key=lambda clip: clip.error)
    by_class = [[clip for clip in correct if clip.label == label] for label in (0, 1)]
    # Half of each class; a class with fewer clips leaves its share to the other.
    certain = [
        clip
        for label in (1, 0)
        for clip in by_class[label][: max(CERTAIN // 2, CERTAIN - len(by_class[1 - label]))]
    ]
    return ChosenClips(worst, least_certain, certain)


def strips_of(settings: Mapping[str, Any], names: Iterable[str]) -> dict[str, Strip]:
    """Return the strips of clips by name, read from where their dataset is, or was.

    Args:
        settings: of the run, by name, as JSON values.
        names: of the clips.
    """
    wanted = list(dict.fromkeys(names))
    where, frames = folder_or_url(settings["dataset_path"]), settings["frames"]
    spool_dir = Path(settings.get("spool_dir", Settings().data.spool_dir))
    spool_size = settings.get("spool_size", Settings().data.spool_size)
    try:
        with dataset_locations(where, spool_dir, spool_size) as locations:
            parts = [file_and_segment(name) for name in wanted]
            clips = [(locations.path(file), segment) for file, segment in parts]
            strips = read_strips(
                clips,
                frames,
                settings.get("cached_frames") or frames,
                settings.get("clip_timeout", CLIP_TIMEOUT),
            )
            return {name: strips[clip] for name, clip in zip(wanted, clips, strict=True)}
    except (UserError, RunError) as error:
        if isinstance(where, Path):
            raise
        return {name: Strip(trouble=str(error)) for name in wanted}


def read_strips(
    clips: Iterable[Source], frames: int, cached_frames: int, timeout: float
) -> dict[Source, Strip]:
    """Return the strips of clips; that of a clip that cannot be read has no frames, but the reason.

    Args:
        clips: their files, and the segments of these.
        frames: that the classifier uses of a clip.
        cached_frames: that are read of a clip; the classifier's are evenly spread over them.
        timeout: seconds that reading a clip may take.
    """
    wanted = list(dict.fromkeys(clips))
    if not wanted:
        return {}
    side = min(SIDE, max(SMALLEST_SIDE, STRIP // frames))
    used = even_positions(cached_frames, frames)
    count = min(decoder_count(), math.ceil(len(wanted) / CLIPS_PER_DECODER))
    decoders = DecoderProcesses(count, count, cached_frames, timeout)

    def read(clip: Source) -> Strip:
        path, segment = clip
        try:
            with local_copy(path) as copy:
                images, info = decoders.read_clip(copy, segment=segment)
            return _as_strip(images[0, used], info.aspect_ratio, side)
        except FileNotFoundError:
            return Strip(trouble="the file is missing")
        except (UnreadableClip, RunError) as error:  # the latter: its store does not answer
            return Strip(trouble=str(error))
        except OSError as error:
            return Strip(trouble=error.strerror or str(error))

    strips: dict[Source, Strip] = {}
    with ThreadPoolExecutor(count) as threads, decoders:
        for clip, strip in zip(wanted, threads.map(read, wanted), strict=True):
            raise_if_interrupted()
            strips[clip] = strip
    return strips


def _as_strip(images: np.ndarray, aspect_ratio: float, side: int) -> Strip:
    """Return `(frames, 224, 224, 3)` uint8 RGB as small JPEG files in the clip's aspect ratio."""
    pictures = [shrink(image, aspect_ratio, side) for image in images]
    height, width = pictures[0].shape[:2]
    return Strip(tuple(as_jpeg(picture, JPEG_QUALITY) for picture in pictures), width, height)
