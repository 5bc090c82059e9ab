"""Comparisons, and the lines of the table."""

import numpy as np
import pytest

from violence_detection.errors import RunError
from violence_detection.experiments.preflight.checks import (
    FAILED,
    PASSED,
    TOLERANCES,
    Check,
    as_row,
    attempted,
    compared,
    relative_difference,
)


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_a_difference_beyond_the_tolerance_fails(dtype: str) -> None:
    expected = [np.linspace(-1, 1, 7), np.ones((2, 3))]
    within, beyond = ([e * (1 + f * TOLERANCES[dtype]) for e in expected] for f in (0.9, 1.1))
    assert compared("x", within, expected, dtype, "way out").state == PASSED
    check = compared("x", beyond, expected, dtype, "way out")
    assert check.state == FAILED
    assert check.detail.endswith(": way out")


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_values_that_are_not_finite_fail(wrong: float) -> None:
    assert compared("x", [wrong, 1.0], [1.0, 1.0], "bfloat16", "").state == FAILED


def test_one_wrong_weight_among_many_counts() -> None:
    expected = [np.full(1000, 1e-3), np.array([1.0])]
    assert relative_difference([expected[0], np.array([1.1])], expected) > 0.09


def test_what_a_device_ends_with_is_a_failed_check() -> None:
    def checks() -> object:
        yield Check("first", PASSED, "")
        raise RunError("no ptxas: install it\nmore of it")

    found = list(attempted("second", checks))
    assert found == [Check("first", PASSED, ""), Check("second", FAILED, "no ptxas: install it")]


def test_rows_have_80_columns() -> None:
    row = as_row(FAILED, "disk room, checkpoints", "needs much more than there is " * 9)
    assert all(len(line) <= 80 for line in row.splitlines())
    assert row.startswith("FAILED  disk room, checkpoints")
