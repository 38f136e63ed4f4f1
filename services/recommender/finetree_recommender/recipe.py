# SPDX-License-Identifier: Apache-2.0
"""A method's recipe: every field of the RunSpec, set by the pack's tables, with the rule behind each value."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from finetree_api.types.v1 import evidence_pb2 as ev
from finetree_api.types.v1 import run_spec_pb2 as rs
from finetree_runtime.defaults import UNKNOWN_SEQUENCE_LENGTH, cpu_precision, suggested_sequence_length
from finetree_runtime.plan import optimizer_steps, resolve_spec

from finetree_recommender.answers import UNKNOWN
from finetree_recommender.fields import assign, path_for, value_of
from finetree_recommender.inputs import Inputs
from finetree_recommender.methods import Method
from finetree_recommender.pack import Pack
from finetree_recommender.recipe_rules import Adaptation, BatchStart, Computed, Row, Table, Value


@dataclass(frozen=True, slots=True)
class Recipe:
    """A complete RunSpec and where each value comes from."""

    spec: rs.RunSpec
    sources: tuple[ev.SettingSource, ...]


def adaptations(pack: Pack, inputs: Inputs, method: Method) -> tuple[Adaptation, ...]:
    """Ways to shrink a method's recipe on this device, in the pack's order."""
    device = "cpu" if inputs.on_cpu else "gpu"
    rules = pack.rules.adaptations
    return tuple(rule for rule in rules if rule.set and method in rule.methods and device in rule.devices)


def build(pack: Pack, inputs: Inputs, method: Method, *, parameters: int | None, adapted: int = 0) -> Recipe:
    """The recipe of a method, with its first `adapted` adaptations applied.

    `parameters` of the base model choose the learning rate; None takes the rows for an unknown size.
    """
    return _Builder(pack, inputs, method, parameters).build(adapted)


class _Builder:
    """One pass over the rules for one method; each rule reads what earlier ones set."""

    def __init__(self, pack: Pack, inputs: Inputs, method: Method, parameters: int | None) -> None:
        self._pack = pack
        self._inputs = inputs
        self._method = method
        self._spec = _skeleton(inputs, method)
        self._sources: dict[str, ev.SettingSource] = {}
        self._numbers: dict[str, int | None] = {"parameters": parameters, "examples": inputs.examples}

    def build(self, adapted: int) -> Recipe:
        for table in self._tables(late=False):
            self._apply(table)
            if table.knob == "lora.rank":
                self._numbers["rank"] = value_of(self._spec, path_for("lora.rank", self._method))
        self._sequence_length()
        self._batch()
        self._micro_batch()
        examples = self._inputs.examples
        self._numbers["steps"] = optimizer_steps(self._spec, examples) if examples is not None else None
        for table in self._tables(late=True):
            self._apply(table)
        for rule in adaptations(self._pack, self._inputs, self._method)[:adapted]:
            for path, value in rule.set.items():
                self._set(path, value, Computed(rule.id, f"to make it fit: {rule.message}", rule.source))
        return self._finish()

    def _tables(self, *, late: bool) -> Iterator[Table]:
        profile = "EVIDENCE" if self._inputs.evidence_profile else "PLAYBOOK"
        for table in self._pack.rules.recipe:
            if self._method in table.methods and profile in table.profiles and late == (table.input == "steps"):
                yield table

    def _apply(self, table: Table) -> None:
        path = path_for(table.knob, self._method)
        row = self._row(table)
        if row is None or (path in self._sources and not table.factor):
            return
        value = row.value
        if table.factor or row.times:
            base = value_of(self._spec, path_for(row.times, self._method) if row.times else path)
            value = _product(base, value)
        caps = [t.cap for t in self._pack.rules.recipe if t.knob == table.knob and self._method in t.methods and t.cap]
        if caps and isinstance(value, float):
            value = min(value, *caps)
        self._set(path, value, row)

    def _row(self, table: Table) -> Row | None:
        if not table.input:
            return table.rows[0]
        if table.input in self._numbers or table.input in ("rank", "steps"):
            number = self._numbers.get(table.input)
            if number is not None:
                return _bracket(table.rows, number)
            word = UNKNOWN
        else:
            word = self._device() if table.input == "device" else self._inputs.answers.get(table.input)
        named = next((row for row in table.rows if word in row.equals), None)
        return named or next((row for row in table.rows if row.id == table.unknown and word == UNKNOWN), None)

    def _device(self) -> str:
        if self._inputs.on_cpu:
            precision: object = cpu_precision(self._inputs.request.hardware.cpu)
            return "cpu_fp32" if precision == rs.PRECISION_FP32 else "cpu_bf16"
        native = self._inputs.native_bf16
        return UNKNOWN if native is None else ("gpu_bf16" if native else "gpu_no_bf16")

    def _sequence_length(self) -> None:
        rules = self._pack.rules.sequence
        wanted = suggested_sequence_length(self._inputs.profile)
        value, rule = (wanted, rules.p99) if wanted else (UNKNOWN_SEQUENCE_LENGTH, rules.unknown)
        longest = self._inputs.model.longest if self._inputs.model is not None else 0
        if 0 < longest < value:
            value, rule = longest, rules.model
        self._set("training.sequence_length", value, rule)

    def _batch(self) -> None:
        rules, examples = self._pack.rules.batch, self._inputs.examples
        kind = self._inputs.answers.get("task_kind")
        start = next(rule for rule in rules.start if rule.applies(self._method, kind, examples))
        path, value = "training.effective_batch_size", start.value
        self._set(path, value, start)
        if examples is None:
            return
        while value > 1 and optimizer_steps(self._spec, examples) < rules.minimum_steps.value:
            value //= 2
            self._set(path, value, rules.minimum_steps)

    def _micro_batch(self) -> None:
        rules = self._pack.rules.batch
        devices = max(1, self._inputs.request.hardware.count)
        share = max(1, self._spec.training.effective_batch_size // devices)
        if self._inputs.on_cpu:
            self._set("training.micro_batch_size", share, rules.micro_cpu)
            return
        rows = max(1, rules.micro_tokens.value // self._spec.training.sequence_length)
        self._set("training.micro_batch_size", min(share, 1 << (rows.bit_length() - 1)), rules.micro_tokens)

    def _set(self, path: str, value: Value, rule: Row | BatchStart | Computed) -> None:
        assign(self._spec, path, value)
        limits = rule.range if isinstance(rule, Row | BatchStart) else ()
        source = ev.SettingSource(field_path=path, rule_id=rule.id, reason=rule.reason)
        source.provenance.CopyFrom(self._pack.provenance(rule.source))
        if limits:
            source.min, source.max = limits
        self._sources[path] = source

    def _finish(self) -> Recipe:
        resolved = resolve_spec(self._spec, profile=self._inputs.profile)
        chosen: Mapping[str, ev.SettingSource] = self._sources | {self._method.field: self._method_source()}
        return Recipe(resolved.spec, tuple(chosen.get(item.field_path, item) for item in resolved.sources))

    def _method_source(self) -> ev.SettingSource:
        """Source of an empty method message, as `full: {}` is."""
        return ev.SettingSource(field_path=self._method.field, rule_id="verdict", reason="the recommended method")


def _skeleton(inputs: Inputs, method: Method) -> rs.RunSpec:
    """What the request itself says of the run."""
    request = inputs.request
    spec = rs.RunSpec()
    for name in ("model", "dataset", "hardware", "ownership", "evaluation"):
        if request.HasField(name):
            getattr(spec, name).CopyFrom(getattr(request, name))
    if not request.HasField("dataset") and inputs.profile is not None:
        spec.dataset.profile.CopyFrom(inputs.profile)
    getattr(spec, method.field).SetInParent()
    return spec


def _bracket(rows: tuple[Row, ...], number: float) -> Row | None:
    row = next((row for row in rows if row.below is not None and number < row.below), None)
    return None if row is None or (row.at_least is not None and number < row.at_least) else row


def _product(base: float, factor: Value) -> Value:
    product = base * float(factor)
    # Ranks stay whole numbers; rates stay fractions.
    return int(product) if isinstance(base, int) and product == int(product) else product
