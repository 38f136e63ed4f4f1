# SPDX-License-Identifier: Apache-2.0
"""Every input as it was understood, in words; "unknown" where it was not given."""

from collections.abc import Iterator
from dataclasses import dataclass

from finetree_api.recommender.v1 import recommendation_pb2
from finetree_api.types.v1 import model_pb2, training_data_pb2

from finetree_recommender.estimator.values import Model
from finetree_recommender.formatting import decimal
from finetree_recommender.request.hardware import Device
from finetree_recommender.request.limits import max_seconds, stated_budget
from finetree_recommender.rule_pack.answers import ENUM_WORDS, PRIORITY_OF, SERVING_OF, UNKNOWN, Answers

_NUMBERED = {"time": "max_duration", "tasks": "task_count"}
"""Questions that a number answers where they are not answered themselves."""


@dataclass(frozen=True, slots=True)
class Echoed:
    """An input as it was understood."""

    field_path: str
    value: str
    known: bool


def echo(
    request: recommendation_pb2.RecommendRequest,
    answers: Answers,
    *,
    device: Device,
    model: Model | None,
    profile: training_data_pb2.DatasetProfile | None,
    evidence_profile: bool,
) -> Iterator[Echoed]:
    """Describe every input once; `evidence_profile` is whether the recipe prefers published numbers."""
    yield _echoed("model", _model_words(request.model, model) if request.HasField("model") else None)
    yield _echoed("hardware", _hardware_words(device))
    for period in ("month", "run"):
        usd = stated_budget(request, period)
        yield _echoed(f"budget_per_{period}", f"{decimal(usd)} USD" if usd is not None else None)
    yield _echoed("runs_per_month", f"{request.runs_per_month:g}" if request.HasField("runs_per_month") else None)
    seconds = max_seconds(request)
    yield _echoed("max_duration", f"{decimal(seconds)} s" if seconds is not None else None)
    for name in ENUM_WORDS:
        yield _echoed(name, _answer_words(name, answers.get(name), given=bool(getattr(request, name))))
    yield _echoed("task_count", str(request.task_count) if request.task_count else None)
    yield _echoed("serving", ", ".join(SERVING_OF[item].lower() for item in request.serving) or None)
    yield _echoed("priorities", ", ".join(PRIORITY_OF[item].lower() for item in request.priorities) or None)
    yield _echoed("can_rent", str(request.can_rent).lower() if request.HasField("can_rent") else None)
    yield _echoed("dataset_profile.examples", _data_words(profile) if profile is not None else None)
    # Never unknown: the pack has a default.
    yield _echoed("profile", "evidence" if evidence_profile else "playbook")


def _echoed(path: str, value: str | None) -> Echoed:
    return Echoed(path, value or UNKNOWN, value is not None)


def _data_words(profile: training_data_pb2.DatasetProfile) -> str:
    tokens = f", {profile.total_tokens:,} tokens" if profile.total_tokens else ""
    return f"{profile.examples:,} examples{tokens}"


def _answer_words(name: str, answer: str, *, given: bool) -> str | None:
    if answer == UNKNOWN:
        return None
    return answer.lower() if given else f"{answer.lower()}, from {_NUMBERED[name]}"


def _model_words(source: model_pb2.ModelSource, model: Model | None) -> str:
    kind = source.WhichOneof("source")
    words = source.name if kind == "name" else source.hub.id if kind == "hub" else _UNNAMED[kind == "path"]
    return f"{words}, {model.parameters:,} parameters" if model is not None and model.parameters else words


_UNNAMED = ("a shape", "a local model")


def _hardware_words(device: Device) -> str | None:
    hardware = device.hardware
    kind = hardware.WhichOneof("device")
    size = "memory unknown" if device.gb is None else f"{device.gb:g} GB"
    if device.unsupported:
        return f"{device.unsupported}, {size}, not supported yet"
    if kind is None:
        return None
    if kind == "cpu":
        cores, gib = hardware.cpu.cores, hardware.cpu.memory_bytes / 2**30
        return f"CPU, {cores or UNKNOWN} cores, {f'{gib:.1f} GiB' if gib else 'memory unknown'}"
    text = f"{hardware.accelerator or 'GPU'}, {size}"
    if hardware.count > 1:
        text = f"{hardware.count} x {text}"
    if device.gate_gb is not None and device.gate_gb != device.gb:
        text += f", sharded: {device.gate_gb:g} GB in all"
    return text
