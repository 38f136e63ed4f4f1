# SPDX-License-Identifier: Apache-2.0
"""Money, energy and carbon of a run: an hourly price for rented devices, a tariff and watts for owned ones."""

from dataclasses import dataclass

from finetree_estimator.catalog.price_book import Owned, Quote, Term, billed
from finetree_estimator.intervals import Interval, Kind, Source, together
from finetree_estimator.run import Run

HOST_WATTS = 100.0
"""Power of the machine around accelerators: processor, memory, fans (own assumption, stated in the notes)."""
ENERGY = Source(Kind.COMPUTED, "energy")
"""Power under load x time."""
WORLD_CARBON = 0.481
"""Kilograms of CO2 equivalent of a kilowatt-hour, the world's average of 2023: 480.85 g (Ember and Energy Institute,
processed by Our World in Data, as quoted in github:pluginsGLPI/carbon install/data/carbon_intensity/world.php)."""
CLEAN_CARBON, DIRTY_CARBON = 0.030, 0.713
"""Norway's and India's figure of 2023, the ends of what an unknown place may have (Ember, quoted by statista.com
943137)."""
CARBON = Source(Kind.PUBLISHED, "Ember and Energy Institute, by Our World in Data", "world, 2023", date="2024-07")
OWN_CARBON = Source(Kind.COMPUTED, "carbon", "carbon_kg_per_kwh")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """`amount` and `monthly` in `currency`; the price's fields are empty for owned hardware."""

    amount: Interval | None = None
    currency: str = ""
    energy_kwh: Interval | None = None
    price_id: str = ""
    provider: str = ""
    price_date: str = ""
    hourly: float = 0.0
    """Of one device."""
    region: str = ""
    term: Term | None = None
    monthly: Interval | None = None
    """None where the number of runs per month is not known."""
    carbon_kg: Interval | None = None

    def largest(self) -> list[float]:
        """The upper ends of all its numbers."""
        parts = (self.amount, self.energy_kwh, self.monthly, self.carbon_kg)
        return [part.high for part in parts if part is not None]


def estimate(run: Run, seconds: Interval) -> Cost:
    """Cost of a run that takes `seconds`; without payment terms only its energy and carbon.

    Whole instances are paid: on a price for eight devices a run on one of them costs eight.
    """
    hours = seconds.scaled(1 / 3600)
    power = watts(run)
    energy = hours.scaled(power / 1000, (ENERGY,)) if power > 0 else None
    carbon = carbon_of(energy, run.carbon_kg_per_kwh) if energy is not None else None
    if isinstance(run.payment, Quote):
        price = run.payment
        amount = rent(hours, price, run.devices)
        return Cost(
            amount=amount,
            currency=price.currency,
            energy_kwh=energy,
            price_id=price.price_id,
            provider=price.provider,
            price_date=price.date,
            hourly=price.hourly,
            region=price.region,
            term=price.term,
            monthly=_monthly(amount, run),
            carbon_kg=carbon,
        )
    if isinstance(run.payment, Owned) and energy is not None:
        amount = energy.scaled(run.payment.tariff)
        return Cost(
            amount=amount,
            currency=run.payment.currency,
            energy_kwh=energy,
            hourly=power / 1000 * run.payment.tariff / run.devices,
            monthly=_monthly(amount, run),
            carbon_kg=carbon,
        )
    return Cost(energy_kwh=energy, carbon_kg=carbon)


def rent(hours: Interval, price: Quote, devices: int) -> Interval:
    """Cost of `hours` on the instances that hold so many devices, in the price's currency."""
    source = Source(Kind.PUBLISHED, "price-book", price.price_id, date=price.date)
    return hours.scaled(price.hourly * billed(devices, price.min_count), (source,))


def carbon_of(energy_kwh: Interval, kg_per_kwh: float) -> Interval:
    """Carbon in kilograms of CO2 equivalent; 0 per kilowatt-hour means an unknown place anywhere in the world."""
    if kg_per_kwh > 0:
        return energy_kwh.scaled(kg_per_kwh, (OWN_CARBON,))
    return Interval(
        energy_kwh.low * CLEAN_CARBON,
        energy_kwh.expected * WORLD_CARBON,
        energy_kwh.high * DIRTY_CARBON,
        sources=together(energy_kwh.sources, (CARBON,)),
        coverage=energy_kwh.coverage,
    )


def watts(run: Run) -> float:
    """Watts of the whole machine under load; 0 when unknown."""
    if isinstance(run.payment, Owned) and run.payment.watts > 0:
        return run.payment.watts
    if run.device.watts == 0:
        return 0.0
    return run.device.watts * run.devices + (0.0 if run.on_cpu else HOST_WATTS)


def _monthly(amount: Interval, run: Run) -> Interval | None:
    return amount.scaled(run.runs_per_month) if run.runs_per_month > 0 else None
