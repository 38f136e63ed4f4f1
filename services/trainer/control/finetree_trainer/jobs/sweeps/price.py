# SPDX-License-Identifier: Apache-2.0
"""What all trials of a sweep should take together, and whether that may be spent."""

from collections.abc import Sequence

from finetree_api.trainer.v1 import sweep_pb2
from finetree_api.types.v1 import estimate_summary_pb2, evidence_pb2
from finetree_runtime.errors import ResourceExhausted, invalid_field
from finetree_runtime.money import to_float

from finetree_trainer.jobs.sweeps import halving, objective

Estimate = estimate_summary_pb2.EstimateSummary | None


def estimate_of(sweep: sweep_pb2.SweepTemplate, trials: Sequence[Estimate]) -> sweep_pb2.SweepEstimate:
    """Add up the estimates of all trials, with the share of steps that halving leaves.

    Trials err in the same direction, since one model predicts them all: low ends are added up, and so are high ends.
    """
    known = [estimate for estimate in trials if estimate is not None]
    share = _share(sweep, known, len(trials))
    # Halving may stop nobody, so the high end is that of all steps.
    shares = (share, share, 1.0)
    total = sweep_pb2.SweepEstimate(estimated_trials=len(known))
    times = [estimate.total_seconds for estimate in known if estimate.HasField("total_seconds")]
    if times and len(times) == len(known):
        total.total_seconds.CopyFrom(_sum(times, shares))
    costs = [estimate.cost for estimate in known if estimate.HasField("cost")]
    currencies = {cost.currency_code for cost in costs}
    if costs and len(costs) == len(known) and len(currencies) == 1:
        total.cost.amount.CopyFrom(_sum([cost.amount for cost in costs], shares))
        total.cost.currency_code = currencies.pop()
    return total


def _share(sweep: sweep_pb2.SweepTemplate, known: Sequence[estimate_summary_pb2.EstimateSummary], trials: int) -> float:
    steps = max((estimate.optimizer_steps for estimate in known), default=0)
    if not sweep.HasField("halving") or not steps:
        return 1.0
    rule = halving.Halving(
        factor=sweep.halving.reduction_factor,
        min_steps=sweep.halving.min_steps,
        lowest=objective.LOWEST_IS_BEST[sweep.metric],
    )
    return halving.share_of_steps(trials, steps, rule.rungs(steps), rule.factor)


def _sum(parts: Sequence[evidence_pb2.Interval], shares: tuple[float, float, float]) -> evidence_pb2.Interval:
    low, expected, high = shares
    return evidence_pb2.Interval(
        low=low * sum(part.low for part in parts),
        expected=expected * sum(part.expected for part in parts),
        high=high * sum(part.high for part in parts),
        coverage=min(part.coverage for part in parts),
    )


def require_limit_that_holds(sweep: sweep_pb2.Sweep) -> None:
    """Refuse a limit that cannot be kept: it must not be believed.

    Raises InvalidArgument CURRENCY_MISMATCH, or INVALID_REQUEST where nothing prices the trials.
    """
    template, estimate = sweep.template, sweep.estimate
    if not template.HasField("max_cost"):
        return
    if not estimate.HasField("cost"):
        text = "cannot be kept, since nothing prices the trials: give the hardware a price (ownership), or leave it out"
        raise invalid_field("sweep.max_cost", text)
    currency, theirs = template.max_cost.currency_code, estimate.cost.currency_code
    if currency != theirs:
        text = f"is {currency}, and the cost of the trials is in {theirs}; set a limit in {theirs}"
        raise invalid_field("sweep.max_cost.currency_code", text, "CURRENCY_MISMATCH")


def require_affordable(sweep: sweep_pb2.Sweep) -> None:
    """Refuse a sweep that is expected to cost more than its limit, which holds.

    Raises ResourceExhausted SWEEP_TOO_EXPENSIVE.
    """
    if not sweep.template.HasField("max_cost"):
        return
    limit, currency = to_float(sweep.template.max_cost), sweep.template.max_cost.currency_code
    expected = sweep.estimate.cost.amount.expected
    if expected > limit:
        raise ResourceExhausted(
            "SWEEP_TOO_EXPENSIVE",
            f"The {len(sweep.trials)} trials should cost {expected:.4g} {currency}, more than the {limit:.4g} allowed; "
            "take fewer trials, halving, or a larger max_cost.",
            metadata={"expected_cost": f"{expected:.4g}", "max_cost": f"{limit:.4g}", "currency_code": currency},
        )
