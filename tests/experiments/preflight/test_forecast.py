"""What follows from measured rates."""

import pytest

from violence_detection.experiments.preflight.forecast import (
    Rates,
    TrainingCost,
    describe_memory,
    forecast_rows,
)
from violence_detection.features.cache.feature_cache import Recipe

GIB = 2.0**30


@pytest.mark.parametrize(
    ("decoding", "both", "network", "on_gpu", "extraction", "bottleneck"),
    [
        (100, 80, 10, True, 10, "VGG19"),
        (100, 10, 50, True, 10, "streams"),
        (30, 20, 50, True, 20, "decoding"),
        (100, 10, 10, False, 5, "streams"),  # on the same cores, one after the other
    ],
)
def test_the_slowest_part_limits_extraction(
    decoding: float,
    both: float,
    network: float,
    on_gpu: bool,
    extraction: float,
    bottleneck: str,
) -> None:
    rates = Rates(decoding, both, network, 1000, on_gpu)
    assert rates.extraction == pytest.approx(extraction)
    assert rates.bottleneck == bottleneck


def test_forecast_is_for_the_whole_dataset() -> None:
    recipes = [Recipe(16, "fc2", "", 4096, "float16", stream=s) for s in ("rgb", "flow")]
    rows = dict(forecast_rows(Rates(100, 50, 20, 2000, True), recipes, 12_000, 8_000, 60))
    assert rows["until features are there"] == "10.0 minutes for 12,000 clips"
    assert rows["an epoch"] == "4.0 s for 8,000 clips"
    assert rows["the run"] == "14.0 minutes with 60 epochs, held up by VGG19"
    assert rows["cache"] == "3.15 GB"


def test_largest_batch_fills_a_gpu() -> None:
    """On two GPUs, 48 clips each take 0.2 GiB and 48 times 0.1 GiB."""
    cost = TrainingCost(1000, estimated=5.0 * GIB, of_clip=0.1 * GIB, peak=5.0 * GIB)
    largest = cost.largest_batch(32 * GIB, 96, 2)
    assert largest % 2 == 0
    assert 0.2 + 0.1 * largest / 2 == pytest.approx(0.9 * 32, rel=0.01)
    words = describe_memory(cost, 32 * GIB, 96, 2)
    assert words == (
        f"5.0 of 32.0 GiB of a GPU at --batch-size 96; the largest that fits: about {largest}"
    )
    assert "an estimate" in describe_memory(cost, None, 96, 2)
