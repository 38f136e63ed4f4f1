# SPDX-License-Identifier: Apache-2.0
"""A method's recipe as the pack's rules choose it: a value and its rule for each field, before any message is made.

A recommendation prices the recipes of all methods, so this is run five times for each answer; values are kept as bytes
of the wire, which joined are a RunSpec.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from finetree_api.types.v1 import run_spec_pb2 as rs
from finetree_runtime.defaults import UNKNOWN_SEQUENCE_LENGTH, cpu_precision, suggested_sequence_length
from finetree_runtime.plan import steps_of

from finetree_recommender.answers import UNKNOWN, Answers
from finetree_recommender.fields import assign, path_for, value_of
from finetree_recommender.inputs import Inputs
from finetree_recommender.methods import Method
from finetree_recommender.pack import Pack
from finetree_recommender.recipe_rules import BatchStart, Computed, Row, Table, Value

Rule = Row | BatchStart | Computed
EPOCHS, BATCH, SEQUENCE = "training.epochs", "training.effective_batch_size", "training.sequence_length"


@dataclass(frozen=True, slots=True)
class Case:
    """Everything of a request that a recipe's rules read."""

    method: Method
    answers: Answers
    evidence_profile: bool
    device: str
    """Answer of the recipe input `device`."""
    on_cpu: bool
    devices: int
    parameters: int | None
    """Of the base model; None takes the rows for an unknown size."""
    examples: int | None
    suggested_length: int
    """Tokens that keep most rows whole; 0 when lengths are unknown."""
    longest: int
    """Positions of the model; 0 when unknown."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A value and why."""

    raw: bytes
    """A RunSpec with this field alone, as bytes of the wire."""
    value: Any
    """As the field holds it."""
    rule: Rule


Draft = dict[str, Choice]
"""Choices by RunSpec path, in the order in which they were made."""


def case_of(inputs: Inputs, method: Method, parameters: int | None) -> Case:
    """What the rules read of a request."""
    hardware = inputs.request.hardware
    return Case(
        method=method,
        answers=inputs.answers,
        evidence_profile=inputs.evidence_profile,
        device=_device(inputs),
        on_cpu=inputs.on_cpu,
        devices=max(1, hardware.count),
        parameters=parameters,
        examples=inputs.examples,
        suggested_length=suggested_sequence_length(inputs.profile),
        longest=inputs.model.longest if inputs.model is not None else 0,
    )


@lru_cache(maxsize=2048)
def draft(pack: Pack, case: Case) -> Draft:
    """The recipe that a pack's rules choose. It may be kept: do not change it."""
    return _Drafting(pack, case).run()


@lru_cache(maxsize=8192, typed=True)
def setting(path: str, value: Value) -> tuple[bytes, Any]:
    """A RunSpec with one field, as bytes, and the value as the field holds it. Raises ValueError and TypeError."""
    spec = rs.RunSpec()
    assign(spec, path, value)
    return spec.SerializeToString(), value_of(spec, path)


def sequence_length(pack: Pack, suggested: int, longest: int) -> tuple[int, Computed]:
    """Tokens of a sequence, and the rule: what the rows need, at most the `longest` of the model (0: unknown)."""
    rules = pack.rules.sequence
    value, rule = (suggested, rules.p99) if suggested else (UNKNOWN_SEQUENCE_LENGTH, rules.unknown)
    return (longest, rules.model) if 0 < longest < value else (value, rule)


class _Drafting:
    """One pass over the rules; each rule reads what earlier ones chose."""

    def __init__(self, pack: Pack, case: Case) -> None:
        self._pack = pack
        self._case = case
        self._draft: Draft = {}
        self._numbers: dict[str, int | None] = {"parameters": case.parameters, "examples": case.examples}

    def run(self) -> Draft:
        early, late = _tables(self._pack, self._case.method, "EVIDENCE" if self._case.evidence_profile else "PLAYBOOK")
        for table in early:
            self._apply(table)
            if table.knob == "lora.rank" and (rank := self._draft.get(path_for("lora.rank", self._case.method))):
                self._numbers["rank"] = rank.value
        self._sequence_length()
        self._batch()
        self._micro_batch()
        self._numbers["steps"] = self._steps() if self._case.examples is not None else None
        for table in late:
            self._apply(table)
        return self._draft

    def _apply(self, table: Table) -> None:
        path = path_for(table.knob, self._case.method)
        if path in self._draft and not table.factor:
            return
        row = self._row(table)
        if row is None:
            return
        value = row.value
        if table.factor or row.times:
            base = self._draft.get(path_for(row.times, self._case.method) if row.times else path)
            value = _product(base.value if base is not None else 0, value)
        caps = _caps(self._pack, table.knob, self._case.method)
        if caps and isinstance(value, float):
            value = min(value, *caps)
        self._set(path, value, row)

    def _row(self, table: Table) -> Row | None:
        if self._case.parameters is not None and self._case.parameters < table.parameters_from:
            return None
        if not table.input:
            return table.rows[0]
        if table.input in self._numbers or table.input in ("rank", "steps"):
            number = self._numbers.get(table.input)
            if number is not None:
                return _bracket(table.rows, number)
            word = UNKNOWN
        else:
            word = self._case.device if table.input == "device" else self._case.answers.get(table.input)
        named = next((row for row in table.rows if word in row.equals), None)
        return named or next((row for row in table.rows if row.id == table.unknown and word == UNKNOWN), None)

    def _sequence_length(self) -> None:
        self._set(SEQUENCE, *sequence_length(self._pack, self._case.suggested_length, self._case.longest))

    def _batch(self) -> None:
        rules, case = self._pack.rules.batch, self._case
        kind = case.answers.get("task_kind")
        start = next(rule for rule in rules.start if rule.applies(case.method, kind, case.examples))
        value = start.value
        self._set(BATCH, value, start)
        while case.examples is not None and value > 1 and self._steps() < rules.minimum_steps.value:
            value //= 2
            self._set(BATCH, value, rules.minimum_steps)

    def _steps(self) -> int:
        epochs = self._draft[EPOCHS].value if EPOCHS in self._draft else 0.0
        return steps_of(self._case.examples or 0, batch=self._draft[BATCH].value, epochs=epochs)

    def _micro_batch(self) -> None:
        rules, path = self._pack.rules.batch, "training.micro_batch_size"
        share = max(1, self._draft[BATCH].value // self._case.devices)
        if self._case.on_cpu:
            self._set(path, share, rules.micro_cpu)
            return
        rows = max(1, rules.micro_tokens.value // self._draft[SEQUENCE].value)
        self._set(path, min(share, 1 << (rows.bit_length() - 1)), rules.micro_tokens)

    def _set(self, path: str, value: Value, rule: Rule) -> None:
        raw, held = setting(path, value)
        self._draft[path] = Choice(raw, held, rule)


@lru_cache(maxsize=256)
def _tables(pack: Pack, method: Method, profile: str) -> tuple[tuple[Table, ...], tuple[Table, ...]]:
    """A method's tables: those that do not read the number of steps, and those that do."""
    found = [table for table in pack.rules.recipe if method in table.methods and profile in table.profiles]
    late = [table.input == "steps" for table in found]
    return (
        tuple(table for table, waits in zip(found, late, strict=True) if not waits),
        tuple(table for table, waits in zip(found, late, strict=True) if waits),
    )


@lru_cache(maxsize=1024)
def _caps(pack: Pack, knob: str, method: Method) -> tuple[float, ...]:
    """Largest values that any table of a field allows."""
    return tuple(t.cap for t in pack.rules.recipe if t.knob == knob and method in t.methods and t.cap)


def _device(inputs: Inputs) -> str:
    if inputs.on_cpu:
        precision: object = cpu_precision(inputs.request.hardware.cpu)
        return "cpu_fp32" if precision == rs.PRECISION_FP32 else "cpu_bf16"
    native = inputs.native_bf16
    return UNKNOWN if native is None else ("gpu_bf16" if native else "gpu_no_bf16")


def _bracket(rows: tuple[Row, ...], number: float) -> Row | None:
    row = next((row for row in rows if row.below is not None and number < row.below), None)
    return None if row is None or (row.at_least is not None and number < row.at_least) else row


def _product(base: float, factor: Value) -> Value:
    product = base * float(factor)
    # Ranks stay whole numbers; rates stay fractions.
    return int(product) if isinstance(base, int) and product == int(product) else product


def limits(rule: Rule) -> Iterator[float]:
    """The sensible range of a value, lowest and highest; nothing where the rule states none."""
    yield from rule.range if isinstance(rule, Row | BatchStart) else ()
