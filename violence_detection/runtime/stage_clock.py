"""Where a run's time goes, and what keeps a GPU waiting."""

import time
from collections.abc import Callable, Mapping

WELL_USED = 70.0  # percent of the time that a GPU computes; below it, what holds it up is named

START, FRAMES, NETWORK = "start", "waiting for frames", "VGG19"
TRAINING, VALIDATION, WRITING, TEST = "training", "validation", "checkpoints and logs", "test"

# What holds a GPU up, and what helps.
HINTS = {
    FRAMES: "decoding does not keep up: more CPU cores, a faster disk, or clips of fewer pixels",
    "batches": "features are not read fast enough: put --cache-dir on a faster disk, give the "
    "machine more memory, or take fewer of --augment",
    TRAINING: "its steps are too small: a larger --batch-size, or --xla",
    VALIDATION: "validation takes its time: fewer validation clips, or a larger --batch-size",
    WRITING: "checkpoints and logs take their time: put --checkpoint-dir on a faster disk",
}


class StageClock:
    """Counts seconds by stage: each lasts until the next begins.

    Args:
        clock: tells the seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter):
        self.clock = clock
        self._seconds: dict[str, float] = {}
        self._stage = START
        self._since = clock()

    def begin(self, stage: str) -> None:
        """End the stage before, and begin one; it may have been there earlier."""
        now = self.clock()
        self._seconds[self._stage] = self._seconds.get(self._stage, 0.0) + now - self._since
        self._stage, self._since = stage, now

    @property
    def seconds(self) -> dict[str, float]:
        """What each stage has taken so far."""
        self.begin(self._stage)
        return dict(self._seconds)


def bottleneck(
    utilization: float | None, seconds: Mapping[str, float], starved: float = 0.0
) -> str | None:
    """Return the stage that keeps a GPU waiting, and what helps; None if it is well used.

    Args:
        utilization: percent of the time that the GPUs have computed; None: not known.
        seconds: that each stage took meanwhile.
        starved: the share of training in which no batch was ready.
    """
    if utilization is None or utilization >= WELL_USED:
        return None
    waits = {stage: seconds.get(stage, 0.0) for stage in (FRAMES, VALIDATION, WRITING)}
    training = seconds.get(TRAINING, 0.0)
    waits |= {"batches": training * starved}
    # A step that is fed in time and still leaves the GPU idle does so by itself.
    waits |= {TRAINING: training * (1 - starved) * (1 - utilization / 100)}
    stage = max(waits, key=lambda name: waits[name])
    share = waits[stage] / max(sum(seconds.values()), 1e-9)
    named = {"batches": "waiting for batches", TRAINING: "the training step"}.get(stage, stage)
    return f"{named}, {100 * share:.0f} % of that time; {HINTS[stage]}"
