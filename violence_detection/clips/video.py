"""A video file: opened, what it reports of itself, and its frames with their times."""

import contextlib
import itertools
import math
import re
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, Self

import av
import numpy as np
from av.packet import Packet
from av.stream import Discard, Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from violence_detection.clips.clip import Segment
from violence_detection.clips.conversion import Converter, Crop, display_matrix, is_turned
from violence_detection.clips.coverage import Coverage, missing_frames
from violence_detection.clips.ffmpeg_log import description, errors_logged

FRAME_RATES = (1.0, 240.0)  # frames per second; a file that reports others is not believed
DEFAULT_PERIOD = 1 / 25  # seconds between frames, if neither times nor rate are known
LONGEST_PAUSE = 24 * 3600.0  # seconds between two frames; more is a fault of the file's clock
JUMPING_FORMATS = {"mpegts", "mpeg", "dhav", "rtsp", "rtp"}  # clocks jump where files are joined
LONGEST_PAUSE_THERE = 60.0  # seconds
CROPPING_FORMATS = {"mov", "matroska"}  # containers that can hide the edges of pictures
CONVERT = "convert it with ffmpeg -i IN -c:v libx264 -pix_fmt yuv420p OUT.mp4"
MAX_FRAMES = 2**31  # reported frame counts from here on are not believed
SEEK_MARGINS = (0.0, 2.0, 20.0, math.inf)  # seconds before a segment, to find its keyframe
ATTEMPTS = 100  # reading errors in succession after which the rest of a file is given up
# FFmpeg's names of what is read: no playlists, no pictures, nothing that names other files.
CONTAINERS = (
    *("mov", "matroska", "avi", "mpegts", "mpeg", "mpegvideo", "flv", "asf", "ogg", "dhav", "dv"),
    *("mxf", "gxf", "rm", "nut", "ivf", "m4v", "h264", "hevc", "obu", "vc1", "wtv", "mjpeg"),
    *("h261", "h263", "nsv", "nuv", "roq", "swf", "thp", "vivo", "yuv4mpegpipe"),
)


class UnreadableClip(Exception):
    """A clip has no frames that can be read; the message is the reason."""


class VideoInfo(NamedTuple):
    """What a file reports of its video; None where it reports nothing plausible."""

    frames_per_second: float | None
    duration: float | None  # seconds


class Frame(NamedTuple):
    """A frame of a video, decoded but not converted yet."""

    position: int  # from 0
    time: float  # seconds
    retrieve: Callable[[], np.ndarray | None]  # (height, width, 3) uint8 RGB; None: undecodable


class DecodedFrame(NamedTuple):
    """A decoded frame with its neighbours, which deinterlacing looks at."""

    frame: VideoFrame
    before: VideoFrame | None
    after: VideoFrame | None


class Video:
    """The video stream of an open file or network source. A context manager.

    Other streams are not read: sound, subtitles, cover pictures.

    Args:
        name: what FFmpeg opens.
        options: of FFmpeg's demuxer, such as the protocols that are allowed.
        container: FFmpeg's name of the format, or of the device that is read; None: it finds out.
        timeout: seconds that opening it, and reading a packet, may take; None: no limit.

    Raises:
        UnreadableClip: it cannot be opened or decoded.
        OSError: the operating system refuses it.
    """

    def __init__(
        self,
        name: str,
        options: Mapping[str, str],
        container: str | None = None,
        timeout: float | None = None,
    ):
        limits = None if timeout is None else (timeout, timeout)
        given = dict(options)
        errors = errors_logged()
        try:
            self._container = av.open(
                name, format=container, options=given, timeout=limits, metadata_errors="replace"
            )
        except av.FFmpegError as error:
            if isinstance(error, PermissionError):
                raise
            raise UnreadableClip("not a video that FFmpeg can open") from error
        try:
            self.stream = _picture_stream(self._container)
        except UnreadableClip:
            self._container.close()
            raise
        # Kept, because they are asked for when the file is closed.
        self.info = self._reported_info()  # what the file reports of itself
        self._frames_reported = self.stream.frames
        self._time_base = self.stream.time_base
        self._start = self.stream.start_time or 0
        self._codec = self.stream.codec_context
        self._codec.thread_count = 1  # clips are decoded side by side
        self._converter = Converter(_crop_of(self._container, self.stream))
        # Whether FFmpeg has complained of the file: it is cut, or parts of it are damaged.
        self.is_damaged = errors_logged() > errors
        self.aspect_ratio = 1.0  # of the last picture as it is displayed: width over height
        self._shape: tuple[int, ...] = ()  # of that picture
        self._refused = 0  # packets, by the decoder

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; frames that were decoded remain usable."""
        self._container.close()

    def _reported_info(self) -> VideoInfo:
        rate = float(self.stream.average_rate or self.stream.guessed_rate or 0)
        if not FRAME_RATES[0] <= rate <= FRAME_RATES[1]:
            return VideoInfo(None, None)
        duration = self._reported_duration()
        if duration is None and self.stream.frames:
            duration = self.stream.frames / rate
        return VideoInfo(rate, duration)

    @property
    def frame_count(self) -> int | None:
        """How many frames the file reports; None if that is not plausible."""
        rate, duration = self.info
        count = self._frames_reported or round((rate or 0.0) * (duration or 0.0))
        return count if 1 <= count < MAX_FRAMES else None

    def readable_share(self, coverage: Coverage) -> float:
        """Return the share of the video that was decoded, 0 to 1, once it has been read.

        Args:
            coverage: of all its packets.
        """
        times = [self.time_of(stamp) for stamp in coverage.stamps]
        return coverage.decoded_share(self._refused) * self.present_share(times)

    def present_share(self, times: Sequence[float], segment: Segment | None = None) -> float:
        """Return the share of the video that is in the file; 1 unless the file is damaged.

        What a whole file says of its own length is not believed: its packets count.

        Args:
            times: of the packets in seconds.
            segment: of which they are; None: they are all.
        """
        if not self.is_damaged or self.info.frames_per_second is None or len(times) < 2:
            return 1.0
        if segment is not None:
            return len(times) / (len(times) + missing_frames(times, segment.end))
        if 0 < self._frames_reported < MAX_FRAMES:
            return min(1.0, len(times) / self._frames_reported)
        return len(times) / (len(times) + missing_frames(times, self.info.duration))

    def _reported_duration(self) -> float | None:
        if self.stream.duration and self.stream.time_base:
            return float(self.stream.duration * self.stream.time_base)
        return self._container.duration / av.time_base if self._container.duration else None

    @property
    def nothing_decoded(self) -> str:
        """The message when the file is a video, but no frame of it can be decoded."""
        return f"no frame can be decoded (codec {self._codec.name})"

    @property
    def longest_pause(self) -> float:
        """The seconds between two frames above which the clock must have jumped."""
        jumps = JUMPING_FORMATS & set(self._container.format.name.split(","))
        return LONGEST_PAUSE_THERE if jumps else LONGEST_PAUSE

    def packets(self) -> Iterator[Packet]:
        """Yield the stream's packets; what cannot be read of the file is passed over."""
        failures = 0
        while failures < ATTEMPTS:
            try:
                for packet in self._demuxed():
                    if packet.size:
                        failures = 0
                        self.is_damaged |= packet.is_corrupt
                        yield packet
                return
            except av.ExitError:  # the time limit
                raise
            except av.EOFError:
                return
            except av.FFmpegError:
                self.is_damaged = True
                failures += 1

    def packets_of(self, segment: Segment) -> Iterator[Packet]:
        """Yield the packets that the frames of a segment depend on.

        Args:
            segment: of a video of which nothing has been decoded.
        """
        for margin in SEEK_MARGINS:
            is_first = segment.start <= margin
            self._seek(0.0 if is_first else segment.start - margin)
            packets = self.packets()
            first = next(packets, None)
            if first is None:
                continue
            # Some formats only know where packets lie roughly.
            if is_first or (first.is_keyframe and self.time_of(first.pts) <= segment.start):
                break
        else:
            return
        for packet in itertools.chain([first], packets):
            yield packet
            if segment.end is not None and self.time_of(packet.dts) >= segment.end:
                return  # frames that are shown before it are decoded before it

    def _seek(self, seconds: float) -> None:
        """Continue with the last keyframe before a time; where that is unknown, do nothing."""
        if self._time_base is None:
            return
        with contextlib.suppress(av.FFmpegError):
            self._container.seek(self._start + int(seconds / self._time_base), stream=self.stream)

    def _demuxed(self) -> Iterator[Packet]:
        """Yield packets, and note whether FFmpeg complains of the file between them."""
        packets = self._container.demux(self.stream)
        while True:
            errors = errors_logged()
            packet = next(packets, None)
            self.is_damaged |= errors_logged() > errors
            if packet is None:
                return
            yield packet

    def decode(self, packet: Packet | None) -> list[VideoFrame]:
        """Return the frames that a packet completes: none if it cannot be decoded.

        Args:
            packet: None: the end; returns what the decoder has kept back.

        Raises:
            MemoryError: there is too little memory.
        """
        try:
            return list(self._codec.decode(packet))
        except MemoryError:
            raise
        except av.FFmpegError:
            self._refused += packet is not None
            return []

    def decoded(self, packets: Iterable[Packet]) -> Iterator[DecodedFrame]:
        """Yield the frames of packets, each interlaced one once its successor is known."""
        before: VideoFrame | None = None
        waiting: VideoFrame | None = None  # interlaced

        def with_end() -> Iterator[Packet | None]:
            yield from packets
            yield None

        for packet in with_end():
            for frame in self.decode(packet):
                if waiting is not None:
                    yield DecodedFrame(waiting, before, frame)
                    before, waiting = waiting, None
                if frame.interlaced_frame:
                    waiting = frame
                else:
                    yield DecodedFrame(frame, before, None)
                    before = frame
        if waiting is not None:
            yield DecodedFrame(waiting, before, None)

    def forget_frames(self) -> None:
        """Forget what was decoded: the next packet does not follow the last one."""
        self._codec.flush_buffers()

    def decode_references_only(self, only: bool) -> None:
        """Skip, or not, frames that no other frame needs."""
        self._codec.skip_frame = "NONREF" if only else "DEFAULT"

    def time_of(self, pts: int | None) -> float:
        """Return a time stamp in seconds from the start that the stream states; NaN for None."""
        if pts is None or self._time_base is None:
            return math.nan
        base = self._time_base
        return (pts - self._start) * base.numerator / base.denominator

    def picture(self, decoded: DecodedFrame) -> np.ndarray | None:
        """Return a frame as it is to be shown, `(height, width, 3)` uint8 RGB.

        None if it cannot be converted.
        """
        try:
            picture = self._converter.picture(*decoded)
        except MemoryError:
            raise
        except av.FFmpegError:
            return None
        if picture.shape != self._shape:
            self._shape = picture.shape
            self.aspect_ratio = self._aspect_ratio(picture, decoded.frame)
        return picture

    def _aspect_ratio(self, picture: np.ndarray, frame: VideoFrame) -> float:
        # That of one pixel; where it is unknown, pixels are square.
        stated = self.stream.sample_aspect_ratio or self._codec.sample_aspect_ratio
        pixel = float(stated or 1)
        height, width = picture.shape[:2]
        return width / height * (1 / pixel if is_turned(display_matrix(frame)) else pixel)


def _picture_stream(container: av.container.InputContainer) -> VideoStream:
    """Return the stream of moving pictures; the others are not read."""
    streams = list(container.streams.video)
    films = [each for each in streams if not each.disposition & Disposition.attached_pic]
    if not films:
        raise UnreadableClip("no video, only a cover picture" if streams else "no video in it")
    best = container.streams.best("video")
    stream = next((each for each in films if each == best), films[0])
    if stream.codec_context is None:
        codec = _codec_name(container, stream)
        raise UnreadableClip(f"its codec ({codec}) cannot be decoded here: {CONVERT}")
    for other in container.streams:
        if other.index != stream.index:
            other.discard = Discard.all
    return stream


def _described(container: av.container.InputContainer, stream: VideoStream) -> str:
    """Return what FFmpeg's description of a file says of one stream."""
    streams = re.split(r"^  Stream #0:", description(container), flags=re.MULTILINE)
    return next((text for text in streams[1:] if re.match(rf"{stream.index}\D", text)), "")


def _codec_name(container: av.container.InputContainer, stream: VideoStream) -> str:
    """Return the name of a codec that FFmpeg has no decoder for, or else the file's code for it."""
    found = re.search(r"Video: (\S+?)[, ](?: *\((\S+) / 0x)?", _described(container, stream))
    name, code = found.groups() if found else ("none", None)
    return (code or "unknown") if name == "none" else name


def _crop_of(container: av.container.InputContainer, stream: VideoStream) -> Crop:
    """Return what the container says is hidden of the pictures; the codec's own crop is applied."""
    if not CROPPING_FORMATS & set(container.format.name.split(",")):
        return Crop()
    found = re.search(r"cropping: (\d+)/(\d+)/(\d+)/(\d+)", _described(container, stream), re.I)
    return Crop(*map(int, found.groups())) if found else Crop()


def open_video(path: Path) -> Video:
    """Open a video file.

    Raises:
        UnreadableClip: the file is empty, not a video in one of `CONTAINERS`, or of a codec that
            cannot be decoded; or its name is not valid UTF-8.
        OSError: there is no such file.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise UnreadableClip("its name is not valid UTF-8: rename it") from error
    path = path.absolute()  # FFmpeg would take the start of "a:b.mp4" for a protocol
    if path.stat().st_size == 0:
        raise UnreadableClip("the file is empty")
    options = {"protocol_whitelist": "file", "format_whitelist": ",".join(CONTAINERS)}
    return Video(f"file:{path}", options)


def reported_duration(path: Path) -> float | None:
    """Return a file's own statement of its duration in seconds, which may be false.

    Raises:
        UnreadableClip: as `open_video` does.
    """
    with open_video(path) as video:
        return video.info.duration


def last_time(path: Path) -> float | None:
    """Return the end of a file's last frame in seconds, by its packets; None if they have no times.

    Raises:
        UnreadableClip: as `open_video` does.
    """
    with open_video(path) as video:
        times = [video.time_of(packet.pts) for packet in video.packets() if packet.pts is not None]
        period = 1 / (video.info.frames_per_second or 1 / DEFAULT_PERIOD)
    return max(times) + period if times else None


def increasing_times(
    reported: Iterable[float], period: float, longest_pause: float
) -> Iterator[float]:
    """Yield times in seconds that increase, whatever a file reports.

    Args:
        reported: seconds, NaN where there is none.
        period: usual seconds from frame to frame. It follows where the reported time does not
            increase, or jumps.
        longest_pause: seconds that two frames can be apart.
    """
    time = before = math.nan
    for now in reported:
        if math.isnan(time):
            time = max(0.0, now) if math.isfinite(now) else 0.0
        else:
            passed = now - before
            time += passed if 0 < passed <= longest_pause else period
        before = now
        yield time


def frames_of(
    video: Video, frames_per_second: float | None, coverage: Coverage | None = None
) -> Generator[Frame, None, None]:
    """Yield all frames in order, and close the video.

    Args:
        video: open, of which nothing has been read.
        frames_per_second: None if unknown.
        coverage: notes what could be decoded.

    Yields:
        Frames whose times increase. A frame can be retrieved until the next is yielded.
    """
    period = 1 / frames_per_second if frames_per_second else DEFAULT_PERIOD
    coverage = Coverage() if coverage is None else coverage
    with video:
        frames, timed = itertools.tee(video.decoded(coverage.noted(video.packets())))
        reported = (video.time_of(decoded.frame.pts) for decoded in timed)
        times = increasing_times(reported, period, video.longest_pause)
        for position, (decoded, time) in enumerate(zip(frames, times, strict=True)):
            coverage.add(decoded.frame)
            yield Frame(position, time, partial(video.picture, decoded))
