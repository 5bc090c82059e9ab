"""What a training step computes, with wrong numbers planted."""

import numpy as np
import pytest

from violence_detection.experiments.preflight.checks import FAILED, PASSED
from violence_detection.experiments.preflight.numeric_checks import Step, Variant, compared_step

EXPECTED = Step(np.full(20, 0.7), [np.ones((4, 3)), np.linspace(-1, 1, 5)], 1.0)


@pytest.mark.parametrize(
    ("variant", "way_out"),
    [
        (Variant("x", "float32", xla=True), "train without --xla"),
        (Variant("x", "mixed_float16"), "train with --no-mixed-precision"),
        (Variant("x", "float32", fused=True), "train with --xla, or update the driver"),
    ],
)
def test_a_wrong_number_fails_with_the_way_out(variant: Variant, way_out: str) -> None:
    gradient = EXPECTED.gradients[1].copy()
    gradient[-1] *= 1.1
    wrong_gradient = Step(EXPECTED.losses, [EXPECTED.gradients[0], gradient], 1.0)
    wrong_loss = Step(1.1 * EXPECTED.losses, EXPECTED.gradients, 1.0)
    for found, what in ((wrong_gradient, "gradients"), (wrong_loss, "losses")):
        check = compared_step(variant, found, EXPECTED, variant.dtype)
        assert check.state == FAILED
        assert check.detail.startswith(what)
        assert check.detail.endswith(f": {way_out}")
    assert compared_step(variant, EXPECTED, EXPECTED, variant.dtype).state == PASSED
