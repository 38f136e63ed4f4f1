# SPDX-License-Identifier: Apache-2.0
"""Messages as cards: a job, an event, an estimate, a recommendation, a trainer's capacity."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

from finetree_api.estimator.v1 import estimate_pb2
from finetree_api.recommender.v1 import recommendation_pb2
from finetree_api.trainer.v1 import capacity_pb2, event_pb2, job_pb2
from finetree_api.types.v1 import estimate_summary_pb2, evidence_pb2, method_pb2
from google.protobuf.message import Message

from finetree.display import units
from finetree.display.card import Card, Table
from finetree.display.events import PHASES, event_line
from finetree.money import format_money
from finetree.quantities import cost_words, duration_words, memory_words

METHODS: dict[int, str] = {
    method_pb2.METHOD_FULL: "full fine-tuning",
    method_pb2.METHOD_LORA: "LoRA",
    method_pb2.METHOD_QLORA: "QLoRA",
    method_pb2.METHOD_PREFIX: "prefix tuning",
    method_pb2.METHOD_ADAPTER: "adapter layers",
}
FIT_TONES = {
    estimate_summary_pb2.FIT_VERDICT_FITS: "good",
    estimate_summary_pb2.FIT_VERDICT_TIGHT: "wait",
    estimate_summary_pb2.FIT_VERDICT_DOES_NOT_FIT: "bad",
}
STATE_TONES = {
    job_pb2.JOB_STATE_SUCCEEDED: "good",
    job_pb2.JOB_STATE_RUNNING: "good",
    job_pb2.JOB_STATE_FAILED: "bad",
    job_pb2.JOB_STATE_CANCELLED: "bad",
}
MOST_NOTES = 5
"""Largest number of cautions, remarks or remedies; `to_json` has them all."""


def card_of(message: Message) -> Card:
    """Make the card of a message.

    Raises:
        TypeError: It is none of the messages that have one; `finetree.to_json` takes any.
    """
    make = CARDS.get(message.DESCRIPTOR.full_name)
    if make is None:
        known = ", ".join(name.rpartition(".")[2] for name in CARDS)
        raise TypeError(f"{message.DESCRIPTOR.name} has no text of its own, only {known}; to_json takes any message")
    return make(message)


def job_card(job: job_pb2.Job, *, curve: tuple[float, ...] = (), notes: tuple[str, ...] = ()) -> Card:
    """Make the card of a job, with a loss by step and newest lines where somebody follows it."""
    at = job.progress
    facts = [
        ("name", job.display_name),
        ("task", job.WhichOneof("task") or ""),
        ("model", _model(job)),
        ("phase", PHASES.get(at.phase, "")),
        ("step", f"{at.step} of {at.total_steps}" if at.total_steps else ""),
        ("left", _range(at, "eta_seconds", duration_words)),
        ("loss", _optional(job.metrics, "loss", lambda value: f"{value:.3f}")),
        ("evaluation loss", _optional(job.metrics, "eval_loss", lambda value: f"{value:.3f}")),
        ("exact match", _optional(job.metrics, "exact_match", lambda value: f"{value:.1%}")),
        ("peak memory", _optional(job.metrics, "peak_memory_bytes", units.size)),
        ("queue", f"{job.queue_position}. {job.blocked_by}".rstrip() if job.queue_position else ""),
        ("attempt", str(job.attempt) if job.attempt > 1 else ""),
        ("cost so far", format_money(job.cost.amount) if job.cost.HasField("amount") else ""),
        ("error", job.error.message),
    ]
    why = job.state_reason
    return Card(
        title=f"Job {job.name}",
        badge=units.word(job_pb2.JobState, job.state) if job.state else "",
        tone=STATE_TONES.get(job.state, "wait"),
        lead=" ".join(part for part in (why.text, why.remedy) if part),
        progress=at.fraction if job.state else None,
        facts=_given(facts),
        curve=curve,
        notes=notes,
    )


def event_card(event: event_pb2.JobEvent) -> Card:
    """Make the card of an event."""
    level = units.word(event_pb2.EventLevel, event.level) if event.level else ""
    tones = {event_pb2.EVENT_LEVEL_ERROR: "bad", event_pb2.EVENT_LEVEL_WARNING: "wait"}
    when = event.event_time.ToJsonString() if event.HasField("event_time") else ""
    return Card(
        title=f"Event {event.seq}, {units.word(event_pb2.EventKind, event.kind)}",
        badge=level,
        tone=tones.get(event.level, ""),
        lead=event_line(event) or event.message,
        facts=_given(
            [("job", event.job), ("time", when), ("attempt", str(event.attempt) if event.attempt > 1 else "")]
        ),
    )


def estimate_card(estimate: estimate_pb2.Estimate) -> Card:
    """Make the card of an estimate."""
    memory, time, cost = estimate.memory, estimate.time, estimate.cost
    trained = f"{units.count(estimate.trainable_parameters)} of {units.count(estimate.total_parameters)}"
    sure = estimate.confidence
    facts = [
        (
            "memory",
            _memory(memory, memory.usable_device_bytes),
        ),
        ("host memory", _memory(memory, field="host_bytes")),
        ("time", _range(time, "total_seconds", duration_words)),
        ("cost", _range(cost, "total", cost_words)),
        ("price", ", ".join(part for part in (cost.price_id, cost.provider, cost.price_date) if part)),
        ("optimizer steps", str(estimate.optimizer_steps) if estimate.optimizer_steps else ""),
        ("trained parameters", trained if estimate.total_parameters else ""),
        ("confidence", _confidence(sure) if estimate.HasField("confidence") else ""),
        ("plan", estimate.plan_digest),
    ]
    components = tuple(
        (
            item.label or units.word(estimate_pb2.MemoryComponentKind, item.kind),
            *(units.size(value) for value in (item.bytes.low, item.bytes.expected, item.bytes.high)),
        )
        for item in memory.components
    )
    return Card(
        title="Estimate",
        badge=units.word(estimate_summary_pb2.FitVerdict, estimate.fit.verdict) if estimate.fit.verdict else "",
        tone=FIT_TONES.get(estimate.fit.verdict, ""),
        lead=estimate.fit.summary,
        facts=_given(facts),
        tables=(Table(("Memory", ">Low", ">Expected", ">High"), components),) if components else (),
        notes=_notes(
            [*(remedy.summary for remedy in estimate.remedies), *(remark.message for remark in estimate.remarks)]
        ),
    )


def recommendation_card(answer: recommendation_pb2.RecommendResponse) -> Card:
    """Make the card of a recommendation."""
    method = answer.verdict.method
    found = answer.estimate
    facts = [
        (
            "memory",
            _memory(found, found.usable_device_bytes),
        ),
        ("time", _range(found, "total_seconds", duration_words)),
        ("cost", _range(found, "cost", cost_words)),
        (
            "confidence",
            units.word(evidence_pb2.ConfidenceLevel, answer.confidence.level) if answer.confidence.level else "",
        ),
        ("decided by", answer.verdict.rule_id),
        ("plan", answer.plan_digest),
    ]
    rows = tuple(
        (
            _method(item.method),
            units.word(recommendation_pb2.MethodVerdict, item.verdict) if item.verdict else "",
            units.size(item.device_bytes.expected) if item.HasField("device_bytes") else "",
            units.duration(item.total_seconds.expected) if item.HasField("total_seconds") else "",
            f"{item.quality_percent.expected:.0f} %" if item.HasField("quality_percent") else "",
            "; ".join(reason.message for reason in item.reasons[:2]),
        )
        for item in answer.methods
    )
    trains = answer.HasField("spec")
    return Card(
        title=f"Recommendation: {_method(method)}" if method else "Recommendation",
        badge=units.word(estimate_summary_pb2.FitVerdict, found.fit) if found.fit else "" if trains else "no recipe",
        tone=FIT_TONES.get(found.fit, "" if trains else "bad"),
        lead=answer.summary or answer.verdict.headline,
        facts=_given(facts),
        tables=(Table(("Method", "Verdict", ">Memory", ">Time", ">Quality", "Why"), rows),) if rows else (),
        notes=_notes([*(caution.message for caution in answer.cautions), *(way.message for way in answer.ways_out)]),
    )


def capacity_card(capacity: capacity_pb2.GetCapacityResponse) -> Card:
    """Make the card of what a trainer runs on."""
    rows = tuple(
        (
            node.name,
            device.id,
            device.display_name,
            f"{units.size(device.free_bytes)} of {units.size(device.total_bytes)}",
            *_promises(device),
            f"{device.free_slots} of {device.slots}",
            ", ".join(name.rpartition("/")[2] for name in device.running_jobs),
        )
        for node in capacity.nodes
        for device in node.devices
    )
    methods = ", ".join(_method(method) for method in capacity.capabilities.methods)
    facts = [
        ("queue", str(capacity.queue_length)),
        ("trains", methods),
        *((f"processor of {node.name}", _processor(node)) for node in capacity.nodes),
        *((f"cores of {node.name}", _cores(node.processors)) for node in capacity.nodes),
        *((f"fault of {device.id}", device.fault) for node in capacity.nodes for device in node.devices),
    ]
    columns = "Node", "Device", "Name", ">Free memory", ">Promised", ">Available", ">Free slots", "Running"
    return Card(title="Capacity", facts=_given(facts), tables=(Table(columns, rows),) if rows else ())


CARDS: dict[str, Callable[[Any], Card]] = {
    "finetree_api.trainer.v1.Job": job_card,
    "finetree_api.trainer.v1.JobEvent": event_card,
    "finetree_api.trainer.v1.GetCapacityResponse": capacity_card,
    "finetree_api.estimator.v1.Estimate": estimate_card,
    "finetree_api.recommender.v1.RecommendResponse": recommendation_card,
}
"""Makers of cards by the full name of their message."""


def _given(facts: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    return tuple((name, value) for name, value in facts if value)


def _notes(lines: list[str]) -> tuple[str, ...]:
    shown = [line for line in lines if line]
    more = len(shown) - MOST_NOTES
    return (*shown[:MOST_NOTES], f"and {more} more") if more > 0 else tuple(shown)


def _optional(message: Message, field: str, words: Callable[[Any], str]) -> str:
    """Format a field that is there, and finite."""
    if not message.HasField(field):
        return ""
    value = getattr(message, field)
    return words(value) if math.isfinite(value) else "not finite"


def _memory(message: Message, usable_bytes: int = 0, *, field: str = "device_bytes") -> str:
    return _range(message, field, lambda interval: memory_words(interval, usable_bytes))


def _range(message: Message, field: str, words: Callable[[Any], str]) -> str:
    """Format an interval that is there, and finite."""
    if not message.HasField(field):
        return ""
    interval = getattr(message, field)
    ends = interval.amount if isinstance(interval, evidence_pb2.MoneyInterval) else interval
    return words(interval) if all(map(math.isfinite, (ends.low, ends.expected, ends.high))) else "not finite"


def _method(method: int) -> str:
    return METHODS.get(method) or units.word(method_pb2.Method, method)


def _model(job: job_pb2.Job) -> str:
    source = job.train.spec.model if job.HasField("train") else job.prepare.model
    if job.HasField("evaluate"):
        source = job.evaluate.model
    return source.name or source.hub.id or source.path


def _confidence(sure: estimate_pb2.EstimateConfidence) -> str:
    levels = [("memory", sure.memory), ("time", sure.time)]
    return ", ".join(f"{name} {units.word(evidence_pb2.ConfidenceLevel, level)}" for name, level in levels if level)


def _processor(node: capacity_pb2.Node) -> str:
    rates = (("bf16", node.matrix_rates.bf16_flops_per_second), ("fp32", node.matrix_rates.fp32_flops_per_second))
    return ", ".join([node.cpu_name or "CPU", *(f"{name} {units.rate(rate)}" for name, rate in rates if rate)])


def _promises(device: capacity_pb2.Device) -> tuple[str, str]:
    """Format what of a device's memory is promised to jobs and not taken, and what a job that starts now could have."""
    if not device.HasField("memory"):  # a server of before
        return "-", units.size(device.free_bytes)
    return units.size(device.memory.promised_bytes), units.size(device.memory.available_bytes)


def _cores(use: capacity_pb2.ProcessorUse) -> str:
    """Format who computes on the processors of a machine."""
    if not use.cores:
        return ""
    return f"{use.cores}, {use.used_by_us:.1f} used by the trainer and its jobs, {use.used_by_others:.1f} by others"
