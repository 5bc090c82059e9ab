import os
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from av.stream import Disposition

from tests.clips.videos import frame_numbers, grey, write_clip
from violence_detection.clips.clip import Segment
from violence_detection.clips.frames import read_clip, read_frames, sample_positions
from violence_detection.clips.sampling import Sampling, sample_video
from violence_detection.clips.video import UnreadableClip, open_video
from violence_detection.settings.constants import FRAME_SIZE


def write_video(path: Path, frames: int, size: tuple[int, int] = (64, 48)) -> Path:
    """Write a video whose frame n is of brightness 4 n."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 25, size)
    for number in range(frames):
        writer.write(np.full((size[1], size[0], 3), 4 * number, np.uint8))
    writer.release()
    return path


@pytest.mark.parametrize(
    ("length", "frames", "expected"),
    [
        (50, 16, [0, 3, 7, 10, 13, 16, 20, 23, 26, 29, 33, 36, 39, 42, 46, 49]),
        (16, 16, list(range(16))),
        (4, 8, [0, 0, 1, 1, 2, 2, 3, 3]),
        (1, 3, [0, 0, 0]),
        (9, 1, [0]),
    ],
)
def test_positions_are_even_from_first_to_last(
    length: int, frames: int, expected: list[int]
) -> None:
    assert sample_positions(length, frames).tolist() == expected


def test_frames_have_their_times(tmp_path: Path) -> None:
    frames, info = read_clip(write_video(tmp_path / "clip.avi", 50), 4)
    assert info.times == pytest.approx([0, 16 / 25, 33 / 25, 49 / 25])
    assert frame_numbers(frames) == [0, 16, 33, 49]
    _, short = read_clip(write_video(tmp_path / "short.avi", 2), 4)
    assert short.times == pytest.approx([0, 0, 1 / 25, 1 / 25])


@pytest.mark.parametrize("length", [50, 5, 1])
def test_frames_are_those_at_the_positions(tmp_path: Path, length: int) -> None:
    path = write_video(tmp_path / "clip.avi", length)
    frames = read_frames(path, 16)
    assert frames.shape == (16, FRAME_SIZE, FRAME_SIZE, 3)
    assert frames.dtype == np.uint8
    assert frame_numbers(frames) == sample_positions(length, 16).tolist()


def test_colours_are_red_green_blue(tmp_path: Path) -> None:
    writer = cv2.VideoWriter(
        str(tmp_path / "red.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 25, (64, 48)
    )
    writer.write(np.full((48, 64, 3), (0, 0, 255), np.uint8))  # OpenCV's order: blue first
    writer.release()
    red, green, blue = read_frames(tmp_path / "red.avi", 1).mean(axis=(0, 1, 2))
    assert red > 240
    assert max(green, blue) < 15


@pytest.mark.parametrize("number", [0, 40, 80])
def test_pixels_equal_those_of_seeking_to_each_frame(real_clips: Path, number: int) -> None:
    """The fast way returns the same pixels as the simple one."""
    path = sorted(real_clips.glob("t*/*/*.mp4"))[number]
    capture, images = cv2.VideoCapture(str(path)), []
    for position in sample_positions(reported_length(path), 16).tolist():
        capture.set(cv2.CAP_PROP_POS_FRAMES, position)
        _, image = capture.read()
        images.append(cv2.cvtColor(cv2.resize(image, (224, 224)), cv2.COLOR_BGR2RGB))
    np.testing.assert_array_equal(read_frames(path, 16), images)


def reported_length(path: Path) -> int:
    return int(cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FRAME_COUNT))


@pytest.mark.parametrize("reported", [20, 1000, 0])
def test_wrong_frame_count_in_the_container_is_corrected(tmp_path: Path, reported: int) -> None:
    path = write_video(tmp_path / "clip.avi", 40)
    content = bytearray(path.read_bytes())
    for box, offset in ((b"avih", 24), (b"strh", 40)):  # total frames, stream length
        at = content.index(box) + offset
        content[at : at + 4] = reported.to_bytes(4, "little")
    path.write_bytes(content)
    assert reported_length(path) != 40
    assert frame_numbers(read_frames(path, 16)) == sample_positions(40, 16).tolist()


@pytest.mark.parametrize("suffix", ["avi", "mkv", "flv", "webm"])
def test_truncated_clip_is_sampled_over_its_remaining_frames(suffix: str, tmp_path: Path) -> None:
    path = write_long_clip(tmp_path / f"clip.{suffix}")
    cut_off(path, 0.7)
    frames, info = read_clip(path, 16)
    numbers = frame_numbers(frames)
    assert 30 < info.frames < 55
    assert numbers[:-1] == pytest.approx(sample_positions(info.frames, 16)[:-1].tolist(), abs=1)
    assert info.share == pytest.approx(info.frames / 60, abs=0.01)
    assert info.warnings() == [f"only {info.share:.0%} of it could be read"]


@pytest.mark.parametrize("suffix", ["avi", "mkv", "flv"])
def test_clip_of_which_less_than_half_is_left_is_bad(suffix: str, tmp_path: Path) -> None:
    path = write_long_clip(tmp_path / f"clip.{suffix}")
    cut_off(path, 0.25)
    with pytest.raises(UnreadableClip, match="of it can be read"):
        read_clip(path, 16)


def write_long_clip(path: Path) -> Path:
    """Write 60 frames that take many bytes each, so that most of the file is frames."""
    noise = np.random.default_rng(0).integers(0, 4, (60, 96, 128, 3), np.uint8)
    images = [grey(number, (128, 96)) + noise[number] for number in range(60)]
    codec = {"webm": "libvpx-vp9", "flv": "flv1"}.get(path.suffix[1:], "libx264")
    options = {"crf": "10"} if codec == "libx264" else {"b": "2000000"}
    return write_clip(path, images, codec=codec, options=options)


def cut_off(path: Path, share: float) -> None:
    """Keep a share of a file's bytes, from its start."""
    path.write_bytes(path.read_bytes()[: round(share * path.stat().st_size)])


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "empty"), (b"not a video" * 1000, "not a video"), (b"\0" * 5000, "not a video")],
)
def test_unreadable_clip_has_a_reason(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "clip.mp4").write_bytes(content)
    with pytest.raises(UnreadableClip, match=reason):
        read_frames(tmp_path / "clip.mp4", 16)


def test_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe.avi"))
    write_video(tmp_path / "clip.avi", 2).rename(path)
    with pytest.raises(UnreadableClip, match="rename it"):
        read_frames(path, 2)


def test_video_without_frames_is_unreadable(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.avi", 3)
    content = path.read_bytes()
    path.write_bytes(content[: content.index(b"movi") + 4])
    with pytest.raises(UnreadableClip):
        read_frames(path, 16)


@pytest.mark.parametrize("name", ["two words.avi", "драка 战斗.avi", "q\"uo'te%03d.avi", "a:b.avi"])
def test_unusual_names_are_read(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write_video(tmp_path / name, 4)
    monkeypatch.chdir(tmp_path)
    assert frame_numbers(read_frames(Path(name), 4)) == [0, 1, 2, 3]


NUMBERS = list(range(50))


def test_packet_that_is_damaged_is_passed_over(tmp_path: Path) -> None:
    path = write_clip(
        tmp_path / "clip.mp4", [grey(n) for n in NUMBERS], options={"g": "1"}, damaged=[20]
    )
    found = frame_numbers(read_frames(path, 49))
    assert 20 not in found
    assert found == pytest.approx(sample_positions(50, 49).tolist(), abs=1)


def test_most_of_a_clip_may_be_damaged(tmp_path: Path) -> None:
    damaged = range(10, 32)
    path = write_clip(
        tmp_path / "clip.mp4", [grey(n) for n in NUMBERS], options={"g": "1"}, damaged=damaged
    )
    frames, info = read_clip(path, 16)
    found = frame_numbers(frames)
    assert set(found) <= set(NUMBERS) - set(damaged)
    assert (found[0], found[-1]) == (0, 49)
    assert info.share == pytest.approx(28 / 50)
    assert info.warnings() == ["only 56% of it could be read"]


@pytest.mark.parametrize("codec", ["libx264", "mpeg2video", "mpeg4", "libvpx", "libsvtav1"])
def test_clip_of_which_most_is_damaged_is_bad(codec: str, tmp_path: Path) -> None:
    path = write_clip(
        *(tmp_path / "clip.mkv", [grey(n) for n in NUMBERS]),
        codec=codec,
        options={"g": "1"},
        damaged=range(10, 45),
    )
    with pytest.raises(UnreadableClip, match=r"only 3\d% of it can be read"):
        read_clip(path, 16)


def test_pause_of_minutes_ends_nothing(tmp_path: Path) -> None:
    times = [n / 25 + (150 if n >= 25 else 0) for n in NUMBERS]
    path = write_clip(tmp_path / "clip.mkv", [grey(n) for n in NUMBERS], times=times)
    frames, info = read_clip(path, 16)
    assert frame_numbers(frames) == pytest.approx(sample_positions(50, 16).tolist(), abs=1)
    assert info.times is not None and info.times[-1] == pytest.approx(times[-1])


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_frames_are_even_in_time_as_those_of_a_window_over_the_clip(
    suffix: str, tmp_path: Path
) -> None:
    times = [n / 30 for n in range(30)] + [2 + n / 10 for n in range(20)]
    path = write_clip(tmp_path / f"clip.{suffix}", [grey(n) for n in NUMBERS], times=times)
    shown = read_clip(path, 16)[1].times
    assert shown is not None
    with open_video(path) as video:
        rate = video.info.frames_per_second
    assert rate is not None
    length = times[-1] + 1 / rate
    _, *samples, _ = sample_video(path, Sampling(length, length, ("rgb",), 16, tuple(range(16))))
    assert [sample.time for sample in samples[:16]] == pytest.approx(list(shown))
    later = [time for time in shown if time >= 2]
    assert len(later) == pytest.approx(16 * 5 / 7, abs=3)  # by number, 6 of 50 frames in 16


def test_long_clip_is_read_as_a_short_one(tmp_path: Path) -> None:
    images = [grey(n % 60) for n in range(600)]
    path = write_clip(tmp_path / "clip.mp4", images, options={"g": "50"})
    expected = [int(position) % 60 for position in sample_positions(600, 16)]
    assert frame_numbers(read_frames(path, 16)) == expected


@pytest.mark.parametrize(
    ("codec", "suffix"),
    [
        *(("libx264", "ts"), ("libx264", "3gp"), ("libx265", "mp4"), ("libsvtav1", "mp4")),
        *(("libvpx-vp9", "webm"), ("mpeg2video", "vob"), ("mpeg4", "avi"), ("ffv1", "mkv")),
    ],
)
def test_codecs_that_people_have(codec: str, suffix: str, tmp_path: Path) -> None:
    path = write_clip(tmp_path / f"clip.{suffix}", [grey(n) for n in NUMBERS], codec=codec)
    expected = sample_positions(50, 8).tolist()
    assert frame_numbers(read_frames(path, 8)) == pytest.approx(expected, abs=1)


def test_cover_picture_is_not_the_video(tmp_path: Path) -> None:
    path = tmp_path / "cover.mp4"
    with av.open(str(path), "w") as container:
        sound, cover = container.add_stream("aac", rate=8000), container.add_stream("mjpeg")
        cover.width, cover.height, cover.pix_fmt = 64, 48, "yuvj420p"
        cover.disposition = Disposition.attached_pic
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), "fltp", "mono")
        silence.sample_rate = 8000
        container.mux(sound.encode(silence) + sound.encode())
        picture = av.VideoFrame.from_ndarray(grey(9), "rgb24").reformat(format="yuvj420p")
        container.mux(cover.encode(picture) + cover.encode())
    with pytest.raises(UnreadableClip, match="only a cover picture"):
        read_frames(path, 16)


@pytest.mark.parametrize(
    "content",
    [
        b"ffconcat version 1.0\nfile clip.mp4\n",
        b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nclip.mp4\n#EXT-X-ENDLIST\n",
    ],
)
def test_playlist_is_not_followed(content: bytes, tmp_path: Path) -> None:
    write_clip(tmp_path / "clip.mp4", [grey(n) for n in range(5)])
    (tmp_path / "list.mp4").write_bytes(content)
    with pytest.raises(UnreadableClip, match="not a video"):
        read_frames(tmp_path / "list.mp4", 4)


def test_picture_is_no_clip(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), grey(9))
    with pytest.raises(UnreadableClip, match="not a video"):
        read_frames((tmp_path / "a.png").rename(tmp_path / "picture.mp4"), 4)


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.mp4", "libx264", {"g": "12", "bf": "3"}),
        ("a.mp4", "libx264", {"g": "250", "bf": "3"}),  # no keyframe but the first
        ("a.mkv", "libx264", {"g": "12"}),
        ("a.ts", "libx264", {"g": "12", "bf": "2"}),
        ("a.avi", "mpeg4", {"g": "12"}),
        ("a.mpg", "mpeg2video", {"g": "12", "bf": "2"}),
        ("a.flv", "flv1", {"g": "12"}),
        ("a.h264", "libx264", {"g": "12"}),  # without times
    ],
)
@pytest.mark.parametrize(
    ("segment", "numbers"),
    [
        (Segment(0.0, 1.0), [0, 6, 12, 18, 24]),
        (Segment(1.0, 2.0), [25, 31, 37, 43, 49]),
        (Segment(1.4, 1.6), [35, 36, 37, 38, 39]),
        (Segment(1.08, 1.16), [27, 27, 27, 28, 28]),  # two frames
        (Segment(2.0, None), [50, 52, 54, 57, 59]),
        (Segment(2.0, 99.0), [50, 52, 54, 57, 59]),
    ],
)
def test_frames_of_a_segment(
    tmp_path: Path,
    name: str,
    codec: str,
    options: dict[str, str],
    segment: Segment,
    numbers: list[int],
) -> None:
    images = [grey(number) for number in range(60)]
    path = write_clip(tmp_path / name, images, codec=codec, options=options)
    frames, info = read_clip(path, 5, segment)
    loss = 0 if codec == "libx264" else 1  # grey levels are rounded
    assert frame_numbers(frames) == pytest.approx(numbers, abs=loss)
    assert info.share == 1
    assert info.frames == round(25 * (min(segment.end or 9, 2.4) - segment.start))


@pytest.mark.parametrize("name", ["a.mp4", "a.h264"])
def test_segment_without_frames_is_unreadable(tmp_path: Path, name: str) -> None:
    path = write_clip(tmp_path / name, [grey(number) for number in range(10)])
    with pytest.raises(UnreadableClip, match="no frame of it is in its segment #t=7,8"):
        read_clip(path, 4, Segment(7.0, 8.0))
