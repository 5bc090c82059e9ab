"""The windows of long videos that have one label each."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from violence_detection.clips.clip import Clip, Segment
from violence_detection.clips.lengths import video_lengths
from violence_detection.errors import UserError


def windows_of(clips: Sequence[Clip], window: float, timeout: float) -> dict[Clip, list[Clip]]:
    """Return the windows of each video, or of its segment, one after the other.

    The last one is up to half a window longer or shorter, so that the windows cover the video. A
    video that cannot be read, or does not say how long it is, is its only window.

    Args:
        clips: the videos, on a disk.
        window: seconds.
        timeout: seconds that reading the length of a video may take.

    Raises:
        UserError: a video is in an object store, where its length is not known.
    """
    remote = next((clip for clip in clips if not isinstance(clip.path, Path)), None)
    if remote is not None:
        raise UserError(
            f"--weak needs the length of each video, and {remote.name} is in an object store: "
            "copy the videos to a disk"
        )
    open_ended = {
        Path(clip.path): 0.0 for clip in clips if clip.segment is None or clip.segment.end is None
    }
    seconds = {
        path: length
        for path, length in video_lengths(open_ended, timeout).items()
        if isinstance(length, float)
    }
    return {clip: _windows(clip, seconds, window) for clip in clips}


def _windows(clip: Clip, lengths: Mapping[Path, float], window: float) -> list[Clip]:
    start, end = clip.segment or Segment()
    if end is None:
        end = lengths.get(Path(clip.path))
    count = 1 if end is None else max(1, math.floor((end - start) / window + 0.5))
    if end is None or count == 1:
        return [clip]
    starts = [start + number * window for number in range(count)]
    return [
        replace(clip, segment=Segment(one, other))
        for one, other in zip(starts, [*starts[1:], end], strict=True)
    ]
