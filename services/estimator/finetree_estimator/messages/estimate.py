# SPDX-License-Identifier: Apache-2.0
"""Message of an estimate in the views SUMMARY and BASIC; what searches find stands in `searches`."""

from finetree_api.estimator.v1 import catalog_pb2, estimate_pb2
from finetree_api.types.v1 import check_pb2, estimate_summary_pb2, evidence_pb2
from finetree_runtime.money import to_money
from finetree_runtime.runspec.digest import plan_digest

from finetree_estimator.cost import Cost
from finetree_estimator.evidence.confidence import Confidence
from finetree_estimator.memory.fit import Fit, Verdict
from finetree_estimator.memory.peak import Memory
from finetree_estimator.messages.catalog import term_value
from finetree_estimator.messages.provenance import (
    interval_message,
    money_interval,
    optional_interval,
    provenance_message,
)
from finetree_estimator.remarks import Remark
from finetree_estimator.spec.assumptions import assumptions
from finetree_estimator.timing.phases import Times
from finetree_estimator.whatif.fallbacks import Answer
from finetree_estimator.whatif.playbook_comparison import Compared, compare


def summary_message(answer: Answer, revision: evidence_pb2.Revision) -> estimate_pb2.Estimate:
    """Write the SUMMARY view: totals only."""
    estimate, run = answer.estimate, answer.parsed.run
    message = estimate_pb2.Estimate(
        memory=estimate_pb2.MemoryEstimate(
            device_bytes=interval_message(estimate.memory.device), usable_device_bytes=run.device.usable_bytes
        ),
        fit=_fit(estimate.fit),
        trainable_parameters=estimate.trainable_parameters,
        total_parameters=estimate.total_parameters,
        optimizer_steps=estimate.optimizer_steps,
        revision=revision,
        fallbacks_taken=answer.fallbacks_taken,
    )
    if estimate.duration is not None:
        message.time.total_seconds.CopyFrom(interval_message(estimate.duration.total))
    if estimate.price is not None and estimate.price.amount is not None:
        message.cost.total.amount.CopyFrom(interval_message(estimate.price.amount))
        message.cost.total.currency_code = estimate.price.currency
    return message


def basic_message(answer: Answer, revision: evidence_pb2.Revision) -> estimate_pb2.Estimate:
    """Write the BASIC view: everything that needs no search."""
    estimate, parsed = answer.estimate, answer.parsed
    examples = parsed.profile.examples if parsed.profile is not None else 0
    figures = compare(parsed.run, estimate, examples=examples, runs_per_month=parsed.request.runs_per_month)
    message = estimate_pb2.Estimate(
        resolved_spec=parsed.spec,
        memory=_memory(estimate.memory, parsed.run.device.usable_bytes),
        fit=_fit(estimate.fit),
        trainable_parameters=estimate.trainable_parameters,
        total_parameters=estimate.total_parameters,
        optimizer_steps=estimate.optimizer_steps,
        remarks=map(_remark, (*assumptions(parsed.spec, parsed.defaults, parsed.run), *estimate.remarks)),
        revision=revision,
        plan_digest=plan_digest(parsed.spec, parsed.profile, revision),
        confidence=_confidence(estimate.confidence),
        playbook=map(_playbook_figure, figures),
        fallbacks_taken=answer.fallbacks_taken,
    )
    if estimate.duration is not None:
        message.time.CopyFrom(times_message(estimate.duration))
        message.processed_tokens = estimate.duration.processed_tokens
    if estimate.price is not None:
        message.cost.CopyFrom(_cost(estimate.price))
    return message


def verdict_value(verdict: Verdict) -> estimate_summary_pb2.FitVerdict.ValueType:
    """Convert a fit verdict to the contract's enum value."""
    return estimate_summary_pb2.FitVerdict.Value(f"FIT_VERDICT_{verdict.name}")


def _memory(memory: Memory, usable_bytes: int) -> estimate_pb2.MemoryEstimate:
    return estimate_pb2.MemoryEstimate(
        components=[
            estimate_pb2.MemoryComponent(
                kind=estimate_pb2.MemoryComponentKind.Value(f"MEMORY_COMPONENT_KIND_{kind.name}"),
                label=kind.value,
                bytes=interval_message(interval),
            )
            for kind, interval in memory.components
        ],
        allocated_bytes=interval_message(memory.allocated),
        reserved_bytes=interval_message(memory.reserved),
        device_bytes=interval_message(memory.device),
        usable_device_bytes=usable_bytes,
        host_bytes=interval_message(memory.host),
    )


def _fit(fit: Fit) -> estimate_pb2.Fit:
    return estimate_pb2.Fit(
        verdict=verdict_value(fit.verdict),
        headroom_bytes=fit.headroom_bytes,
        summary=fit.summary,
        probability=fit.probability,
    )


def times_message(times: Times) -> estimate_pb2.TimeEstimate:
    """Write times by phase."""
    return estimate_pb2.TimeEstimate(
        phases=[
            estimate_pb2.TimePhase(
                kind=estimate_pb2.TimePhaseKind.Value(f"TIME_PHASE_KIND_{phase.name}"),
                seconds=interval_message(seconds),
            )
            for phase, seconds in times.phases
        ],
        total_seconds=interval_message(times.total),
        tokens_per_second=interval_message(times.tokens_per_second),
        step_seconds=interval_message(times.step),
    )


def _cost(cost: Cost) -> estimate_pb2.CostEstimate:
    return estimate_pb2.CostEstimate(
        total=money_interval(cost.amount, cost.currency),
        monthly=money_interval(cost.monthly, cost.currency),
        energy_kwh=optional_interval(cost.energy_kwh),
        carbon_kg=optional_interval(cost.carbon_kg),
        price_id=cost.price_id,
        provider=cost.provider,
        price_date=cost.price_date,
        hourly_price=to_money(cost.hourly, cost.currency) if cost.currency else None,
        region=cost.region,
        term=term_value(cost.term) if cost.term is not None else catalog_pb2.PRICE_TERM_UNSPECIFIED,
    )


def _confidence(found: Confidence) -> estimate_pb2.EstimateConfidence:
    return estimate_pb2.EstimateConfidence(
        memory=evidence_pb2.ConfidenceLevel.Value(f"CONFIDENCE_LEVEL_{found.memory.name}"),
        time=evidence_pb2.ConfidenceLevel.Value(f"CONFIDENCE_LEVEL_{found.time.name}"),
        memory_distance=found.memory_distance,
        time_distance=found.time_distance,
        reasons=map(_remark, found.reasons),
    )


def _playbook_figure(compared: Compared) -> estimate_pb2.PlaybookFigure:
    """Write a figure of the playbook with the computed one."""
    figure = compared.figure
    return estimate_pb2.PlaybookFigure(
        kind=estimate_pb2.PlaybookFigureKind.Value(f"PLAYBOOK_FIGURE_KIND_{figure.kind.name}"),
        value=figure.value,
        stated_for=figure.stated_for,
        provenance=provenance_message(figure.source),
        interpolated=figure.interpolated,
        extrapolated=figure.extrapolated,
        computed=optional_interval(compared.computed),
        note=compared.note,
    )


def _remark(remark: Remark) -> check_pb2.Remark:
    return check_pb2.Remark(code=remark.code, message=remark.message, field_path=remark.field_path)
