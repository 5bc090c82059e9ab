import random
from pathlib import Path

import numpy as np
import pytest

from benchmarks.fuzz_clips import (
    MUTATIONS,
    Mutation,
    colours_of_unwritten_memory,
    is_unwritten_memory,
    mutate,
    originals,
    write_at,
)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return originals(None, tmp_path_factory.mktemp("originals"))


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_mutations_change_a_clip_and_depend_on_the_seed_alone(
    mutation: Mutation, clips: list[Path]
) -> None:
    data = clips[0].read_bytes()
    seeds = range(5)  # a mutation may leave a clip as it is now and then
    first, again = (
        [bytes(mutation(bytearray(data), random.Random(seed))) for seed in seeds] for _ in range(2)
    )
    assert first == again
    assert any(mutated != data for mutated in first)


def test_file_names_have_the_mutations(clips: list[Path], tmp_path: Path) -> None:
    mutated = mutate(clips, len(MUTATIONS), 0, tmp_path / "mutated")
    for path, mutation in zip(mutated, MUTATIONS, strict=True):
        assert path.exists()
        assert path.stem.split("_", 1)[1].split("+")[0] == mutation.__name__


@pytest.mark.parametrize(
    ("offset", "expected"),
    [(0, b"\0\0\0\7data"), (4, b"some\0\0\0\7"), (5, b"somedata"), (-1, b"somedata")],
)
def test_numbers_are_written_only_within_the_data(offset: int, expected: bytes) -> None:
    assert bytes(write_at(bytearray(b"somedata"), offset, ">I", 7)) == expected


def test_unwritten_memory_is_recognized_in_a_frame() -> None:
    image = np.random.default_rng(0).integers(0, 255, (224, 224, 3), np.uint8)
    colours = colours_of_unwritten_memory()
    assert not is_unwritten_memory(image, colours)
    for colour in colours:
        below = image.copy()
        below[200:] = colour  # as where a slice was lost
        assert is_unwritten_memory(below, colours)
