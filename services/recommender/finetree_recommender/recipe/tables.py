# SPDX-License-Identifier: Apache-2.0
"""Tables of a recipe: the first that has a row for a case sets its field.

Values are kept as bytes of the wire, which joined are a RunSpec.
"""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from finetree_api.types.v1 import run_spec_pb2 as rs

from finetree_recommender.method import Method
from finetree_recommender.policy.answers import UNKNOWN, Answers
from finetree_recommender.policy.fields import assign, path_for, value_of
from finetree_recommender.policy.pack import Pack
from finetree_recommender.policy.schema.recipe_rules import BatchStart, Computed, Row, Table, Value

Rule = Row | BatchStart | Computed


class Reading(NamedTuple):
    """What tables read of a request. Numbers stand for all that the tables do not tell apart."""

    method: Method
    answers: Answers
    """Those that recipes read; the others are unknown."""
    profile: str
    """Whose numbers: PLAYBOOK or EVIDENCE."""
    device: str
    """Answer of the recipe input `device`."""
    parameters: float | None
    """Of the base model; None takes the rows for an unknown size."""
    examples: float | None


class Choice(NamedTuple):
    """A value and why."""

    raw: bytes
    """A RunSpec with this field alone, as bytes of the wire."""
    value: Any
    """As the field holds it."""
    rule: Rule


def choice(path: str, value: Value, rule: Rule) -> Choice:
    """A value of a field."""
    raw, held = setting(path, value)
    return Choice(raw, held, rule)


@lru_cache(maxsize=8192, typed=True)
def setting(path: str, value: Value) -> tuple[bytes, Any]:
    """A RunSpec with one field, as bytes, and the value as the field holds it. Raises ValueError and TypeError."""
    spec = rs.RunSpec()
    assign(spec, path, value)
    return spec.SerializeToString(), value_of(spec, path)


class Tables:
    """Applies tables, one after the other; each reads what earlier ones chose."""

    def __init__(self, pack: Pack, reading: Reading, chosen: Mapping[str, Choice]) -> None:
        self._pack = pack
        self._reading = reading
        self._choices = dict(chosen)
        self._numbers: dict[str, float | None] = {"parameters": reading.parameters, "examples": reading.examples}

    def apply(self, tables: tuple[Table, ...], steps: float | None = None) -> dict[str, Choice]:
        """All choices after these tables; `steps` are the optimizer steps, None when unknown."""
        rank = path_for("lora.rank", self._reading.method)
        self._numbers |= {"steps": steps, "rank": self._choices[rank].value if rank in self._choices else None}
        for table in tables:
            self._apply(table)
            if table.knob == "lora.rank" and rank in self._choices:
                self._numbers["rank"] = self._choices[rank].value
        return self._choices

    def _apply(self, table: Table) -> None:
        method, path = self._reading.method, path_for(table.knob, self._reading.method)
        if path in self._choices and not table.factor:
            return
        row = self._row(table)
        if row is None:
            return
        value = row.value
        if table.factor or row.times:
            base = self._choices.get(path_for(row.times, method) if row.times else path)
            value = _product(base.value if base is not None else 0, value)
        caps = _caps(self._pack, table.knob, method)
        if caps and isinstance(value, float):
            value = min(value, *caps)
        self._choices[path] = choice(path, value, row)

    def _row(self, table: Table) -> Row | None:
        parameters = self._reading.parameters
        if parameters is not None and parameters < table.parameters_from:
            return None
        if not table.input:
            return table.rows[0]
        if table.input in self._numbers:
            number = self._numbers[table.input]
            if number is not None:
                return _bracket(table.rows, number)
            word = UNKNOWN
        else:
            word = self._reading.device if table.input == "device" else self._reading.answers.get(table.input)
        named = next((row for row in table.rows if word in row.equals), None)
        return named or next((row for row in table.rows if row.id == table.unknown and word == UNKNOWN), None)


@lru_cache(maxsize=256)
def tables_of(pack: Pack, method: Method, profile: str) -> tuple[tuple[Table, ...], tuple[Table, ...]]:
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
