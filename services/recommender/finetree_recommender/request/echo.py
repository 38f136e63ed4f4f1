# SPDX-License-Identifier: Apache-2.0
"""Every input as it was understood, in words; what was not given is "unknown"."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from finetree_api.recommender.v1 import recommender_pb2 as rec
from finetree_api.types.v1 import run_spec_pb2 as rs

from finetree_recommender.decision.limits import plain
from finetree_recommender.estimator.values import Model
from finetree_recommender.policy.answers import ENUM_WORDS, PRIORITY_OF, SERVING_OF, UNKNOWN, Answers
from finetree_recommender.request.hardware import Device

_NUMBERED = {"time": "deadline", "tasks": "task_count"}
"""Questions that a number answers where they have no answer of their own."""
_FIRST = Answers._fields.index(next(iter(ENUM_WORDS)))
"""Place of the first of the answers that are enums of the contract; the others follow it."""


class Listed(NamedTuple):
    """An input as it was understood."""

    field_path: str
    value: str
    known: bool


@dataclass(slots=True, eq=False)
class Block:
    """Inputs that stand together and are kept together; compared and hashed by identity, as a key of their bytes."""

    listed: tuple[Listed, ...]


def listing(
    request: rec.RecommendRequest,
    answers: Answers,
    device: Device,
    model: Model | None,
    profile: rs.DatasetProfile | None,
    *,
    evidence: bool,
) -> Iterator[Block]:
    """All inputs, each once; `evidence` is whether the recipe takes published numbers first."""
    yield _model(_model_words(request.model, model) if request.HasField("model") else None)
    yield _hardware(device)
    yield _limits(
        request.budget_usd_month if request.HasField("budget_usd_month") else None,
        request.budget_usd_run if request.HasField("budget_usd_run") else None,
        request.runs_per_month,
        request.deadline.ToNanoseconds() if request.HasField("deadline") else None,
    )
    yield _answered(answers[_FIRST : _FIRST + len(ENUM_WORDS)], (bool(request.time), bool(request.tasks)))
    rent = request.can_rent if request.HasField("can_rent") else None
    yield _others(request.task_count, tuple(request.serving), tuple(request.priorities), rent=rent)
    yield Block((_listed("dataset_profile.examples", _data_words(profile)),)) if profile is not None else _NO_DATA
    yield _EVIDENCE if evidence else _PLAYBOOK


def _listed(path: str, value: str | None) -> Listed:
    return Listed(path, value or UNKNOWN, value is not None)


@lru_cache(maxsize=4096)
def _model(words: str | None) -> Block:
    return Block((_listed("model", words),))


@lru_cache(maxsize=4096)
def _hardware(device: Device) -> Block:
    return Block((_listed("hardware", _hardware_words(device)),))


@lru_cache(maxsize=4096)
def _limits(month: float | None, run: float | None, runs: int, nanoseconds: int | None) -> Block:
    """What time and money there is."""
    listed = (
        _listed("budget_usd_month", f"{plain(month)} USD" if month is not None else None),
        _listed("budget_usd_run", f"{plain(run)} USD" if run is not None else None),
        _listed("runs_per_month", str(runs) if runs else None),
        _listed("deadline", f"{plain(nanoseconds / 1e9)} s" if nanoseconds is not None else None),
    )
    return Block(listed)


@lru_cache(maxsize=4096)
def _others(tasks: int, serving: tuple[int, ...], priorities: tuple[int, ...], *, rent: bool | None) -> Block:
    """What was wished beside; servers and priorities by number."""
    listed = (
        _listed("task_count", str(tasks) if tasks else None),
        _listed("serving", ", ".join(SERVING_OF[item].lower() for item in serving) or None),
        _listed("priorities", ", ".join(PRIORITY_OF[item].lower() for item in priorities) or None),
        _listed("can_rent", str(rent).lower() if rent is not None else None),
    )
    return Block(listed)


# Never unknown: the pack says it where the request does not.
_EVIDENCE, _PLAYBOOK = (Block((Listed("profile", words, known=True),)) for words in ("evidence", "playbook"))
_NO_DATA = Block((_listed("dataset_profile.examples", None),))


def _data_words(profile: rs.DatasetProfile) -> str:
    tokens = f", {profile.total_tokens} tokens" if profile.total_tokens else ""
    return f"{profile.examples} examples{tokens}"


@lru_cache(maxsize=8192)
def _answered(answers: tuple[str, ...], given: tuple[bool, bool]) -> Block:
    """The answers to questions, in the contract's order; `given` is whether the time and the tasks are answers."""
    told = dict(zip(_NUMBERED, given, strict=True))
    listed = (
        _listed(name, _answer_words(name, answer, given=told.get(name, True)))
        for name, answer in zip(ENUM_WORDS, answers, strict=True)
    )
    return Block(tuple(listed))


def _answer_words(name: str, answer: str, *, given: bool) -> str | None:
    if answer == UNKNOWN:
        return None
    return answer.lower() if given else f"{answer.lower()}, from {_NUMBERED[name]}"


def _model_words(source: rs.ModelSource, model: Model | None) -> str:
    kind = source.WhichOneof("source")
    words = source.name if kind == "name" else source.hub.id if kind == "hub" else _UNNAMED[kind == "path"]
    return f"{words}, {model.parameters} parameters" if model is not None and model.parameters else words


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
