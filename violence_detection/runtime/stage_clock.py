"""How long each stage of a run takes, and which one keeps the GPUs waiting."""

import time
from collections.abc import Callable, Mapping

WELL_USED = 70.0  # mean GPU utilization in percent, below which the bottleneck is reported

START, FRAMES, NETWORK, CHECKS = "start", "waiting for frames", "VGG19", "checks"
TRAINING, VALIDATION, WRITING, TEST = "training", "validation", "checkpoints and logs", "test"
BATCHES = "waiting for batches"  # within TRAINING
STEP = "the training step"  # the rest of it

REMEDIES = {
    FRAMES: "decoding is too slow: use more CPU cores, a faster disk, or smaller videos",
    BATCHES: "reading features is too slow: put --cache-dir on a faster disk, add memory, or "
    "use fewer kinds of --augment",
    STEP: "the steps are too small: use a larger --batch-size, or --xla",
    VALIDATION: "validation takes long: use fewer validation clips, or a larger --batch-size",
    WRITING: "writing takes long: put --checkpoint-dir on a faster disk",
}


class StageClock:
    """Adds up seconds by stage; a stage lasts until the next one begins.

    Args:
        clock: returns seconds, and never runs backwards.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter):
        self.clock = clock
        self._seconds: dict[str, float] = {}
        self._stage = START
        self._since = clock()

    def begin(self, stage: str) -> None:
        """End the current stage and begin or resume another."""
        now = self.clock()
        self._seconds[self._stage] = self._seconds.get(self._stage, 0.0) + now - self._since
        self._stage, self._since = stage, now

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds that each stage has taken so far."""
        self.begin(self._stage)
        return dict(self._seconds)


def bottleneck(
    utilization: float | None, seconds: Mapping[str, float], starved: float = 0.0
) -> str | None:
    """Return which stage keeps the GPUs waiting, its share of the time, and a remedy.

    Args:
        utilization: mean of the GPUs in percent; None: unknown.
        seconds: taken by each stage in that time.
        starved: the share of TRAINING in which no batch was ready, 0 to 1.

    Returns:
        One line; None if the GPUs are well used or their utilization is unknown.
    """
    if utilization is None or utilization >= WELL_USED:
        return None
    waits = {stage: seconds.get(stage, 0.0) for stage in (FRAMES, VALIDATION, WRITING)}
    training = seconds.get(TRAINING, 0.0)
    waits[BATCHES] = training * starved
    # A step that gets its batch in time and still leaves the GPU idle is itself the reason.
    waits[STEP] = training * (1 - starved) * (1 - utilization / 100)
    stage = max(waits, key=lambda name: waits[name])
    share = waits[stage] / max(sum(seconds.values()), 1e-9)
    return f"{stage}, {100 * share:.0f} % of that time; {REMEDIES[stage]}"
