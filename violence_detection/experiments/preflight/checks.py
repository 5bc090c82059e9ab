"""A check and its line in the table."""

import textwrap
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from violence_detection.clips.video import UnreadableClip
from violence_detection.errors import RunError, UserError
from violence_detection.runtime.wording import COLUMNS

PASSED, FAILED, SKIPPED = "passed", "FAILED", "skipped"
STATE_WIDTH, NAME_WIDTH = 8, 27  # columns
# What a device, a library, a clip or a disk may end with.
FAILURES = (
    *(UserError, RunError, UnreadableClip, tf.errors.OpError),
    *(OSError, MemoryError, ValueError, RuntimeError),
)
LONGEST_ERROR = 400  # characters of TensorFlow's own

# Relative differences that rounding explains, and six times of that: on the CPU, float16 moves fc2
# of real frames by 1.7e-3 and bfloat16 by 1.1e-2, a classifier's gradients by 2.7e-3 in float16.
# GPUs round the factors of float32 products to as many bits as float16 has.
TENSOR_FLOAT = "TensorFloat-32"
TOLERANCES = {"float32": 1e-4, TENSOR_FLOAT: 1e-2, "float16": 1e-2, "bfloat16": 8e-2}


@dataclass(frozen=True)
class Check:
    """What was checked, and what came out.

    Args:
        name: of the check.
        state: `PASSED`, `FAILED` or `SKIPPED`.
        detail: what was found; of a failure with the way out, of a skipped check the reason.
    """

    name: str
    state: str
    detail: str


def as_row(state: str, name: str, detail: str) -> str:
    """Return a row of the table: its last column is wrapped, below itself."""
    before = f"{state:<{STATE_WIDTH}}{name:<{NAME_WIDTH}}"
    width = COLUMNS - STATE_WIDTH - NAME_WIDTH
    lines = textwrap.wrap(detail, width, break_on_hyphens=False) or [""]
    return "\n".join(
        [before + lines[0], *(" " * len(before) + line for line in lines[1:])]
    ).rstrip()


def attempted(name: str, check: Callable[[], Iterable[Check]]) -> Iterator[Check]:
    """Yield the checks that a function makes; then a failed one, if it ends with an error.

    Args:
        name: of the failed check.
        check: makes one or several.
    """
    try:
        yield from check()
    except FAILURES as error:
        words = next((line for line in str(error).splitlines() if line.strip()), "")
        yield Check(name, FAILED, words[:LONGEST_ERROR] or type(error).__name__)


def compared(
    name: str, found: Any, expected: Any, dtype: str, way_out: str, note: str = ""
) -> Check:
    """Check that values equal others but for rounding.

    Args:
        name: of the check.
        found, expected: arrays, or lists of arrays, of the same shapes.
        dtype: that `found` was computed in.
        way_out: what to do if they differ.
        note: is added to what was found.
    """
    difference, tolerance = relative_difference(found, expected), TOLERANCES[dtype]
    within = f"differ by {difference:.1e}, allowed are {tolerance:.0e} in {dtype}{note}"
    if difference <= tolerance:  # False for nan
        return Check(name, PASSED, within)
    return Check(name, FAILED, f"{within}: {way_out}")


def relative_difference(found: Any, expected: Any) -> float:
    """Return |found - expected| / |expected|, over all values of all arrays; nan: not finite."""
    pairs = list(zip(_flat(found), _flat(expected), strict=True))
    off = sum(float(np.sum((one - other) ** 2)) for one, other in pairs)
    size = sum(float(np.sum(other**2)) for _, other in pairs)
    return float(np.sqrt(off / size)) if size else float(np.sqrt(off))


def _flat(values: Any) -> list[np.ndarray]:
    arrays = values if isinstance(values, list | tuple) else [values]
    return [np.asarray(array, np.float64) for array in arrays]
