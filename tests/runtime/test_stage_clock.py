import pytest

from violence_detection.runtime.stage_clock import (
    FRAMES,
    NETWORK,
    TRAINING,
    VALIDATION,
    WRITING,
    StageClock,
    bottleneck,
)


def test_every_second_counts_for_the_stage_begun_last() -> None:
    now = 0.0
    clock = StageClock(lambda: now)
    for seconds, stage in ((2, FRAMES), (3, NETWORK), (5, FRAMES), (7, TRAINING)):
        now += seconds
        clock.begin(stage)
    now += 11
    assert clock.seconds == {"start": 2, FRAMES: 3 + 7, NETWORK: 5, TRAINING: 11}
    now += 1
    assert clock.seconds[TRAINING] == 12


@pytest.mark.parametrize(
    ("utilization", "seconds", "starved", "named"),
    [
        (40.0, {FRAMES: 60, NETWORK: 40}, 0.0, "waiting for frames, 60 %; decoding"),
        (50.0, {TRAINING: 80, VALIDATION: 10, WRITING: 10}, 0.9, "waiting for batches, 72 %"),
        (50.0, {TRAINING: 80, VALIDATION: 10, WRITING: 10}, 0.0, "the training step, 40 %"),
        (50.0, {TRAINING: 40, VALIDATION: 50, WRITING: 10}, 0.1, "validation, 50 %"),
        (30.0, {TRAINING: 30, VALIDATION: 10, WRITING: 60}, 0.1, "checkpoints and logs, 60 %"),
    ],
)
def test_bottleneck_of_a_badly_used_gpu(
    utilization: float, seconds: dict[str, float], starved: float, named: str
) -> None:
    found = bottleneck(utilization, seconds, starved)
    assert found is not None
    stage, _, hint = named.partition("; ")
    assert found.startswith(stage + " of that time; ")
    assert hint in found


@pytest.mark.parametrize("utilization", [None, 70.0, 98.0])
def test_no_bottleneck_without_a_gpu_or_if_it_is_well_used(
    utilization: float | None,
) -> None:
    assert bottleneck(utilization, {FRAMES: 60, NETWORK: 40}) is None
