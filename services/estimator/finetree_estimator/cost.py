# SPDX-License-Identifier: Apache-2.0
"""Money and energy of a run: an hourly price for rented devices, a tariff and watts for owned ones."""

from dataclasses import dataclass

from finetree_estimator.intervals import Interval, Kind, Source
from finetree_estimator.run import Owned, Rented, Run

HOST_WATTS = 100.0
"""Power of the machine around accelerators: processor, memory, fans (own assumption, stated in the notes)."""
ENERGY = Source(Kind.COMPUTED, "energy")
"""Power under load x time."""


@dataclass(frozen=True, slots=True)
class Cost:
    """`amount` in `currency`; the price's fields are empty for owned hardware."""

    amount: Interval | None
    currency: str
    energy_kwh: Interval | None
    price_id: str = ""
    provider: str = ""
    price_date: str = ""
    hourly: float = 0.0


def estimate(run: Run, seconds: Interval) -> Cost:
    """Cost of a run that takes `seconds`; without payment terms only its energy."""
    hours = seconds.scaled(1 / 3600)
    energy = hours.scaled(watts(run) / 1000, ENERGY) if watts(run) > 0 else None
    if isinstance(run.payment, Rented):
        price = run.payment
        quote = Source(Kind.PUBLISHED, "price-book", price.price_id, price.date)
        amount = hours.scaled(price.hourly * run.devices, quote)
        return Cost(amount, price.currency, energy, price.price_id, price.provider, price.date, price.hourly)
    if isinstance(run.payment, Owned) and energy is not None:
        hourly = watts(run) / 1000 * run.payment.tariff / run.devices
        return Cost(energy.scaled(run.payment.tariff), run.payment.currency, energy, hourly=hourly)
    return Cost(None, "", energy)


def watts(run: Run) -> float:
    """Power of the whole machine under load; 0 when unknown."""
    if isinstance(run.payment, Owned) and run.payment.watts > 0:
        return run.payment.watts
    if run.device.watts == 0:
        return 0.0
    return run.device.watts * run.devices + (0.0 if run.device.is_cpu else HOST_WATTS)
