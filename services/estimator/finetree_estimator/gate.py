# SPDX-License-Identifier: Apache-2.0
"""CheckPlan: a policy's limits read, an estimate held against them, and what would pass instead."""

from collections.abc import Iterator
from dataclasses import dataclass

from finetree_api.estimator.v1 import estimator_pb2 as pb
from finetree_api.types.v1 import evidence_pb2 as ev
from finetree_runtime.errors import DomainError, invalid_field

from finetree_estimator import alternatives, checks, fit
from finetree_estimator.alternatives import Estimator
from finetree_estimator.checks import Finding, Rule
from finetree_estimator.intervals import Interval, Kind, Source
from finetree_estimator.lookups import Knowledge
from finetree_estimator.writing import interval_message

NO_ROWS = "the number of rows is: give dataset_profile.examples"
NO_POWER = "the device's power is: give ownership.owned.watts"
NO_PRICE = "no price is known for this hardware: give ownership.rented.price_id, or ownership.owned with a tariff"
MOST = 4
"""Remedies that an answer holds."""
ALIKE = 2
"""Of those, how many may begin with a change to the same setting: four accelerators would hide everything else."""


@dataclass(frozen=True, slots=True)
class _Trial:
    """An alternative, the estimate of the run with it, and what the policy says of that."""

    remedy: pb.Remedy
    estimate: pb.Estimate
    verdicts: dict[str, checks.Verdict]

    @property
    def passes(self) -> bool:
        return all(verdict is checks.Verdict.PASS for verdict in self.verdicts.values())


def check_plan(request: pb.CheckPlanRequest, estimate: Estimator, knowledge: Knowledge) -> pb.CheckPlanResponse:
    """Hold a run against a policy.

    Raises:
        DomainError: What the estimate of the run raises, its paths below `run`; POLICY_EMPTY, CURRENCY_UNKNOWN.
    """
    _require_limit(request.policy)
    if request.run.fallbacks:
        raise invalid_field("run.fallbacks", "a plan is one run: take over what is meant into its spec")
    run = pb.EstimateRunRequest()
    run.CopyFrom(request.run)
    run.view = pb.ESTIMATE_VIEW_BASIC
    try:
        answer = estimate(run)
    except DomainError as error:
        raise _below("run", error) from error
    found = list(findings(request.policy, answer, run))
    trials: list[_Trial] = []
    if checks.overall(found) is not checks.Verdict.PASS:
        trials = list(_trials(request.policy, run, answer, estimate, knowledge))
    return pb.CheckPlanResponse(
        verdict=_verdict(checks.overall(found)),
        checks=[_message(finding, trials) for finding in found],
        estimate=answer,
        remedies=[_remedy(trial) for trial in _best(trials)],
    )


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


def _footprint(policy: pb.PlanPolicy, answer: pb.Estimate) -> Iterator[Finding]:
    """Energy, carbon and confidence."""
    why = NO_POWER if answer.HasField("time") else NO_ROWS
    if policy.HasField("max_energy_kwh"):
        rule = Rule("policy.max_energy_kwh", lambda amount: f"{amount:,.3g} kWh", "hardware")
        energy = _optional(answer.cost, "energy_kwh")
        yield checks.within(rule, energy, policy.max_energy_kwh, f"the energy is unknown because {why}")
    if policy.HasField("max_carbon_kg"):
        rule = Rule("policy.max_carbon_kg", lambda amount: f"{amount:,.3g} kg CO2e", "hardware")
        carbon = _optional(answer.cost, "carbon_kg")
        yield checks.within(rule, carbon, policy.max_carbon_kg, f"the carbon is unknown because {why}")
    if policy.min_confidence:
        rule = Rule("policy.min_confidence", str, "model")
        yield checks.confident(rule, answer.confidence.memory, answer.confidence.time, policy.min_confidence)


def _trials(
    policy: pb.PlanPolicy, run: pb.EstimateRunRequest, answer: pb.Estimate, estimate: Estimator, knowledge: Knowledge
) -> Iterator[_Trial]:
    """Alternatives to the run, the least harmful first, each estimated and held against the same limits."""
    for remedy in alternatives.of(policy, run, answer, estimate, knowledge):
        if not remedy.patches:
            continue
        changed = alternatives.applied(run, remedy)
        try:
            other = estimate(changed)
            verdicts = {finding.rule.rule_id: finding.verdict for finding in findings(policy, other, changed)}
        except DomainError:
            continue  # an alternative that contradicts the rest of the run, or is priced in another currency, is none
        if other.fit.verdict != pb.FIT_VERDICT_FITS and remedy.patches[0].field_path.startswith("hardware."):
            continue  # no one is sent to hardware on which the run does not fit, asked for or not
        yield _Trial(remedy, other, verdicts)


def _message(finding: Finding, trials: list[_Trial]) -> ev.Check:
    message = ev.Check(
        rule_id=finding.rule.rule_id,
        severity=ev.SEVERITY_ERROR,
        verdict=_verdict(finding.verdict),
        limit=finding.limit,
        field_path=finding.rule.field_path,
        help=finding.help,
    )
    if finding.measured is not None:
        message.measured.CopyFrom(interval_message(finding.measured))
    if finding.verdict is not checks.Verdict.PASS and (fix := _fix(finding.rule.rule_id, trials)) is not None:
        message.fix.CopyFrom(fix)
    return message


def _fix(rule_id: str, trials: list[_Trial]) -> ev.SpecPatch | None:
    """The least harmful single change after which this rule passes, whatever the others say."""
    for trial in trials:
        if len(trial.remedy.patches) == 1 and trial.verdicts[rule_id] is checks.Verdict.PASS:
            return trial.remedy.patches[0]
    return None


def _best(trials: list[_Trial]) -> list[_Trial]:
    """The first that pass, of different kinds."""
    chosen: list[_Trial] = []
    for trial in trials:
        path = trial.remedy.patches[0].field_path
        alike = sum(other.remedy.patches[0].field_path == path for other in chosen)
        if trial.passes and alike < ALIKE and all(other.remedy.patches != trial.remedy.patches for other in chosen):
            chosen.append(trial)
    return chosen[:MOST]


def _remedy(trial: _Trial) -> pb.Remedy:
    """The alternative with its own memory and fit."""
    return pb.Remedy(
        patches=trial.remedy.patches,
        device_bytes=trial.estimate.memory.device_bytes,
        verdict=trial.estimate.fit.verdict,
        summary=f"{trial.remedy.summary}: {_outcome(trial.estimate)}",
    )


def _outcome(answer: pb.Estimate) -> str:
    parts = [checks.size(answer.memory.device_bytes.expected)]
    if answer.HasField("time"):
        parts.append(checks.hours(answer.time.total_seconds.expected))
    if answer.cost.HasField("amount"):
        parts.append(checks.money(answer.cost.currency_code)(answer.cost.amount.expected))
    return ", ".join(parts)


def _require_limit(policy: pb.PlanPolicy) -> None:
    names = {field.name for field, _ in policy.ListFields()} - {"currency_code"}
    if not names:
        known = ", ".join(field.name for field in pb.PlanPolicy.DESCRIPTOR.fields if field.name != "currency_code")
        raise invalid_field("policy", f"names no limit; give at least one of {known}", "POLICY_EMPTY")


def _require_currency(policy: pb.PlanPolicy, cost: pb.CostEstimate) -> None:
    wanted = policy.currency_code.upper() or "USD"
    if cost.currency_code and wanted != cost.currency_code:
        text = f"limits are in {wanted}, the price is in {cost.currency_code}; state the limits in {cost.currency_code}"
        raise invalid_field("policy.currency_code", text, "CURRENCY_UNKNOWN")
    if not (len(wanted) == 3 and wanted.isascii() and wanted.isalpha()):
        text = f"{policy.currency_code!r} is no ISO 4217 code such as USD"
        raise invalid_field("policy.currency_code", text, "CURRENCY_UNKNOWN")


def _below(root: str, error: DomainError) -> DomainError:
    """The same error with the paths that it has in a request that holds the run as a field."""
    paths = {item.field_path: f"{root}.{item.field_path}" for item in error.violations}
    first = next(iter(paths), "")
    message = f"{root}.{error.message}" if first and error.message.startswith(first) else error.message
    violations = [(paths[item.field_path], item.description, item.reason) for item in error.violations]
    return type(error)(
        error.reason, message, metadata=error.metadata, violations=violations, retry_delay=error.retry_delay
    )


def _interval(message: ev.Interval) -> Interval:
    sources = (
        Source(
            Kind[ev.ProvenanceKind.Name(item.kind).removeprefix("PROVENANCE_KIND_")],
            item.source,
            item.locator,
            item.date,
        )
        for item in message.provenance
    )
    return Interval(message.low, message.expected, message.high, tuple(sources), message.coverage)


def _optional(message: pb.CostEstimate | pb.TimeEstimate, name: str) -> Interval | None:
    given: dict[str, ev.Interval] = {field.name: value for field, value in message.ListFields()}
    return _interval(given[name]) if name in given else None


def _fit(verdict: int) -> fit.Verdict:
    return fit.Verdict[pb.FitVerdict.Name(verdict).removeprefix("FIT_VERDICT_")]  # type: ignore[arg-type]


def _verdict(verdict: checks.Verdict) -> ev.CheckVerdict.ValueType:
    return ev.CheckVerdict.Value(f"CHECK_VERDICT_{verdict.name}")
