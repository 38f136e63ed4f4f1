# SPDX-License-Identifier: Apache-2.0
"""An estimate as a message, in each of its views."""

import json
from collections.abc import Iterable

from finetree_api.estimator.v1 import estimator_pb2 as pb
from finetree_api.types.v1 import evidence_pb2 as ev
from finetree_runtime.runspec.digest import plan_digest

from finetree_estimator.cost import Cost
from finetree_estimator.evidence.confidence import Confidence
from finetree_estimator.evidence.measured_runs import Near
from finetree_estimator.memory.fit import Fit, Verdict
from finetree_estimator.memory.peak import Memory
from finetree_estimator.messages.catalog import price_message, term_value
from finetree_estimator.messages.provenance import interval_message, optional_interval, provenance_message
from finetree_estimator.timing.phases import Times
from finetree_estimator.whatif.changes import Patch
from finetree_estimator.whatif.fallbacks import Answer
from finetree_estimator.whatif.hardware import Offer, Option
from finetree_estimator.whatif.largest import Largest
from finetree_estimator.whatif.playbook_comparison import Compared, compare
from finetree_estimator.whatif.remedies import Remedy


def summary_message(answer: Answer, revision: ev.Revision) -> pb.Estimate:
    """The SUMMARY view: totals alone."""
    estimate, run = answer.estimate, answer.parsed.run
    message = pb.Estimate(
        memory=pb.MemoryEstimate(
            device_bytes=interval_message(estimate.memory.device), usable_device_bytes=run.device.usable_bytes
        ),
        fit=_fit(estimate.fit),
        trainable_parameters=estimate.trainable_parameters,
        total_parameters=estimate.total_parameters,
        optimizer_steps=estimate.optimizer_steps,
        revision=revision,
        fallbacks_taken=answer.fallbacks_taken,
    )
    if estimate.times is not None:
        message.time.total_seconds.CopyFrom(interval_message(estimate.times.total))
    if estimate.cost is not None and estimate.cost.amount is not None:
        message.cost.amount.CopyFrom(interval_message(estimate.cost.amount))
        message.cost.currency_code = estimate.cost.currency
    return message


def basic_message(answer: Answer, revision: ev.Revision) -> pb.Estimate:
    """The BASIC view: everything that is computed without a search."""
    estimate, parsed = answer.estimate, answer.parsed
    examples = parsed.profile.examples if parsed.profile is not None else 0
    figures = compare(parsed.run, estimate, examples=examples, runs_per_month=parsed.request.runs_per_month)
    message = pb.Estimate(
        resolved_spec=parsed.spec,
        memory=_memory(estimate.memory, parsed.run.device.usable_bytes),
        fit=_fit(estimate.fit),
        trainable_parameters=estimate.trainable_parameters,
        total_parameters=estimate.total_parameters,
        optimizer_steps=estimate.optimizer_steps,
        notes=estimate.notes,
        revision=revision,
        plan_digest=plan_digest(parsed.spec, parsed.profile, revision),
        confidence=_confidence(estimate.confidence),
        playbook=map(_playbook_figure, figures),
        fallbacks_taken=answer.fallbacks_taken,
    )
    if estimate.times is not None:
        message.time.CopyFrom(_times(estimate.times))
        message.processed_tokens = estimate.times.processed_tokens
    if estimate.cost is not None:
        message.cost.CopyFrom(_cost(estimate.cost))
    return message


def full_message(
    answer: Answer,
    revision: ev.Revision,
    *,
    nearest: Iterable[Near],
    remedies: Iterable[Remedy],
    largest: Largest | None,
    smallest_hardware: Iterable[Option],
    offers: Iterable[Offer],
) -> pb.Estimate:
    """The FULL view: the BASIC one, and what searches found."""
    message = basic_message(answer, revision)
    found = pb.Estimate(
        nearest_evidence=map(_evidence_row, nearest),
        remedies=map(_remedy, remedies),
        smallest_hardware=map(_hardware_option, smallest_hardware),
        offers=map(_offer, offers),
    )
    if largest is not None:
        found.largest.CopyFrom(
            pb.LargestThatFits(micro_batch_size=largest.micro_batch, sequence_length=largest.sequence_length)
        )
    message.MergeFrom(found)
    return message


def patch_message(patch: Patch) -> ev.SpecPatch:
    """A new value of one field of a RunSpec."""
    return ev.SpecPatch(field_path=patch.path, json_value=json.dumps(patch.value), summary=patch.summary)


def _remedy(remedy: Remedy) -> pb.Remedy:
    """Changes that make a run fit, with the device peak after them."""
    return pb.Remedy(
        patches=[patch_message(patch) for change in remedy.changes for patch in change.patches],
        device_bytes=interval_message(remedy.peak),
        verdict=verdict_value(remedy.verdict),
        summary=remedy.summary,
    )


def _hardware_option(option: Option) -> pb.HardwareOption:
    """Hardware on which a run fits."""
    return pb.HardwareOption(
        accelerator=option.accelerator,
        count=option.count,
        sharding=option.sharding,
        device_bytes=interval_message(option.peak),
        usable_device_bytes=option.usable_bytes,
        verdict=verdict_value(option.verdict),
    )


def _evidence_row(near: Near) -> pb.EvidenceRow:
    """A measured run and how far it is."""
    return pb.EvidenceRow(
        description=near.row.description,
        peak_bytes=near.row.peak_bytes,
        tokens_per_second=near.row.tokens_per_second,
        distance=near.distance,
        provenance=provenance_message(near.row.source),
    )


def _offer(offer: Offer) -> pb.Offer:
    """A quote with the run on it."""
    return pb.Offer(
        price=price_message(offer.quote),
        count=offer.devices,
        hours=interval_message(offer.hours),
        amount=interval_message(offer.amount),
        verdict=verdict_value(offer.verdict),
    )


def verdict_value(verdict: Verdict) -> pb.FitVerdict.ValueType:
    """Whether a run fits, as the contract has it."""
    return pb.FitVerdict.Value(f"FIT_VERDICT_{verdict.name}")


def _memory(memory: Memory, usable_bytes: int) -> pb.MemoryEstimate:
    return pb.MemoryEstimate(
        components=[
            pb.MemoryComponent(
                kind=pb.MemoryComponentKind.Value(f"MEMORY_COMPONENT_KIND_{kind.name}"),
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


def _fit(fit: Fit) -> pb.Fit:
    return pb.Fit(
        verdict=verdict_value(fit.verdict),
        headroom_bytes=fit.headroom_bytes,
        summary=fit.summary,
        probability=fit.probability,
    )


def _times(times: Times) -> pb.TimeEstimate:
    return pb.TimeEstimate(
        phases=[
            pb.TimePhase(
                kind=pb.TimePhaseKind.Value(f"TIME_PHASE_KIND_{phase.name}"), seconds=interval_message(seconds)
            )
            for phase, seconds in times.phases
        ],
        total_seconds=interval_message(times.total),
        tokens_per_second=interval_message(times.tokens_per_second),
        step_seconds=interval_message(times.step),
    )


def _cost(cost: Cost) -> pb.CostEstimate:
    return pb.CostEstimate(
        amount=optional_interval(cost.amount),
        currency_code=cost.currency,
        energy_kwh=optional_interval(cost.energy_kwh),
        monthly_amount=optional_interval(cost.monthly),
        carbon_kg=optional_interval(cost.carbon_kg),
        price_id=cost.price_id,
        provider=cost.provider,
        price_date=cost.price_date,
        hourly_price=cost.hourly,
        region=cost.region,
        term=term_value(cost.term) if cost.term is not None else pb.PRICE_TERM_UNSPECIFIED,
    )


def _confidence(found: Confidence) -> pb.Confidence:
    return pb.Confidence(
        memory=pb.ConfidenceLevel.Value(f"CONFIDENCE_LEVEL_{found.memory.name}"),
        time=pb.ConfidenceLevel.Value(f"CONFIDENCE_LEVEL_{found.time.name}"),
        memory_distance=found.memory_distance,
        time_distance=found.time_distance,
        reasons=found.reasons,
    )


def _playbook_figure(compared: Compared) -> pb.PlaybookFigure:
    """A figure of the playbook beside the computed one."""
    figure, stated = compared.figure, compared.figure.stated
    return pb.PlaybookFigure(
        kind=pb.PlaybookFigureKind.Value(f"PLAYBOOK_FIGURE_KIND_{stated.kind.name}"),
        value=figure.value,
        stated_for=stated.stated_for,
        provenance=provenance_message(stated.source),
        interpolated=figure.interpolated,
        extrapolated=figure.extrapolated,
        computed=optional_interval(compared.computed),
        note=compared.note,
    )
