import dataclasses
import logging
from pathlib import Path

import pytest

from tests.conftest import opened_cache
from violence_detection.features.cache.feature_cache import Recipe
from violence_detection.features.prepare import log_earlier_features

RECIPE = Recipe(4, "block1_pool", "random-0", 8, "float32")


def test_features_of_an_earlier_version_are_told_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    before = dataclasses.replace(RECIPE, format=RECIPE.format - 1)
    (tmp_path / f"{before.key}.index").touch()
    with opened_cache(tmp_path, RECIPE) as cache:
        log_earlier_features([cache])
        assert "has features of an earlier version" in caplog.text
        assert f"its {before.key}.* can be deleted" in caplog.text
        caplog.clear()
        cache.store([b"one"], [[[0.0] * 8] * 4])
        log_earlier_features([cache])
    assert not caplog.text
