from itertools import chain
from pathlib import Path

import pytest

from tests.clips.videos import RATE, grey, write_clip
from violence_detection.clips.packets import PacketIndex, in_runs, index_packets
from violence_detection.clips.video import open_video


def index_of(stamps: str) -> PacketIndex:
    """Return an index of packets such as "K0 2 1": K is a keyframe."""
    pairs = [(int(stamp.strip("K")), stamp.startswith("K")) for stamp in stamps.split()]
    shown = sorted(pts for pts, _ in pairs)
    return PacketIndex(pairs, shown, [pts / 25 for pts in shown], None)


@pytest.mark.parametrize(
    ("stamps", "needed", "runs"),
    [
        ("K0 1 2 K3 4 5 K6 7 8", {4}, [range(3, 5)]),
        ("K0 1 2 K3 4 5 K6 7 8", {0, 7}, [range(1), range(6, 8)]),
        ("K0 1 2 K3 4 5 K6 7 8", {1, 2, 3}, [range(4)]),  # frames 2 and 3 are neighbours
        ("K0 2 1 K5 3 4 6", {6}, [range(3, 7)]),
        ("K0 2 1 K5 3 4 6", {4}, [range(6)]),  # shown before the keyframe that it follows
        ("0 1 K2 3", {1}, [range(2)]),  # the file begins without a keyframe
    ],
)
def test_packets_from_the_keyframe_before_are_decoded(
    stamps: str, needed: set[int], runs: list[range]
) -> None:
    assert index_of(stamps).runs(needed) == runs


def test_runs_take_their_packets_in_order() -> None:
    packets = iter(range(10))
    assert [list(run) for run in in_runs(packets, [range(1, 3), range(6, 8)])] == [[1, 2], [6, 7]]


@pytest.mark.parametrize(
    ("times", "good"),
    [([0, 0.04, 0.08], True), ([0, 0.04, 0.04], False), ([0, 0.04, 3600], False)],
)
def test_times_must_differ_and_not_jump(times: list[float], good: bool) -> None:
    shown = [round(1000 * time) for time in times]
    index = PacketIndex([(pts, True) for pts in shown], shown, times, None)
    assert index.has_times(longest_pause=60.0) == good


def test_index_has_every_frame_in_the_order_shown(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", [grey(n) for n in range(30)], options={"bf": "3"})
    with open_video(path) as video:
        index = index_packets(video)
    assert index.times == pytest.approx([n / RATE for n in range(30)])
    assert [pts for pts, _ in index.stamps] != index.shown  # frames are stored in another order
    assert len(list(chain(index.held or []))) == 30
