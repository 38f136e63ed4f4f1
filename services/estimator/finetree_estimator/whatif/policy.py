# SPDX-License-Identifier: Apache-2.0
"""A policy's limits, read and held against an estimate."""

from collections.abc import Iterator

from finetree_api.estimator.v1 import estimator_pb2 as pb
from finetree_api.types.v1 import evidence_pb2 as ev
from finetree_runtime.errors import invalid_field

from finetree_estimator.catalog.names import is_currency
from finetree_estimator.intervals import Interval, Kind, Source
from finetree_estimator.memory import fit
from finetree_estimator.whatif import checks
from finetree_estimator.whatif.checks import Finding, Rule

NO_ROWS = "the number of rows is: give dataset_profile.examples"
NO_POWER = "the device's power is: give ownership.owned.watts"
NO_PRICE = "no price is known for this hardware: give ownership.rented.price_id, or ownership.owned with a tariff"


def findings(policy: pb.PlanPolicy, answer: pb.Estimate, run: pb.EstimateRunRequest) -> Iterator[Finding]:
    """One for each limit that the policy names, in the order of its fields. Raises InvalidArgument."""
    money = checks.money(answer.cost.currency_code)
    payer = "ownership" if run.spec.HasField("ownership") else "hardware"
    unpriced = f"the cost is unknown because {NO_PRICE if answer.HasField('time') else NO_ROWS}"
    peak = _interval(answer.memory.device_bytes)
    if policy.HasField("max_cost"):
        _require_currency(policy, answer.cost)
        rule = Rule("policy.max_cost", money, payer)
        yield checks.within(rule, _optional(answer.cost, "amount"), policy.max_cost, unpriced)
    if policy.HasField("max_monthly_cost"):
        _require_currency(policy, answer.cost)
        rule = Rule("policy.max_monthly_cost", money, payer)
        # A run that is not said to be repeated is made once (the contract's reading of runs_per_month = 0).
        monthly = _optional(answer.cost, "monthly_amount") or _optional(answer.cost, "amount")
        yield checks.within(rule, monthly, policy.max_monthly_cost, unpriced)
    if policy.HasField("max_seconds"):
        rule = Rule("policy.max_seconds", checks.hours, "training")
        seconds = _optional(answer.time, "total_seconds")
        yield checks.within(rule, seconds, policy.max_seconds, f"the time is unknown because {NO_ROWS}")
    if policy.HasField("max_device_bytes"):
        yield checks.within(Rule("policy.max_device_bytes", checks.size, "hardware"), peak, policy.max_device_bytes, "")
    if policy.must_fit:
        rule = Rule("policy.must_fit", checks.size, "hardware")
        yield checks.fits(rule, peak, answer.memory.usable_device_bytes, _fit(answer.fit.verdict))
    yield from _footprint(policy, answer)


def require_limit(policy: pb.PlanPolicy) -> None:
    """Refuse a policy that limits nothing. Raises InvalidArgument (POLICY_EMPTY)."""
    names = {field.name for field, _ in policy.ListFields()} - {"currency_code"}
    if not names:
        known = ", ".join(field.name for field in pb.PlanPolicy.DESCRIPTOR.fields if field.name != "currency_code")
        raise invalid_field("policy", f"names no limit; give at least one of {known}", "POLICY_EMPTY")


def _footprint(policy: pb.PlanPolicy, answer: pb.Estimate) -> Iterator[Finding]:
    """Energy, carbon and confidence."""
    why = NO_POWER if answer.HasField("time") else NO_ROWS
    if policy.HasField("max_energy_kwh"):
        rule = Rule("policy.max_energy_kwh", checks.amount("kWh"), "hardware")
        energy = _optional(answer.cost, "energy_kwh")
        yield checks.within(rule, energy, policy.max_energy_kwh, f"the energy is unknown because {why}")
    if policy.HasField("max_carbon_kg"):
        rule = Rule("policy.max_carbon_kg", checks.amount("kg CO2e"), "hardware")
        carbon = _optional(answer.cost, "carbon_kg")
        yield checks.within(rule, carbon, policy.max_carbon_kg, f"the carbon is unknown because {why}")
    if policy.min_confidence:
        rule = Rule("policy.min_confidence", checks.level, "model")
        yield checks.confident(rule, answer.confidence.memory, answer.confidence.time, policy.min_confidence)


def _require_currency(policy: pb.PlanPolicy, cost: pb.CostEstimate) -> None:
    wanted = policy.currency_code.upper() or "USD"
    if not is_currency(wanted):
        text = f"{policy.currency_code!r} is no ISO 4217 code such as USD"
        raise invalid_field("policy.currency_code", text, "CURRENCY_UNKNOWN")
    if cost.currency_code and wanted != cost.currency_code:
        text = f"limits are in {wanted}, the price is in {cost.currency_code}; state the limits in {cost.currency_code}"
        raise invalid_field("policy.currency_code", text, "CURRENCY_UNKNOWN")


def _interval(message: ev.Interval) -> Interval:
    sources = (
        Source(
            Kind[ev.ProvenanceKind.Name(item.kind).removeprefix("PROVENANCE_KIND_")],
            item.source,
            item.locator,
            date=item.date,
        )
        for item in message.provenance
    )
    return Interval(message.low, message.expected, message.high, sources=tuple(sources), coverage=message.coverage)


def _optional(message: pb.CostEstimate | pb.TimeEstimate, name: str) -> Interval | None:
    given: dict[str, ev.Interval] = {field.name: value for field, value in message.ListFields()}
    return _interval(given[name]) if name in given else None


def _fit(verdict: int) -> fit.Verdict:
    return fit.Verdict[pb.FitVerdict.Name(verdict).removeprefix("FIT_VERDICT_")]  # type: ignore[arg-type]
