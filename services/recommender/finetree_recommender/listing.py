# SPDX-License-Identifier: Apache-2.0
"""Every input as it was understood, in words; what was not given is "unknown"."""

from collections.abc import Iterator
from functools import lru_cache
from itertools import starmap
from typing import NamedTuple

from finetree_api.recommender.v1 import recommender_pb2 as rec
from finetree_api.types.v1 import run_spec_pb2 as rs

from finetree_recommender.answers import ENUM_WORDS, PRIORITY_OF, SERVING_OF, UNKNOWN, Answers
from finetree_recommender.demands import plain
from finetree_recommender.estimates import Model
from finetree_recommender.hardware import Device

_NUMBERED = {"time": "deadline", "tasks": "task_count"}
"""Questions that a number answers where they have no answer of their own."""
_FIRST = Answers._fields.index(next(iter(ENUM_WORDS)))
"""Place of the first of the answers that are enums of the contract; the others follow it."""


class Listed(NamedTuple):
    """An input as it was understood."""

    field_path: str
    value: str
    known: bool


def listing(
    request: rec.RecommendRequest,
    answers: Answers,
    device: Device,
    model: Model | None,
    profile: rs.DatasetProfile | None,
    *,
    evidence: bool,
) -> Iterator[Listed]:
    """All inputs, each once; `evidence` is whether the recipe takes published numbers first."""
    yield from starmap(_listed, _numbers(request, device, model))
    yield from _answered(answers[_FIRST : _FIRST + len(ENUM_WORDS)], (bool(request.time), bool(request.tasks)))
    yield from starmap(_listed, _others(request, profile))
    # Never unknown: the pack says it where the request does not.
    yield Listed("profile", "evidence" if evidence else "playbook", known=True)


def _listed(path: str, value: str | None) -> Listed:
    return Listed(path, value or UNKNOWN, value is not None)


def _numbers(request: rec.RecommendRequest, device: Device, model: Model | None) -> Iterator[tuple[str, str | None]]:
    yield "model", _model_words(request.model, model) if request.HasField("model") else None
    yield "hardware", _hardware_words(device)
    for name in ("budget_usd_month", "budget_usd_run"):
        yield name, f"{plain(getattr(request, name))} USD" if request.HasField(name) else None
    yield "runs_per_month", str(request.runs_per_month) if request.runs_per_month else None
    yield "deadline", f"{plain(request.deadline.ToNanoseconds() / 1e9)} s" if request.HasField("deadline") else None


def _others(request: rec.RecommendRequest, profile: rs.DatasetProfile | None) -> Iterator[tuple[str, str | None]]:
    yield "task_count", str(request.task_count) if request.task_count else None
    yield "serving", ", ".join(SERVING_OF[item].lower() for item in request.serving) or None
    yield "priorities", ", ".join(PRIORITY_OF[item].lower() for item in request.priorities) or None
    yield "can_rent", str(request.can_rent).lower() if request.HasField("can_rent") else None
    yield "dataset_profile.examples", _data_words(profile) if profile is not None else None


def _data_words(profile: rs.DatasetProfile) -> str:
    tokens = f", {profile.total_tokens} tokens" if profile.total_tokens else ""
    return f"{profile.examples} examples{tokens}"


@lru_cache(maxsize=8192)
def _answered(answers: tuple[str, ...], given: tuple[bool, bool]) -> tuple[Listed, ...]:
    """The answers to questions, in the contract's order; `given` is whether the time and the tasks are answers."""
    told = dict(zip(_NUMBERED, given, strict=True))
    return tuple(
        _listed(name, _answer_words(name, answer, given=told.get(name, True)))
        for name, answer in zip(ENUM_WORDS, answers, strict=True)
    )


def _answer_words(name: str, answer: str, *, given: bool) -> str | None:
    if answer == UNKNOWN:
        return None
    return answer.lower() if given else f"{answer.lower()}, from {_NUMBERED[name]}"


def _model_words(source: rs.ModelSource, model: Model | None) -> str:
    kind = source.WhichOneof("source")
    words = {"hub": source.hub.id, "name": source.name, "path": "a local model"}.get(str(kind), "a shape")
    return f"{words}, {model.parameters} parameters" if model is not None and model.parameters else words


def _hardware_words(device: Device) -> str | None:
    hardware = device.hardware
    kind = hardware.WhichOneof("device")
    if kind is None:
        return None
    if kind == "cpu":
        cores, gib = hardware.cpu.cores, hardware.cpu.memory_bytes / 2**30
        return f"CPU, {cores or UNKNOWN} cores, {f'{gib:.1f} GiB' if gib else 'memory unknown'}"
    size = "memory unknown" if device.gb is None else f"{device.gb:g} GB"
    text = f"{hardware.accelerator or 'GPU'}, {size}"
    if hardware.count > 1:
        text = f"{hardware.count} x {text}"
    if device.gate_gb is not None and device.gate_gb != device.gb:
        text += f", sharded: {device.gate_gb:g} GB in all"
    return text
