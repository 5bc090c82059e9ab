"""The features of videos in windows: all windows of a video, under its one label."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from violence_detection.clips.clip import Clip
from violence_detection.features.extraction import BadClip

if TYPE_CHECKING:
    from violence_detection.features.prepare import Features


@dataclass(frozen=True)
class VideoWindows:
    """The windows of a video that can be read, in time order."""

    clips: Sequence[Clip]
    rows: np.ndarray  # (windows, views) int64: of their features; -1 for features of zeros


def by_video(features: "Features", windows: Mapping[Clip, Sequence[Clip]]) -> "Features":
    """Return features by video instead of by window.

    What is known of one row, such as a video's looks, is that of its middle window.

    Args:
        features: of all windows.
        windows: of each video, in time order.
    """
    found: dict[Clip, VideoWindows] = {}
    bad: list[BadClip] = []
    reasons = {item.clip: item.reason for item in features.bad}
    for video, parts in windows.items():
        readable = [part for part in parts if part in features.rows]
        if readable:
            own = np.array([features.rows[part] for part in readable], np.int64)
            found[video] = VideoWindows(readable, own)
        else:
            bad.append(BadClip(video, reasons[parts[0]]))
    rows = {
        video: tuple(of_video.rows[len(of_video.rows) // 2].tolist())
        for video, of_video in found.items()
    }
    return replace(features, rows=rows, windows=found, bad=bad)
