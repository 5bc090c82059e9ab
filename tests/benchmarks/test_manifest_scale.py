from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks.manifest_scale import read_and_split, segments, whole_videos
from violence_detection.clips.manifest import ManifestRow, write_manifest


@pytest.mark.parametrize("rows", [whole_videos, segments])
def test_each_kind_of_row_is_read(
    rows: Callable[[Path, int], Iterator[ManifestRow]], tmp_path: Path
) -> None:
    write_manifest(rows(tmp_path, 3500), tmp_path / "clips.csv")
    assert read_and_split(tmp_path / "clips.csv", 3500)["seconds"] > 0
