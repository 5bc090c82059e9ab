"""How long videos are, read in other processes: a file may hang its reader or crash it."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

Length = float | str | None  # seconds; why it cannot be read; None: it does not say


def video_lengths(latest: Mapping[Path, float], timeout: float) -> dict[Path, Length]:
    """Return the length of each video in seconds, or why it cannot be read.

    Args:
        latest: by path, the latest time that is expected to be in the video, in seconds. Where the
            file states no length, or a shorter one, its packets are read: what it states may be
            false.
        timeout: seconds that reading one may take.
    """
    # These load OpenCV and FFmpeg.
    from violence_detection.clips.decoders import DecoderProcesses, decoder_count
    from violence_detection.clips.video import UnreadableClip

    if not latest:
        return {}
    count = min(decoder_count(), len(latest))
    with (
        ThreadPoolExecutor(count) as threads,
        DecoderProcesses(count, count, 1, timeout) as decoders,
    ):

        def length(path: Path) -> Length:
            try:
                seconds = decoders.reported_duration(path)
                if seconds is None or latest[path] > seconds:
                    seconds = decoders.last_time(path)
            except UnreadableClip as error:
                return str(error)
            except OSError as error:
                return error.strerror or str(error)
            return seconds

        return dict(zip(latest, threads.map(length, latest), strict=True))
