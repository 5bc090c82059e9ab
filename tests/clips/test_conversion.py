from pathlib import Path

import numpy as np
import pytest

from tests.clips.videos import write_clip
from violence_detection.clips.conversion import is_turned, upright
from violence_detection.clips.frames import network_image, read_frames, sample_positions
from violence_detection.clips.video import frames_of, open_video

# The corners of a picture, as letters: top left, top right, bottom left, bottom right.
CORNERS = np.array([list("ab"), list("cd")])


@pytest.mark.parametrize(
    ("matrix", "shown"),
    [
        ((1, 0, 0, 1), "abcd"),
        ((0, 1, -1, 0), "cadb"),  # turned by 90 degrees, clockwise
        ((-1, 0, 0, -1), "dcba"),
        ((0, -1, 1, 0), "bdac"),
        ((-1, 0, 0, 1), "badc"),  # mirrored
        ((1, 0, 0, -1), "cdab"),
        ((0, 1, 1, 0), "acbd"),
        ((0, -1, -1, 0), "dbca"),
    ],
)
def test_picture_is_turned_and_mirrored_by_the_display_matrix(
    matrix: tuple[int, ...], shown: str
) -> None:
    image = np.repeat(CORNERS[..., None], 3, axis=2)
    turned = upright(image, np.reshape(matrix, (2, 2)))
    assert "".join(turned[..., 0].ravel()) == shown
    assert is_turned(np.reshape(matrix, (2, 2))) == (matrix[0] == 0)


def moving_bar(number: int) -> np.ndarray:
    """Return a picture whose two fields were taken at different times: a bar moves."""
    image = np.full((96, 128, 3), 40, np.uint8)
    for field in (0, 1):
        left = 8 + 6 * (2 * number + field) % 96
        image[field::2, left : left + 16] = 220
    return image


@pytest.mark.parametrize(
    ("codec", "suffix", "options"),
    [("libx264", "mp4", {"bf": "3", "qp": "5"}), ("mpeg2video", "mkv", {"qscale": "2"})],
)
def test_sampled_frames_are_deinterlaced_as_in_the_whole_video(
    codec: str, suffix: str, options: dict[str, str], tmp_path: Path
) -> None:
    images = [moving_bar(number) for number in range(40)]
    options = {**options, "flags": "+ildct+ilme", "g": "6"}
    path = write_clip(
        tmp_path / f"clip.{suffix}", images, codec=codec, options=options, fields="tff"
    )
    whole = [network_image(frame.retrieve()) for frame in frames_of(open_video(path), 25.0)]
    expected = [whole[position] for position in sample_positions(len(whole), 16)]
    np.testing.assert_array_equal(read_frames(path, 16), expected)


def comb(image: np.ndarray) -> float:
    """Return how much the lines of a picture differ from those next to them."""
    return float(np.abs(np.diff(image.astype(int), axis=0)).mean())


@pytest.mark.parametrize(
    ("codec", "suffix", "options"),
    [
        ("libx264", "mp4", {"flags": "+ildct+ilme", "qp": "5"}),
        ("mpeg2video", "mpg", {"flags": "+ildct+ilme", "qscale": "2"}),
    ],
)
def test_interlaced_frames_have_no_combs(
    codec: str, suffix: str, options: dict[str, str], tmp_path: Path
) -> None:
    images = [moving_bar(number) for number in range(12)]
    found = {}
    for fields in ("", "tff"):  # without the mark, the same picture is taken as it is
        path = write_clip(
            tmp_path / f"{fields or 'progressive'}.{suffix}",
            images,
            codec=codec,
            options=options if fields else {k: v for k, v in options.items() if k != "flags"},
            fields=fields,
        )
        with open_video(path) as video:
            found[fields] = [video.picture(d) for d in video.decoded(video.packets())]
    assert len(found["tff"]) == len(images)
    for plain, smooth in zip(found[""], found["tff"], strict=True):
        assert smooth.shape == plain.shape
        assert comb(smooth) < 0.5 * comb(plain)
        assert abs(smooth.mean() - plain.mean()) < 8
