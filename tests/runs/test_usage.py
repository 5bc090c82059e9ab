import pytest

from violence_detection.runs.usage import describe_usage, usage


def test_energy_and_cloud_have_their_cost() -> None:
    assert usage(7200, 1.5, 0.2, 2.5) == {
        "seconds": 7200,
        "energy_kwh": 1.5,
        "electricity_price": 0.2,
        "electricity_cost": pytest.approx(0.3),
        "cloud_price": 2.5,
        "cloud_cost": pytest.approx(5.0),
    }
    unknown = usage(7200, None, 0.2, None)
    assert unknown["electricity_cost"] is None
    assert unknown["cloud_cost"] is None


@pytest.mark.parametrize(
    ("used", "words"),
    [
        (
            (7560, 1.31, 0.12, 2.5),
            "2.1 h, 1.31 kWh, 0.16 at 0.12 per kWh; in the cloud 5.25 at 2.50 per hour",
        ),
        ((7560, 1.31, 0.1234, None), "2.1 h, 1.31 kWh, 0.16 at 0.1234 per kWh"),
        ((738, 0.0123, 0.12, None), "12.3 min, 12.3 Wh, under 0.01 at 0.12 per kWh"),
        ((738, None, 0.12, 2.5), "12.3 min; in the cloud 0.51 at 2.50 per hour"),
        ((45, None, 0.12, None), "45.0 s"),
        (
            (3600, 0.5, 0.0, 0.0),
            "1.0 h, 0.50 kWh, 0.00 at 0.00 per kWh; in the cloud 0.00 at 0.00 per hour",
        ),
    ],
)
def test_usage_in_words(used: tuple[float, float | None, float, float | None], words: str) -> None:
    assert describe_usage(usage(*used)) == words


def test_epochs_of_earlier_commands_count() -> None:
    earlier = [{"seconds": 100.0, "energy_wh": 20.0}, {"seconds": 50.0, "energy_wh": None}]
    used = usage(10.0, 0.1, 0.2, None, earlier)
    assert used["seconds"] == 160
    assert used["energy_kwh"] == pytest.approx(0.12)
    assert usage(10.0, None, 0.2, None, earlier)["energy_kwh"] is None
