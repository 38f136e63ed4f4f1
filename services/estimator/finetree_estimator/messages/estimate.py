# SPDX-License-Identifier: Apache-2.0
"""From domain values to messages of the contract."""

from collections.abc import Generator
from functools import cache, lru_cache
from typing import NamedTuple

from finetree_api.estimator.v1 import estimator_pb2 as pb
from finetree_api.types.v1 import evidence_pb2 as ev
from finetree_runtime.runspec.wire import delimited, key
from google.rpc import status_pb2

from finetree_estimator.catalog.devices import Device
from finetree_estimator.catalog.price_book import Term
from finetree_estimator.catalog.versions import Part
from finetree_estimator.cost import Cost
from finetree_estimator.estimate import Estimate
from finetree_estimator.intervals import Interval
from finetree_estimator.memory.fit import Fit, Verdict
from finetree_estimator.memory.peak import Component, Memory
from finetree_estimator.messages.encoding import Place, Row, interval_bytes
from finetree_estimator.timing.phases import Phase, Times
from finetree_estimator.whatif.largest import Largest
from finetree_estimator.whatif.remedies import Remedy
from finetree_estimator.whatif.smallest import Option


def _component(kind: Component) -> Place:
    value = pb.MemoryComponentKind.Value(f"MEMORY_COMPONENT_KIND_{kind.name}")
    after = pb.MemoryComponent(kind=value, label=kind.value).SerializeToString()
    return Place(key(pb.MemoryComponent, "bytes"), inside=key(pb.MemoryEstimate, "components"), after=after)


def _phase(phase: Phase) -> Place:
    after = pb.TimePhase(kind=pb.TimePhaseKind.Value(f"TIME_PHASE_KIND_{phase.name}")).SerializeToString()
    return Place(key(pb.TimePhase, "seconds"), inside=key(pb.TimeEstimate, "phases"), after=after)


_COMPONENTS, _PHASES = {kind: _component(kind) for kind in Component}, {phase: _phase(phase) for phase in Phase}
_ALLOCATED, _RESERVED, _DEVICE, _HOST = (
    Place(key(pb.MemoryEstimate, f"{name}_bytes")) for name in ("allocated", "reserved", "device", "host")
)
_PEAKS = Row(_ALLOCATED, _RESERVED, _DEVICE)
_TOTAL, _RATE, _STEP = (
    Place(key(pb.TimeEstimate, name)) for name in ("total_seconds", "tokens_per_second", "step_seconds")
)
_SPEC, _MEMORY, _FIT, _TIME, _COST, _NOTES, _REVISION, _DIGEST = (
    key(pb.Estimate, name)
    for name in ("resolved_spec", "memory", "fit", "time", "cost", "notes", "revision", "plan_digest")
)
_AMOUNT, _ENERGY, _MONTHLY, _CARBON = (
    Place(key(pb.CostEstimate, name)) for name in ("amount", "energy_kwh", "monthly_amount", "carbon_kg")
)
_RUN_ESTIMATE, _RESULT = key(pb.EstimateRunResponse, "estimate"), key(pb.BatchEstimateRunsResponse, "results")
_RESULT_KEY, _RESULT_ESTIMATE, _RESULT_ERROR = (
    key(pb.BatchEstimateResult, name) for name in ("key", "estimate", "error")
)
_VERDICTS = {verdict: pb.FitVerdict.Value(f"FIT_VERDICT_{verdict.name}") for verdict in Verdict}


class Belongings(NamedTuple):
    """What an answer holds beside the estimate: parts of the request and of the program, as bytes where messages."""

    spec: bytes
    """The resolved spec."""
    revision: bytes
    plan_digest: str
    fallbacks_taken: int


def estimate_bytes(
    estimate: Estimate, device: Device, beside: Belongings, compared: bytes
) -> Generator[None, None, bytes]:
    """An estimate as the bytes of its message, fields in the order of their numbers, as protobuf writes them, in steps.

    `compared` are the fields from `comparison.fields`.
    A message would be built, copied and read once more on its way to the wire, which takes longer than the formulas.
    """
    times, cost = estimate.times, estimate.cost
    peaks = _memory(estimate.memory, device.usable_bytes)
    yield
    phases = _times(times) if times is not None else b""
    yield
    numbers = pb.Estimate(
        trainable_parameters=estimate.trainable_parameters,
        total_parameters=estimate.total_parameters,
        optimizer_steps=estimate.optimizer_steps,
        processed_tokens=times.processed_tokens if times is not None else 0,
    )
    parts = [
        delimited(_SPEC, beside.spec),
        delimited(_MEMORY, peaks),
        delimited(_FIT, _fit(estimate.fit)),
        delimited(_TIME, phases) if times is not None else b"",
        delimited(_COST, _cost(cost)) if cost is not None else b"",
        numbers.SerializeToString(),
        *map(_note, estimate.notes),
        delimited(_REVISION, beside.revision),
        delimited(_DIGEST, beside.plan_digest.encode()),
        compared,
        pb.Estimate(fallbacks_taken=beside.fallbacks_taken).SerializeToString() if beside.fallbacks_taken else b"",
    ]
    return b"".join(parts)


def summary_bytes(estimate: Estimate, device: Device, revision: bytes, fallbacks_taken: int) -> bytes:
    """The totals of an estimate alone, as the bytes of its message."""
    usable = _usable(device.usable_bytes)
    numbers = pb.Estimate(
        trainable_parameters=estimate.trainable_parameters,
        total_parameters=estimate.total_parameters,
        optimizer_steps=estimate.optimizer_steps,
    )
    parts = [
        delimited(_MEMORY, _DEVICE.bytes_of(estimate.memory.device) + usable),
        delimited(_FIT, _fit(estimate.fit)),
    ]
    if estimate.times is not None:
        parts.append(delimited(_TIME, _TOTAL.bytes_of(estimate.times.total)))
    if estimate.cost is not None and estimate.cost.amount is not None:
        currency = pb.CostEstimate(currency_code=estimate.cost.currency).SerializeToString()
        parts.append(delimited(_COST, _AMOUNT.bytes_of(estimate.cost.amount) + currency))
    parts += [numbers.SerializeToString(), delimited(_REVISION, revision)]
    parts.append(pb.Estimate(fallbacks_taken=fallbacks_taken).SerializeToString())
    return b"".join(parts)


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


def _memory(memory: Memory, usable_bytes: int) -> bytes:
    if not memory.written:
        parts = memory.parts
        components = _components(parts.kinds).bytes_in_columns(parts.low, parts.expected, parts.high, parts.sources)
        peaks = _PEAKS.bytes_of((memory.allocated, memory.reserved, memory.device))
        memory.written.extend((components + peaks, _HOST.bytes_of(memory.host)))
    before, host = memory.written
    return before + _usable(usable_bytes) + host


@lru_cache(maxsize=1024)
def _note(text: str) -> bytes:
    """The field of a note, most of which are in many answers."""
    return delimited(_NOTES, text.encode())


@cache
def _components(kinds: tuple[Component, ...]) -> Row:
    """The components that there are, of nine."""
    return Row(*(_COMPONENTS[kind] for kind in kinds))


@lru_cache(maxsize=1024)
def _usable(usable_bytes: int) -> bytes:
    return pb.MemoryEstimate(usable_device_bytes=usable_bytes).SerializeToString()


def _fit(fit: Fit) -> bytes:
    verdict, headroom = _VERDICTS[fit.verdict], fit.headroom_bytes
    found = pb.Fit(verdict=verdict, headroom_bytes=headroom, summary=fit.summary, probability=fit.probability)
    return found.SerializeToString()


def _times(times: Times) -> bytes:
    phases, seconds = zip(*times.phases, strict=True)
    return _durations(phases).bytes_of((*seconds, times.total, times.tokens_per_second, times.step))


@cache
def _durations(phases: tuple[Phase, ...]) -> Row:
    """The phases of a run, which are always the same, and what they amount to behind them."""
    return Row(*(_PHASES[phase] for phase in phases), _TOTAL, _RATE, _STEP)


def _cost(cost: Cost) -> bytes:
    before, after = _price(
        cost.price_id, (cost.currency, cost.provider, cost.price_date, cost.region), cost.hourly, cost.term
    )
    parts = [_AMOUNT.bytes_of(cost.amount) if cost.amount is not None else b"", before]
    for place, interval in ((_ENERGY, cost.energy_kwh), (_MONTHLY, cost.monthly), (_CARBON, cost.carbon_kg)):
        if interval is not None:
            parts.append(place.bytes_of(interval))
    parts.append(after)
    return b"".join(parts)


@lru_cache(maxsize=4096)
def _price(price_id: str, words: tuple[str, str, str, str], hourly: float, term: Term | None) -> tuple[bytes, bytes]:
    """What a price says of itself: the fields before the intervals that follow the amount, and those after.

    `words` are its currency, provider, date and region.
    """
    currency, provider, date, region = words
    before = pb.CostEstimate(
        currency_code=currency, price_id=price_id, provider=provider, price_date=date, hourly_price=hourly
    )
    value = term_value(term) if term is not None else pb.PRICE_TERM_UNSPECIFIED
    return before.SerializeToString(), pb.CostEstimate(term=value, region=region).SerializeToString()


def term_value(term: Term) -> pb.PriceTerm.ValueType:
    """How a price is committed to, as the contract has it."""
    return pb.PriceTerm.Value(f"PRICE_TERM_{term.name}")


def interval_message(interval: Interval) -> ev.Interval:
    """A predicted number with its sources."""
    return ev.Interval.FromString(interval_bytes(interval))
