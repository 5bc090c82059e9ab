import numpy as np
import pytest

from violence_detection.settings.schema import Settings
from violence_detection.training.losses import class_factors, make_loss

COUNTS = (22, 78)


@pytest.mark.parametrize(
    ("changes", "nonviolent", "violent"),
    [
        ({}, 100 / 44, 100 / 156),
        ({"use_focal_loss": False}, 100 / 44, 100 / 156),
        ({"use_class_weights": False}, 0.75, 0.25),
        ({"use_class_weights": False, "use_focal_loss": False}, 1, 1),
        ({"use_class_weights": False, "focal_alpha": 0.6}, 0.4, 0.6),
        ({"focal_alpha": 0.6}, 100 / 44 * 0.4, 100 / 156 * 0.6),
        ({"class_weights": (1.78, 0.57)}, 1.78, 0.57),
    ],
)
def test_factor_of_each_class(changes: dict, nonviolent: float, violent: float) -> None:
    factors = class_factors(COUNTS, Settings().replace(**changes).loss)
    assert factors == pytest.approx((nonviolent, violent))


def test_focal_loss_is_the_formula() -> None:
    probabilities = np.array([[0.9], [0.6], [0.3], [0.2]], np.float32)
    labels = np.array([[1.0], [1.0], [0.0], [0.0]], np.float32)
    p_t = np.where(labels == 1, probabilities, 1 - probabilities)[:, 0]
    settings = Settings().replace(label_smoothing=0.0, focal_gamma=3.0)
    np.testing.assert_allclose(
        make_loss(settings.loss)(labels, probabilities), -((1 - p_t) ** 3) * np.log(p_t), rtol=1e-4
    )


def test_label_smoothing_asks_for_95_percent() -> None:
    settings = Settings().replace(use_focal_loss=False, label_smoothing=0.1)
    steps = np.linspace(0.01, 0.99, 99, dtype=np.float32)[:, None]
    losses = make_loss(settings.loss)(np.ones_like(steps), steps)
    assert steps[np.argmin(losses), 0] == pytest.approx(0.95, abs=0.005)
