"""What a run has used and cost: time, energy and money."""

from collections.abc import Iterable, Mapping
from typing import Any, TypedDict


class Usage(TypedDict):
    """What a run has used and cost; costs and prices are in the user's own currency."""

    seconds: float
    energy_kwh: float | None  # of its GPUs alone
    electricity_price: float  # per kWh
    electricity_cost: float | None
    cloud_price: float | None  # per hour
    cloud_cost: float | None


def usage(
    seconds: float,
    energy_kwh: float | None,
    electricity_price: float,
    cloud_price: float | None,
    earlier_epochs: Iterable[Mapping[str, Any]] = (),
) -> Usage:
    """Return what a run has used and cost, as it stands in the results.

    Args:
        seconds: that this command took.
        energy_kwh: of the GPUs during this command; None if unknown.
        electricity_price: per kWh.
        cloud_price: per hour of such a machine in a cloud; None if there is none to compare with.
        earlier_epochs: rows of the history of epochs that earlier commands have finished: their
            time (`seconds`) and energy (`energy_wh`) are added.
    """
    rows = list(earlier_epochs)
    seconds += sum(row["seconds"] for row in rows)
    if energy_kwh is not None:
        energy_kwh += sum(row.get("energy_wh") or 0 for row in rows) / 1000
    return {
        "seconds": seconds,
        "energy_kwh": energy_kwh,
        "electricity_price": electricity_price,
        "electricity_cost": None if energy_kwh is None else energy_kwh * electricity_price,
        "cloud_price": cloud_price,
        "cloud_cost": None if cloud_price is None else seconds / 3600 * cloud_price,
    }


def describe_usage(used: Usage) -> str:
    """Return time, energy and cost in a line; energy that is unknown is left out."""
    words = format_duration(used["seconds"])
    energy, cost = used["energy_kwh"], used["electricity_cost"]
    if energy is not None and cost is not None:
        amount = f"{energy:.2f} kWh" if energy >= 0.1 else f"{1000 * energy:.3g} Wh"
        words += f", {amount}, {_cost(cost)} at {_price(used['electricity_price'])} per kWh"
    price, cost = used["cloud_price"], used["cloud_cost"]
    if price is not None and cost is not None:
        words += f"; in the cloud {_cost(cost)} at {_price(price)} per hour"
    return words


def format_duration(seconds: float) -> str:
    """Return a duration in its largest unit: "2.1 h", "12.3 min", "45.0 s"."""
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.1f} s"


def _cost(amount: float) -> str:
    return "under 0.01" if 0 < amount < 0.005 else f"{amount:.2f}"


def _price(price: float) -> str:
    return f"{price:.2f}" if price == round(price, 2) else f"{price:g}"
