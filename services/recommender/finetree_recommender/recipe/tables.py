# SPDX-License-Identifier: Apache-2.0
"""Tables of a recipe: the first that has a row for a case sets its field."""

from collections.abc import Mapping
from dataclasses import dataclass

from finetree.capabilities import UNDIVIDED_OPTIMIZERS
from finetree_api.types.v1 import run_spec_pb2, training_pb2

from finetree_recommender.method import Method
from finetree_recommender.rule_pack.answers import UNKNOWN, Answers
from finetree_recommender.rule_pack.fields import assign, path_for, value_of
from finetree_recommender.rule_pack.pack import Pack
from finetree_recommender.rule_pack.schema.recipe import BatchStart, Computed, Row, Table, Value

RANK = "lora.rank"
OPTIMIZER = "optimizer"
_UNDIVIDED = frozenset(training_pb2.Optimizer.Name(number) for number in UNDIVIDED_OPTIMIZERS)

Rule = Row | BatchStart | Computed
"""Rule that chose a value."""


@dataclass(frozen=True, slots=True)
class Reading:
    """Inputs of the tables."""

    method: Method
    answers: Answers
    profile: str
    """Recipe profile: PLAYBOOK or EVIDENCE."""
    device: str
    """Answer of the recipe input `device`."""
    parameters: int | None
    """Parameters of the base model; None takes the rows for an unknown size."""
    examples: int | None
    """Rows of the data."""
    divided: bool
    """Whether the recipe is divided over several devices."""


@dataclass(frozen=True, slots=True)
class Draft:
    """RunSpec under construction, with the rule of each path that was set."""

    spec: run_spec_pb2.RunSpec
    rules: dict[str, Rule]

    def set(self, path: str, value: Value, rule: Rule) -> None:
        """Set a field for a reason. Raises ValueError and TypeError where the field takes no such value."""
        assign(self.spec, path, value)
        self.rules[path] = rule

    def number(self, path: str) -> float | None:
        """Value of a field that a rule has set; None where none has."""
        return value_of(self.spec, path) if path in self.rules else None


def apply(draft: Draft, pack: Pack, reading: Reading, *, steps: int | None, late: bool) -> None:
    """Apply a method's tables to its draft, one after the other; each reads what earlier ones chose.

    `late` tables are those that read the number of optimizer `steps` (None: unknown), which the other tables decide.
    """
    for table in tables_of(pack, reading.method, reading.profile):
        if (table.input == "steps") is late:
            _apply(draft, pack, reading, table=table, steps=steps)


def tables_of(pack: Pack, method: Method, profile: str) -> tuple[Table, ...]:
    """Tables of a method's recipes in a profile."""
    return tuple(table for table in pack.rules.recipe if method in table.methods and profile in table.profiles)


def value_range(rule: Rule) -> tuple[float, ...]:
    """Sensible range of a value, lowest and highest; empty where the rule states none."""
    return rule.range if isinstance(rule, Row | BatchStart) else ()


def undivided(settings: Mapping[str, Value]) -> bool:
    """Whether settings ask for optimizer states that the trainer cannot divide over devices."""
    return settings.get(OPTIMIZER) in _UNDIVIDED


def _apply(draft: Draft, pack: Pack, reading: Reading, *, table: Table, steps: int | None) -> None:
    method, path = reading.method, path_for(table.knob, reading.method)
    if path in draft.rules and not table.factor:
        return
    row = _row(draft, reading, table, steps=steps)
    if row is None or (reading.divided and undivided({path: row.value})):
        return
    value = row.value
    if table.factor or row.times:
        value = _product(draft.number(path_for(row.times, method) if row.times else path) or 0, value)
    if isinstance(value, float):
        tables = (each for each in pack.rules.recipe if each.knob == table.knob and method in each.methods)
        value = min((value, *(each.cap for each in tables if each.cap)))
    draft.set(path, value, row)


def _row(draft: Draft, reading: Reading, table: Table, *, steps: int | None) -> Row | None:
    if reading.parameters is not None and reading.parameters < table.parameters_from:
        return None
    if not table.input:
        return table.rows[0]
    numbers = {
        "parameters": reading.parameters,
        "examples": reading.examples,
        "steps": steps,
        "rank": draft.number(path_for(RANK, reading.method)),
    }
    if (number := numbers.get(table.input)) is not None:
        return _bracket(table.rows, number)
    word = UNKNOWN if table.input in numbers else _word(reading, table.input)
    named = next((row for row in table.rows if word in row.equals), None)
    return named or next((row for row in table.rows if row.id == table.unknown and word == UNKNOWN), None)


def _word(reading: Reading, name: str) -> str:
    """Answer of an input of the tables that is no number."""
    if name == "device":
        return reading.device
    if name == "priority":
        return reading.answers.priorities[0] if reading.answers.priorities else UNKNOWN
    return reading.answers.get(name)


def _bracket(rows: tuple[Row, ...], number: float) -> Row | None:
    row = next((row for row in rows if row.below is not None and number < row.below), None)
    return None if row is None or (row.at_least is not None and number < row.at_least) else row


def _product(base: float, factor: Value) -> Value:
    # To 12 digits: 0.0001 times 3 is 0.0003 and not 0.00030000000000000003, where a person reads it.
    product = float(f"{base * float(factor):.12g}")
    # Ranks stay whole numbers; rates stay fractions.
    return int(product) if isinstance(base, int) and product == int(product) else product
