from pathlib import Path

import pytest

from benchmarks.index_scale import (
    draw_cache,
    fingerprint,
    index_table,
    list_clips,
    look_up,
    open_cache,
    shuffle,
    store_one,
)

CLIPS = 400
MEASUREMENTS = (open_cache, look_up, fingerprint, store_one, shuffle, list_clips)


@pytest.mark.parametrize("parts", [1, 3])
def test_every_stage_is_measured_on_a_cache_of_one_or_several_parts(
    parts: int, tmp_path: Path
) -> None:
    draw_cache(tmp_path, CLIPS, parts)
    report = {"clips": CLIPS, "parts": parts}
    for measure in MEASUREMENTS:
        figures = measure(tmp_path, CLIPS)
        assert figures["seconds"] > 0
        report[measure.__name__] = figures | {"peak_megabytes": 1234}
    table = index_table(report)
    assert f"400 clips in {parts} part" in table.title
    assert {row[-1] for row in table.rows} == {"1,234"}
