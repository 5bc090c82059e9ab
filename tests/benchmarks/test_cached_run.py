from pathlib import Path

import pytest

from benchmarks.cached_run import FIRST_STEP, cached_dataset, start_training


@pytest.mark.slow
def test_cached_dataset_is_trained_on_without_decoding(tmp_path: Path) -> None:
    output, _ = start_training(cached_dataset(tmp_path, 40), tmp_path).communicate()
    assert FIRST_STEP in output
    assert (tmp_path / "run" / "training_results.json").exists(), output
