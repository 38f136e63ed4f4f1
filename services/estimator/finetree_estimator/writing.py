# SPDX-License-Identifier: Apache-2.0
"""From domain values to messages of the contract."""

from finetree_api.estimator.v1 import estimator_pb2 as pb
from finetree_api.types.v1 import evidence_pb2 as ev
from google.rpc import status_pb2

from finetree_estimator.cost import Cost
from finetree_estimator.durations import Phase, Times
from finetree_estimator.encoding import delimited, interval_bytes, key
from finetree_estimator.engine import Estimate
from finetree_estimator.fit import Fit, Verdict
from finetree_estimator.intervals import Interval
from finetree_estimator.largest import Largest
from finetree_estimator.memory import Component, Memory
from finetree_estimator.remedies import Remedy
from finetree_estimator.revision import Part
from finetree_estimator.run import Device, Term
from finetree_estimator.smallest import Option

_COMPONENTS = {
    kind: pb.MemoryComponent(
        kind=pb.MemoryComponentKind.Value(f"MEMORY_COMPONENT_KIND_{kind.name}"), label=kind.value
    ).SerializeToString()
    for kind in Component
}
"""A component's message up to its interval; so for phases."""
_PHASES = {
    phase: pb.TimePhase(kind=pb.TimePhaseKind.Value(f"TIME_PHASE_KIND_{phase.name}")).SerializeToString()
    for phase in Phase
}
_COMPONENT, _COMPONENT_BYTES = key(pb.MemoryEstimate, "components"), key(pb.MemoryComponent, "bytes")
_PEAKS = [key(pb.MemoryEstimate, f"{name}_bytes") for name in ("allocated", "reserved", "device", "host")]
_DEVICE_PEAK = key(pb.MemoryEstimate, "device_bytes")
_PHASE, _PHASE_SECONDS = key(pb.TimeEstimate, "phases"), key(pb.TimePhase, "seconds")
_WHOLES = [key(pb.TimeEstimate, name) for name in ("total_seconds", "tokens_per_second", "step_seconds")]
_RUN_ESTIMATE, _RESULT = key(pb.EstimateRunResponse, "estimate"), key(pb.BatchEstimateRunsResponse, "results")
_RESULT_KEY, _RESULT_ESTIMATE, _RESULT_ERROR = (
    key(pb.BatchEstimateResult, name) for name in ("key", "estimate", "error")
)
_VERDICTS = {verdict: pb.FitVerdict.Value(f"FIT_VERDICT_{verdict.name}") for verdict in Verdict}


def estimate_message(estimate: Estimate, device: Device) -> pb.Estimate:
    """An estimate without the spec, the revision and the digest, which belong to the request."""
    message = pb.Estimate(
        fit=_fit(estimate.fit),
        trainable_parameters=estimate.trainable_parameters,
        total_parameters=estimate.total_parameters,
        optimizer_steps=estimate.optimizer_steps,
        notes=estimate.notes,
    )
    message.memory.MergeFromString(_memory(estimate.memory))
    message.memory.usable_device_bytes = device.usable_bytes
    if estimate.times is not None:
        message.processed_tokens = estimate.times.processed_tokens
        message.time.MergeFromString(_times(estimate.times))
    if estimate.cost is not None:
        message.cost.CopyFrom(_cost(estimate.cost))
    return message


def summary_message(estimate: Estimate, device: Device) -> pb.Estimate:
    """The totals of an estimate alone."""
    message = pb.Estimate(
        fit=_fit(estimate.fit),
        trainable_parameters=estimate.trainable_parameters,
        total_parameters=estimate.total_parameters,
        optimizer_steps=estimate.optimizer_steps,
    )
    message.memory.MergeFromString(delimited(_DEVICE_PEAK, interval_bytes(estimate.memory.device)))
    message.memory.usable_device_bytes = device.usable_bytes
    if estimate.times is not None:
        message.time.MergeFromString(delimited(_WHOLES[0], interval_bytes(estimate.times.total)))
    if estimate.cost is not None and estimate.cost.amount is not None:
        message.cost.currency_code = estimate.cost.currency
        message.cost.amount.MergeFromString(interval_bytes(estimate.cost.amount))
    return message


def run_response(estimate: bytes) -> bytes:
    """An EstimateRunResponse with an estimate's bytes."""
    return delimited(_RUN_ESTIMATE, estimate)


def batch_result(row_key: str, estimate: bytes) -> bytes:
    """A result of a BatchEstimateRunsResponse, with its place in it: results one after the other are a response."""
    return delimited(_RESULT, delimited(_RESULT_KEY, row_key.encode()) + delimited(_RESULT_ESTIMATE, estimate))


def batch_error(row_key: str, status: status_pb2.Status) -> bytes:
    """The same for a row that failed."""
    body = delimited(_RESULT_KEY, row_key.encode()) + delimited(_RESULT_ERROR, status.SerializeToString())
    return delimited(_RESULT, body)


def revision_message(parts: dict[str, Part]) -> ev.Revision:
    """What an answer was computed with."""
    return ev.Revision(
        **{
            name: ev.RevisionComponent(id=part.part_id, sha256=part.sha256, date=part.date)
            for name, part in parts.items()
        }
    )


def remedy_message(remedy: Remedy) -> pb.Remedy:
    """Changes that make a run fit, with the peak that they lead to."""
    return pb.Remedy(
        patches=[
            ev.SpecPatch(field_path=path, json_value=json_value, summary=change.summary)
            for change in remedy.changes
            for path, json_value in change.patches
        ],
        device_bytes=interval_message(remedy.peak),
        verdict=pb.FitVerdict.Value(f"FIT_VERDICT_{remedy.verdict.name}"),
        summary=remedy.summary,
    )


def largest_message(largest: Largest) -> pb.LargestThatFits:
    """The largest sizes that fit."""
    return pb.LargestThatFits(micro_batch_size=largest.micro_batch, sequence_length=largest.sequence_length)


def hardware_message(option: Option) -> pb.HardwareOption:
    """Hardware on which a run fits."""
    return pb.HardwareOption(
        accelerator=option.accelerator,
        count=option.count,
        sharding=option.sharding,
        device_bytes=interval_message(option.peak),
        usable_device_bytes=option.usable_bytes,
        verdict=pb.FitVerdict.Value(f"FIT_VERDICT_{option.verdict.name}"),
    )


def _memory(memory: Memory) -> bytes:
    parts = [
        delimited(_COMPONENT, _COMPONENTS[component] + delimited(_COMPONENT_BYTES, interval_bytes(interval)))
        for component, interval in memory.components
    ]
    for field, peak in zip(_PEAKS, (memory.allocated, memory.reserved, memory.device, memory.host), strict=True):
        parts.append(delimited(field, interval_bytes(peak)))
    return b"".join(parts)


def _fit(fit: Fit) -> pb.Fit:
    verdict = _VERDICTS[fit.verdict]
    return pb.Fit(verdict=verdict, headroom_bytes=fit.headroom_bytes, summary=fit.summary, probability=fit.probability)


def _times(times: Times) -> bytes:
    parts = [
        delimited(_PHASE, _PHASES[phase] + delimited(_PHASE_SECONDS, interval_bytes(seconds)))
        for phase, seconds in times.phases
    ]
    for field, whole in zip(_WHOLES, (times.total, times.tokens_per_second, times.step), strict=True):
        parts.append(delimited(field, interval_bytes(whole)))
    return b"".join(parts)


def _cost(cost: Cost) -> pb.CostEstimate:
    message = pb.CostEstimate(
        currency_code=cost.currency,
        price_id=cost.price_id,
        provider=cost.provider,
        price_date=cost.price_date,
        hourly_price=cost.hourly,
        term=term_value(cost.term) if cost.term is not None else pb.PRICE_TERM_UNSPECIFIED,
        region=cost.region,
    )
    if cost.amount is not None:
        message.amount.CopyFrom(interval_message(cost.amount))
    if cost.energy_kwh is not None:
        message.energy_kwh.CopyFrom(interval_message(cost.energy_kwh))
    if cost.monthly is not None:
        message.monthly_amount.CopyFrom(interval_message(cost.monthly))
    if cost.carbon_kg is not None:
        message.carbon_kg.CopyFrom(interval_message(cost.carbon_kg))
    return message


def term_value(term: Term) -> pb.PriceTerm.ValueType:
    """How a price is committed to, as the contract has it."""
    return pb.PriceTerm.Value(f"PRICE_TERM_{term.name}")


def interval_message(interval: Interval) -> ev.Interval:
    """A predicted number with its sources."""
    return ev.Interval.FromString(interval_bytes(interval))
