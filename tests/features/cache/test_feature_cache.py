import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import ROOT, opened_cache
from violence_detection.errors import RunError
from violence_detection.features.cache.feature_cache import LAYERS, ClipFacts, FeatureCache, Recipe
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
        assert flow.row_of(b"one") is None
        np.testing.assert_array_equal(rgb.rows().read([rgb.row_of(b"two")]), features(2))
        np.testing.assert_array_equal(flow.rows().read([flow.row_of(b"two")]), features(3))


def test_parts_are_read_as_one_and_the_newest_row_counts(tmp_path: Path) -> None:
    """Two processes write at once; what one has begun before the other is seen by a third."""
    with opened_cache(tmp_path, RECIPE) as one, opened_cache(tmp_path, RECIPE) as other:
        one.store([b"one", b"both"], features(1, 2))
        other.store([b"other", b"both"], features(3, 4))
        assert [one.row_of(clip) is None for clip in (b"one", b"other")] == [False, True]
    with opened_cache(tmp_path, RECIPE) as cache:
        rows = cache.rows_of([b"one", b"other", b"both"]).tolist()
        np.testing.assert_array_equal(cache.rows().read(rows), features(1, 3, 4))
        assert cache.fingerprint(rows) == cache.fingerprint(rows)
        cache.drop([rows[0]])
        assert cache.row_of(b"one") is None
        cache.store([b"one"], features(9))
        np.testing.assert_array_equal(cache.rows().read([cache.row_of(b"one")]), features(9))
    with opened_cache(tmp_path, RECIPE) as again:
        np.testing.assert_array_equal(again.rows().read([again.row_of(b"one")]), features(9))


def test_what_a_killed_process_had_not_completed_is_not_there(tmp_path: Path) -> None:
    filled(tmp_path, b"one")
    writing = (
        "import os, sys; from pathlib import Path; import numpy as np\n"
        "from tests.conftest import opened_cache\n"
        "from tests.features.cache.test_feature_cache import RECIPE, features\n"
        "with opened_cache(Path(sys.argv[1]), RECIPE) as cache:\n"
        "    cache.store([b'two'], features(5)); cache.commit()\n"
        "    cache.store([b'three'], features(7)); os._exit(9)"
    )
    done = subprocess.run([sys.executable, "-c", writing, str(tmp_path)], cwd=ROOT)
    assert done.returncode == 9
    with opened_cache(tmp_path, RECIPE) as cache:
        assert [cache.row_of(clip) is None for clip in (b"one", b"two", b"three")] == [
            *(False, False, True)
        ]


@pytest.mark.parametrize("suffix", [".rows", ".keys"])
@pytest.mark.parametrize("left", [64, 100, 4100])
def test_part_that_is_cut_short_is_not_used(tmp_path: Path, suffix: str, left: int) -> None:
    """Of rows that are cut, those that are left are."""
    filled(tmp_path, *(bytes([n + 1]) for n in range(80)))
    (path,) = tmp_path.glob(f"{RECIPE.key}/*{suffix}")
    os.truncate(path, left)
    with opened_cache(tmp_path, RECIPE) as cache:
        rows = cache.rows_of([bytes([n + 1]) for n in range(80)])
        if suffix == ".keys":
            assert (rows < 0).all()
            return
        whole = left // 64
        np.testing.assert_array_equal(
            cache.rows().read(rows[:whole].tolist()), features(*range(whole))
        )
        with pytest.raises(RunError, match=f"lost row {whole}"):
            cache.rows().read([int(rows[whole])])


def test_rows_that_are_read_do_not_stay_in_memory(tmp_path: Path) -> None:
    """A memory map's pages would count as the process's own: after an epoch, the whole cache."""
    filled(tmp_path, b"one", b"two")
    with opened_cache(tmp_path, RECIPE) as cache:
        rows = cache.rows()
        rows.read(cache.rows_of([b"one", b"two"]).tolist())
        assert str(tmp_path) not in Path("/proc/self/maps").read_text()


def test_rows_stay_readable_for_a_run_whatever_becomes_of_the_files(tmp_path: Path) -> None:
    filled(tmp_path, b"one", b"two")
    with opened_cache(tmp_path, RECIPE) as cache:
        rows, numbers = cache.rows(), cache.rows_of([b"one", b"two"]).tolist()
    shutil.rmtree(tmp_path / RECIPE.key)
    np.testing.assert_array_equal(rows.read(numbers), features(0, 1))


def test_many_parts_are_merged_while_they_are_written(tmp_path: Path) -> None:
    clips = [bytes([n + 1]) for n in range(LAYERS + 9)]
    with opened_cache(tmp_path, RECIPE) as cache:
        for number, clip in enumerate(clips):
            cache.store([clip], features(number))
            cache.commit()
        rows = cache.rows_of(clips).tolist()
        np.testing.assert_array_equal(cache.rows().read(rows), features(*range(len(clips))))
        assert None not in cache.checksums_of(rows)
    assert len(list((tmp_path / RECIPE.key).glob("*.keys"))) < LAYERS
    with opened_cache(tmp_path, RECIPE) as again:
        rows = again.rows_of(clips).tolist()
        np.testing.assert_array_equal(again.rows().read(rows), features(*range(len(clips))))


def test_what_was_found_out_about_clips_is_kept(tmp_path: Path) -> None:
    facts = [ClipFacts(seconds=2.5, share=0.75), ClipFacts()]
    with opened_cache(tmp_path, RECIPE) as cache:
        cache.store([b"one", b"two"], features(0, 1), facts)
    with opened_cache(tmp_path, RECIPE) as cache:
        rows = [cache.row_of(b"two"), cache.row_of(b"one"), -1]
        seconds, shares = cache.facts_of(rows)
    np.testing.assert_array_equal(seconds, [np.nan, 2.5, np.nan])
    np.testing.assert_array_equal(shares, [1, 0.75, 1])
