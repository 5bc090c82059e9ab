"""What an exported network is given: named arrays whose first dimension is clips."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

Inputs = Mapping[str, np.ndarray]  # by the names of the network's inputs


def join(clips: Sequence[Inputs], batch_size: int) -> dict[str, np.ndarray]:
    """Return one batch of clips.

    Args:
        clips: one clip each, at least one and at most `batch_size`.
        batch_size: if there are fewer clips, the last one is repeated.

    Returns:
        Arrays `(batch_size, …)` by the names and in the dtypes of the inputs.
    """
    padded = [*clips, *[clips[-1]] * (batch_size - len(clips))]
    return {name: np.concatenate([clip[name] for clip in padded]) for name in clips[0]}


def batches(clips: Sequence[Inputs], batch_size: int) -> Iterator[dict[str, np.ndarray]]:
    """Yield all clips in full batches; the last one is padded as by `join`."""
    for first in range(0, len(clips), batch_size):
        yield join(clips[first : first + batch_size], batch_size)
