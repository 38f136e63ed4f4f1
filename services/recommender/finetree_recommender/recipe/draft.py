# SPDX-License-Identifier: Apache-2.0
"""A method's recipe as the pack's rules choose it: a value and its rule for each field, before any message is made.

A recommendation prices the recipes of all methods, so this is asked five times for each answer.
"""

from bisect import bisect_right
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

from finetree_api.types.v1 import run_spec_pb2 as rs
from finetree_runtime.runspec.defaults import UNKNOWN_SEQUENCE_LENGTH, cpu_precision
from finetree_runtime.runspec.resolve import steps_of

from finetree_recommender.method import Method
from finetree_recommender.policy.answers import UNKNOWN, unread
from finetree_recommender.policy.pack import Pack
from finetree_recommender.policy.schema.recipe_rules import BatchRules, BatchStart, Computed, Table
from finetree_recommender.recipe.tables import Choice, Reading, Tables, choice, tables_of
from finetree_recommender.request.inputs import Inputs

EPOCHS, SEQUENCE = "training.epochs", "training.sequence_length"
BATCH, MICRO_BATCH = "training.effective_batch_size", "training.micro_batch_size"


class Case(NamedTuple):
    """Everything of a request that a recipe's rules read."""

    reading: Reading
    """Whatever the method is: that of the reading is not read."""
    on_cpu: bool
    devices: int
    suggested_length: int
    """Tokens that keep most rows whole; 0 when lengths are unknown."""
    longest: int
    """Positions of the model; 0 when unknown."""
    rows: int | None
    """Rows of the data, exactly."""


class Part(NamedTuple):
    """Some of a recipe's fields."""

    choices: Mapping[str, Choice]
    """By RunSpec path, in the order in which they were made."""
    raw: bytes
    """All of them as a RunSpec, as bytes of the wire."""
    rules: tuple[str, ...]
    """Ids of what chose them."""


@dataclass(frozen=True, slots=True, eq=False)
class Start:
    """What early tables chose; compared and hashed by identity, as a key of what is kept for it."""

    reading: Reading
    part: Part
    epochs: float
    batch: BatchStart


class Draft(NamedTuple):
    """A recipe: what early tables chose, lengths and batches, and what tables chose that read the number of steps."""

    start: Start
    sizes: Part
    late: Part

    @property
    def choices(self) -> Mapping[str, Choice]:
        """By RunSpec path; what was chosen later stands."""
        return {**self.start.part.choices, **self.sizes.choices, **self.late.choices}

    @property
    def raw(self) -> bytes:
        """All of them as a RunSpec, as bytes of the wire: of a field that is there twice, the later value counts."""
        return self.start.part.raw + self.sizes.raw + self.late.raw

    @property
    def rules(self) -> tuple[Hashable, ...]:
        """Drafts of which this is the same have the same rules behind their fields, whatever the values."""
        return self.start.part.rules, self.sizes.rules, self.late.rules


def drafts_of(pack: Pack, inputs: Inputs, parameters: int | None) -> Mapping[Method, Draft]:
    """The recipes of a request by all methods; `parameters` are those of the base model."""
    found: Mapping[Method, Draft] | None = inputs.kept.get((pack, parameters))
    if found is None:
        found = inputs.kept[pack, parameters] = drafts(pack, case_of(pack, inputs, parameters))
    return found


def case_of(pack: Pack, inputs: Inputs, parameters: int | None) -> Case:
    """What the rules read of a request."""
    examples = inputs.examples
    profile = "EVIDENCE" if inputs.evidence_profile else "PLAYBOOK"
    reading = Reading(
        method=Method.FULL,
        answers=inputs.answers.without(_unread(pack, profile)),
        profile=profile,
        device=device_of(inputs),
        parameters=None if parameters is None else _standing_for(_marks(pack, profile, "parameters"), parameters),
        examples=None if examples is None else _standing_for(_marks(pack, profile, "examples"), examples),
    )
    return Case(
        reading=reading,
        on_cpu=inputs.on_cpu,
        devices=max(1, inputs.hardware.count),
        suggested_length=inputs.suggested_length,
        longest=inputs.model.longest if inputs.model is not None else 0,
        rows=examples,
    )


def drafts(pack: Pack, case: Case) -> dict[Method, Draft]:
    """The recipes that a pack's rules choose, by method.

    The number of rows differs from request to request, but rules read no more of it than the range that it lies in, and
    the batch and the optimizer steps that come of it: the parts of recipes are kept by those.
    """
    tokens, rule = sequence_length(pack, case.suggested_length, case.longest)
    devices, entangled = 0 if case.on_cpu else case.devices, _entangled(pack)
    found = {}
    for method, start in _starts(pack, case.reading).items():
        batch, steps = (None, None) if case.rows is None else _pace(pack, start, case.rows)
        sizes = _sizes(pack, (start.batch.id, rule.id), tokens, batch, devices)
        late = _late(pack, start, steps, sizes) if entangled else _late_alone(pack, start, steps)
        found[method] = Draft(start, sizes, late)
    return found


def _pace(pack: Pack, start: Start, rows: int) -> tuple[int, float]:
    """Rows of a batch, and what stands for the optimizer steps that come of it."""
    batch, least = start.batch.value, pack.rules.batch.minimum_steps.value
    while (taken := steps_of(rows, batch=batch, epochs=start.epochs)) < least and batch > 1:
        batch //= 2
    return batch, _standing_for(_marks(pack, start.reading.profile, "steps"), taken)


@lru_cache(maxsize=2048)
def _starts(pack: Pack, reading: Reading) -> Mapping[Method, Start]:
    """What is chosen before the lengths and the number of steps are read, by method: all of them are asked for.

    The method of the reading is not read.
    """
    return {method: _start(pack, reading._replace(method=method)) for method in Method}


def _start(pack: Pack, reading: Reading) -> Start:
    choices = Tables(pack, reading, {}).apply(tables_of(pack, reading.method, reading.profile)[0])
    kind = reading.answers.get("task_kind")
    batch = next(rule for rule in pack.rules.batch.start if rule.applies(reading.method, kind, reading.examples))
    return Start(reading, _part(choices), choices[EPOCHS].value if EPOCHS in choices else 0.0, batch)


@lru_cache(maxsize=8192)
def _sizes(pack: Pack, rule_ids: tuple[str, str], tokens: int, batch: int | None, devices: int) -> Part:
    """Lengths and batches, by the ids of the rules of the batch and of the length.

    `batch` is what comes of the number of rows (None: unknown), no `devices` mean a CPU.
    """
    rules, lengths = pack.rules.batch, pack.rules.sequence
    start = next(rule for rule in rules.start if rule.id == rule_ids[0])
    length = next(rule for rule in (lengths.p99, lengths.model, lengths.unknown) if rule.id == rule_ids[1])
    size = start.value if batch is None else batch
    share = max(1, size // max(1, devices))
    rows = max(1, rules.micro_tokens.value // tokens)
    micro = min(share, 1 << (rows.bit_length() - 1)) if devices else share
    return _part(
        {
            SEQUENCE: choice(SEQUENCE, tokens, length),
            BATCH: choice(BATCH, size, start if size == start.value else _halved(rules, start)),
            MICRO_BATCH: choice(MICRO_BATCH, micro, rules.micro_tokens if devices else rules.micro_cpu),
        }
    )


def _halved(rules: BatchRules, start: BatchStart) -> BatchStart:
    """The rule of a batch that was halved, with the range of its methods: from one row on."""
    most = next(rule.range[-1] for rule in rules.start if rule.general and start.methods[0] in rule.methods)
    least = rules.minimum_steps
    return replace(start, id=least.id, reason=least.reason, source=least.source, range=(1, most))


def _late(pack: Pack, start: Start, steps: float | None, sizes: Part) -> Part:
    """What tables choose that read the number of steps, where they read or set sizes too."""
    return _applied(pack, start, steps, {**start.part.choices, **sizes.choices})


@lru_cache(maxsize=16384)
def _late_alone(pack: Pack, start: Start, steps: float | None) -> Part:
    """What they choose where they do not."""
    return _applied(pack, start, steps, start.part.choices)


def _applied(pack: Pack, start: Start, steps: float | None, before: Mapping[str, Choice]) -> Part:
    reading = start.reading
    after = Tables(pack, reading, before).apply(tables_of(pack, reading.method, reading.profile)[1], steps)
    return _part({path: item for path, item in after.items() if before.get(path) is not item})


def _part(choices: Mapping[str, Choice]) -> Part:
    raw = b"".join([choice.raw for choice in choices.values()])
    return Part(choices, raw, tuple([choice.rule.id for choice in choices.values()]))


@lru_cache(maxsize=64)
def _entangled(pack: Pack) -> bool:
    """Whether tables that read the number of steps read or set lengths or batches too."""
    late = [table for table in pack.rules.recipe if table.input == "steps"]
    named = {table.knob for table in late} | {row.times for table in late for row in table.rows}
    return not named.isdisjoint((SEQUENCE, BATCH, MICRO_BATCH))


@lru_cache(maxsize=256)
def _marks(pack: Pack, profile: str, name: str) -> tuple[float, ...]:
    """Where along a number some rule of a profile's recipes begins or ends."""
    found: set[float] = set()
    for table in _tables(pack, profile):
        if table.input == name:
            found.update(end for row in table.rows for end in (row.below, row.at_least) if end is not None)
        if name == "parameters":
            found.add(table.parameters_from)
    if name == "examples":
        found.update(rule.below for rule in pack.rules.batch.start if rule.below is not None)
    return tuple(sorted(found))


def _standing_for(marks: tuple[float, ...], number: float) -> float:
    """The lowest number that lies on the same side of every mark."""
    place = bisect_right(marks, number)
    return marks[place - 1] if place else 0


def _tables(pack: Pack, profile: str) -> Iterator[Table]:
    return (table for table in pack.rules.recipe if profile in table.profiles)


@lru_cache(maxsize=64)
def _unread(pack: Pack, profile: str) -> tuple[str, ...]:
    """Inputs that no rule of a profile's recipes reads."""
    read = {"task_kind", *(table.input for table in _tables(pack, profile))}
    return unread(read)


def sequence_length(pack: Pack, suggested: int, longest: int) -> tuple[int, Computed]:
    """Tokens of a sequence, and the rule: what the rows need, at most the `longest` of the model (0: unknown)."""
    rules = pack.rules.sequence
    value, rule = (suggested, rules.p99) if suggested else (UNKNOWN_SEQUENCE_LENGTH, rules.unknown)
    return (longest, rules.model) if 0 < longest < value else (value, rule)


def device_of(inputs: Inputs) -> str:
    """What computes, and in which precision: the recipe input `device`."""
    if inputs.on_cpu:
        precision: object = cpu_precision(inputs.hardware.cpu)
        return "cpu_fp32" if precision == rs.PRECISION_FP32 else "cpu_bf16"
    native = inputs.native_bf16
    return UNKNOWN if native is None else ("gpu_bf16" if native else "gpu_no_bf16")
