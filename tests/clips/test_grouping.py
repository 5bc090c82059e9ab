from pathlib import Path

import numpy as np
import pytest

from violence_detection.clips.clip import Clip
from violence_detection.clips.dataset import find_clips
from violence_detection.clips.frames import read_frames
from violence_detection.clips.grouping import LOOK_VALUES, Proposal, looks_of, propose_groups
from violence_detection.clips.streams import thumbnails

FRAMES = 8
UNNAMED = "abcdefghijklmnopqrstuvwxyz"


def scene(seed: int) -> np.ndarray:
    """Return a background of its own colours, `(8, 8, 3)`."""
    random = np.random.default_rng(seed)
    corner, size = random.integers(0, 200, 3), random.integers(20, 56, 3)
    return corner + size * random.random((8, 8, 3))


def look(seed: int, clip: int = 0) -> np.ndarray:
    """Return the look of a clip in front of a scene: something moves through it."""
    frames = np.repeat(scene(seed)[np.newaxis], FRAMES, axis=0)
    random = np.random.default_rng(1000 * seed + clip)
    row = random.integers(8)
    for number, frame in enumerate(frames):
        frame[row, number] = random.integers(0, 255, 3)
    return looks_of(frames.reshape(1, FRAMES, -1))[0]


def clips_of(files: list[str]) -> list[Clip]:
    return [Clip(Path("/"), file, int(file.startswith("violent/")), "train") for file in files]


def grouped(proposal: Proposal) -> set[frozenset[str]]:
    return {frozenset(clip.file for clip in clips) for clips in proposal.groups.values()}


def two_classes(count: int, name: str = "{}") -> list[str]:
    """Return the names of clips, every other one violent."""
    classes = ("violent", "nonviolent")
    return [f"{classes[i % 2]}/{name.format(UNNAMED[i // 2])}.mp4" for i in range(count)]


def test_clips_in_front_of_one_background_are_a_group() -> None:
    clips = clips_of(two_classes(16))
    sources = [index // 2 for index in range(16)]
    looks = np.stack([look(source, index) for index, source in enumerate(sources)])
    proposal = propose_groups(clips, looks)
    expected = {frozenset(clip.file for clip in clips[i : i + 2]) for i in range(0, 16, 2)}
    assert grouped(proposal) == expected
    assert not proposal.by_name


def test_clips_in_front_of_different_backgrounds_are_no_groups() -> None:
    clips = clips_of(two_classes(20))
    assert not propose_groups(clips, np.stack([look(seed) for seed in range(20)])).groups


@pytest.mark.parametrize("count", [1, 2, 3, 24])
def test_clips_that_are_all_alike_are_not_clear(count: int) -> None:
    clips = clips_of(two_classes(count))
    assert not propose_groups(clips, np.stack([look(0, index) for index in range(count)])).groups


def test_clips_without_any_difference_are_not_clear() -> None:
    black = looks_of(np.zeros((12, FRAMES, 192)))
    assert not propose_groups(clips_of(two_classes(12)), black).groups


def test_small_differences_in_one_place_are_not_clear(drawn_clips: Path) -> None:
    """All clips that are drawn show a grey wall and two figures."""
    clips = find_clips(drawn_clips, seed=0)
    looks = [looks_of(thumbnails(read_frames(drawn_clips / c.file, 4)[np.newaxis])) for c in clips]
    assert not propose_groups(clips, np.concatenate(looks)).groups


def test_order_of_the_clips_does_not_matter() -> None:
    clips = clips_of(two_classes(16))
    looks = np.stack([look(index // 4, index) for index in range(16)])
    order = np.random.default_rng(0).permutation(16)
    again = propose_groups([clips[i] for i in order], looks[order])
    assert again.group_of == propose_groups(clips, looks).group_of


@pytest.mark.parametrize(
    ("names", "group"),
    [
        (["cam3_001", "cam3_002"], "cam3"),
        (["street-7-02", "street-7-11"], "street-7"),
        (["v12_clip1", "v12_clip02"], "v12"),
        (["cam3/001", "cam3/002"], "cam3"),
    ],
)
def test_names_with_a_source_and_a_number_are_a_group(names: list[str], group: str) -> None:
    files = [f"violent/{names[0]}.mp4", f"nonviolent/{names[1]}.avi", *two_classes(12)]
    looks = np.stack([look(seed) for seed in range(14)])
    proposal = propose_groups(clips_of(files), looks)
    assert {name: [clip.file for clip in of] for name, of in proposal.by_name.items()} == {
        group: sorted(files[:2])
    }


@pytest.mark.parametrize("name", ["fi{:03d}", "{:03d}", "violent_{:03d}", "V_{}"])
def test_numbers_alone_are_no_source(name: str) -> None:
    files = [
        f"{kind}/{prefix}{name.format(number)}.mp4"
        for kind, prefix in (("violent", ""), ("nonviolent", "no"))
        for number in range(12)
    ]
    assert not propose_groups(clips_of(files), np.stack([look(s) for s in range(24)])).groups


def test_name_of_an_action_is_no_source() -> None:
    files = [f"violent/{action}_{n}.mp4" for action in ("kick", "hit", "push") for n in range(3)]
    files += [f"nonviolent/{UNNAMED[n]}.mp4" for n in range(9)]
    different = np.stack([look(seed) for seed in range(18)])
    assert not propose_groups(clips_of(files), different).groups
    same_place = np.stack([look(min(i // 3, 3) if i < 9 else i, i) for i in range(18)])
    assert sorted(propose_groups(clips_of(files), same_place).by_name) == ["hit", "kick", "push"]


def test_neighbours_need_to_be_less_alike_where_numbers_follow_sources() -> None:
    random = np.random.default_rng(0)

    def views(order: np.ndarray) -> Proposal:
        """Propose for 20 sources of 4 clips, alike but not equal, numbered in an order."""
        files = [f"{('violent', 'nonviolent')[i % 2]}/fi{order[i]:03d}.mp4" for i in range(80)]
        looks = []
        for index in range(80):
            frames = np.repeat(scene(index // 4)[np.newaxis], FRAMES, axis=0)
            frames[:, 0, :4] = scene(100 + index)[0, :4]  # a part of the picture differs
            looks.append(looks_of(frames.reshape(1, FRAMES, -1))[0])
        return propose_groups(clips_of(files), np.stack(looks))

    in_order, shuffled = views(np.arange(80)), views(random.permutation(80))
    assert len(in_order.group_of) > len(shuffled.group_of)


def test_clip_that_cannot_be_read_is_on_its_own() -> None:
    clips = clips_of(two_classes(8))
    looks = np.stack([look(index // 2, index) for index in range(8)])
    looks[:2] = 0
    assert {clip.name for clip in clips[:2]}.isdisjoint(propose_groups(clips, looks).group_of)


def test_without_pictures_names_decide() -> None:
    files = ["violent/cam1_1.mp4", "nonviolent/cam1_2.mp4", *two_classes(10)]
    proposal = propose_groups(clips_of(files), None)
    assert list(proposal.groups) == ["cam1"]
    assert proposal.not_compared == 10


def test_looks_are_of_length_1_whatever_the_number_of_frames() -> None:
    thumbnails = np.random.default_rng(0).integers(0, 256, (2, 1, 192))
    looks = looks_of(thumbnails)
    assert looks.shape == (2, LOOK_VALUES)
    np.testing.assert_allclose((looks**2).sum(axis=1), 2, rtol=1e-5)
