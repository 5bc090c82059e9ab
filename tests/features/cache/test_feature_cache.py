import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import opened_cache
from violence_detection.errors import RunError
from violence_detection.features.cache.feature_cache import ClipFacts, FeatureCache, Recipe
from violence_detection.features.cache.folder import FORMAT, CacheFolder

RECIPE = Recipe(frames=4, layer="fc2", weights="md5-0", features=8, dtype="float16")


def features(*values: float) -> np.ndarray:
    return np.stack([np.full((4, 8), value, np.float32) for value in values])


def filled(folder: Path, *clips: bytes) -> None:
    with opened_cache(folder, RECIPE) as cache:
        cache.store(clips, features(*range(len(clips))))


def test_stored_features_are_found_again(tmp_path: Path) -> None:
    filled(tmp_path / "a" / "cache", b"one", b"two")
    with opened_cache(tmp_path / "a" / "cache", RECIPE) as cache:
        found = cache.rows().read([cache.row_of(b"two"), -1, cache.row_of(b"one")])
        assert found.dtype == np.float16
        np.testing.assert_array_equal(found, features(1, 0, 0))
        assert cache.row_of(b"three") is None


@pytest.mark.parametrize(
    "change",
    [
        {"frames": 5},
        {"layer": "fc1"},
        {"weights": "md5-1"},
        {"dtype": "float32"},
        {"frame_size": 96},
        {"stream": "flow"},
        {"flipped": True},
    ],
)
def test_every_field_of_the_recipe_counts(tmp_path: Path, change: dict) -> None:
    filled(tmp_path, b"one")
    with opened_cache(tmp_path, dataclasses.replace(RECIPE, **change)) as other:
        assert other.row_of(b"one") is None
    with opened_cache(tmp_path, RECIPE) as cache:
        assert cache.row_of(b"one") is not None


def test_description_leaves_out_the_default_stream() -> None:
    fields = {"frames": 4, "layer": "fc2", "weights": "md5-0", "features": 8, "dtype": "float16"}
    fields |= {"frame_size": 224, "format": FORMAT}
    assert RECIPE.description == json.dumps(fields, sort_keys=True)


def test_recipes_share_a_folder(tmp_path: Path) -> None:
    flow_recipe = dataclasses.replace(RECIPE, stream="flow")
    with CacheFolder(tmp_path) as folder:
        rgb, flow = FeatureCache(folder, RECIPE), FeatureCache(folder, flow_recipe)
        rgb.store([b"one", b"two"], features(1, 2))
        flow.store([b"two"], features(3))
        rgb.commit()
        flow.commit()
    with CacheFolder(tmp_path) as folder:
        rgb, flow = FeatureCache(folder, RECIPE), FeatureCache(folder, flow_recipe)
        assert [flow.row_of(clip) for clip in (b"one", b"two")] == [None, 0]
        np.testing.assert_array_equal(rgb.rows().read([rgb.row_of(b"two")]), features(2))
        np.testing.assert_array_equal(flow.rows().read([0]), features(3))


@pytest.mark.parametrize("lost", [0, 1, 64, 100])
def test_unfinished_tail_is_dropped(tmp_path: Path, lost: int) -> None:
    filled(tmp_path, b"one", b"two", b"three")
    (rows_file,) = tmp_path.glob("*.features")
    os.truncate(rows_file, rows_file.stat().st_size - lost)
    kept = 3 - -(-lost // 64)
    with opened_cache(tmp_path, RECIPE) as cache:
        assert [cache.row_of(clip) for clip in (b"one", b"two", b"three")] == [
            row if row < kept else None for row in range(3)
        ]
        cache.store([b"four"], features(9))
    with opened_cache(tmp_path, RECIPE) as again:
        np.testing.assert_array_equal(again.rows().read([again.row_of(b"four")]), features(9))
        np.testing.assert_array_equal(again.rows().read([again.row_of(b"one")]), features(0))


def test_row_that_is_lost_while_it_is_needed_is_named(tmp_path: Path) -> None:
    filled(tmp_path, b"one", b"two")
    with opened_cache(tmp_path, RECIPE) as cache:
        rows = cache.rows()
    os.truncate(cache.path, 64 + 63)
    np.testing.assert_array_equal(rows.read([0]), features(0))
    with pytest.raises(RunError, match="row 1"):
        rows.read([0, 1])


def test_rows_that_are_read_do_not_stay_in_memory(tmp_path: Path) -> None:
    """A memory map's pages would count as the process's own: after an epoch, the whole cache."""
    filled(tmp_path, b"one", b"two")
    with opened_cache(tmp_path, RECIPE) as cache:
        rows = cache.rows()
        rows.read([0, 1])
        assert str(cache.path) not in Path("/proc/self/maps").read_text()


def test_rows_without_a_record_are_overwritten(tmp_path: Path) -> None:
    filled(tmp_path, b"one")
    (rows_file,) = tmp_path.glob("*.features")
    with rows_file.open("ab") as file:
        file.write(b"\x7f" * 100)  # a run was killed between the rows and the index
    with opened_cache(tmp_path, RECIPE) as cache:
        cache.store([b"two"], features(5))
    with opened_cache(tmp_path, RECIPE) as again:
        np.testing.assert_array_equal(again.rows().read([again.row_of(b"two")]), features(5))


def test_rows_whose_index_is_gone_stay_readable_for_a_run_that_has_them(tmp_path: Path) -> None:
    """One run trains on them while another, which found no index, computes them again."""
    filled(tmp_path, b"one", b"two")
    with opened_cache(tmp_path, RECIPE) as training:
        rows = training.rows()
    for index in tmp_path.glob("*.index"):
        index.unlink()
    with opened_cache(tmp_path, RECIPE) as cache:
        assert cache.row_of(b"one") is None
        cache.store([b"two"], features(9))
    np.testing.assert_array_equal(rows.read([0, 1]), features(0, 1))
    np.testing.assert_array_equal(cache.rows().read([0]), features(9))


def test_what_was_found_out_about_clips_is_kept(tmp_path: Path) -> None:
    facts = [ClipFacts(seconds=2.5, share=0.75), ClipFacts()]
    with opened_cache(tmp_path, RECIPE) as cache:
        cache.store([b"one", b"two"], features(0, 1), facts)
    with opened_cache(tmp_path, RECIPE) as cache:
        rows = [cache.row_of(b"two"), cache.row_of(b"one"), -1]
        seconds, shares = cache.facts_of(rows)
    np.testing.assert_array_equal(seconds, [np.nan, 2.5, np.nan])
    np.testing.assert_array_equal(shares, [1, 0.75, 1])
