# SPDX-License-Identifier: Apache-2.0
"""Complete recipes: the draft of a pack's rules with defaults and adaptations, and the source of each value."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import takewhile

from finetree_api.estimator.v1 import estimate_pb2
from finetree_api.types.v1 import check_pb2, run_spec_pb2
from finetree_runtime.runspec.resolve import resolve_spec

from finetree_recommender.method import Method
from finetree_recommender.recipe.draft import (
    MICRO_BATCH,
    PRECISION,
    SEQUENCE,
    device_of,
    draft,
    most_rows,
    sequence_length,
)
from finetree_recommender.recipe.tables import Rule, undivided, value_range
from finetree_recommender.request.inputs import Inputs
from finetree_recommender.rule_pack.answers import UNKNOWN
from finetree_recommender.rule_pack.fields import assign
from finetree_recommender.rule_pack.pack import Pack
from finetree_recommender.rule_pack.schema.recipe import Adaptation, Computed, Value

_ONE_ROW = {MICRO_BATCH: 1}
"""Settings of the adaptation that takes one row at a time."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """Complete RunSpec with the source of each value."""

    spec: run_spec_pb2.RunSpec
    sources: tuple[check_pb2.SettingSource, ...]
    """Sources in the order of the fields."""

    def rule_id(self, path: str) -> str:
        """Id of the rule that set a field."""
        return next(item.rule_id for item in self.sources if item.field_path == path)


def adaptations(pack: Pack, inputs: Inputs, method: Method) -> tuple[Adaptation, ...]:
    """Adaptations that shrink a method's recipe on this device, in the pack's order."""
    device, (length, _) = device_of(inputs, method), sequence_length(pack, inputs)
    # An unknown GPU is taken to compute in bfloat16, as its recipe does.
    kinds = {device.partition("_")[0], device} if device != UNKNOWN else {"gpu", "gpu_bf16"}
    rules = (
        rule
        for rule in pack.rules.adaptations
        if method in rule.methods
        and not kinds.isdisjoint(rule.devices)
        and not (inputs.divided and undivided(rule.set))
    )
    # Truncating at more tokens than the recipe has would not shorten it, nor would one row at a time change what
    # already takes one.
    return tuple(
        rule
        for rule in rules
        if (0 < rule.cut_rows_at < length)
        or (rule.set and not (rule.set == _ONE_ROW and not inputs.on_cpu and most_rows(pack, length) == 1))
    )


def uncut(rules: tuple[Adaptation, ...]) -> tuple[Adaptation, ...]:
    """Return the adaptations up to those that truncate rows."""
    return tuple(takewhile(lambda rule: not rule.cut_rows_at, rules))


def lossless(rules: tuple[Adaptation, ...]) -> tuple[Adaptation, ...]:
    """Return the adaptations up to the first that loses something: the end of rows, or the float32 weights."""
    return tuple(takewhile(lambda rule: not rule.cut_rows_at and PRECISION not in rule.set, rules))


def settings_of(rule: Adaptation) -> Mapping[str, Value]:
    """Settings of an adaptation by RunSpec path."""
    return {**rule.set, SEQUENCE: rule.cut_rows_at} if rule.cut_rows_at else rule.set


def questions(pack: Pack, inputs: Inputs, parameters: int | None) -> dict[Method, estimate_pb2.EstimateRunRequest]:
    """Build the estimator's requests for all methods."""
    return {method: question(pack, inputs, method, parameters=parameters) for method in Method}


def question(pack: Pack, inputs: Inputs, method: Method, *, parameters: int | None) -> estimate_pb2.EstimateRunRequest:
    """Build the estimator's request for the recipe of a method, with its adaptations as fallbacks.

    Rows are truncated by `cut_questions` alone. What no rule sets is left open. `parameters` of the base model choose
    the learning rate; None takes the rows for an unknown size. Of a CPU whose memory is not known the recipe with all
    adaptations is asked: nobody knows what it has to fit into, and what a method takes at its smallest tells most.
    """
    unlimited = inputs.on_cpu and not inputs.request.hardware.cpu.memory_bytes
    rules = uncut(adaptations(pack, inputs, method))
    applied, open_rules = (rules, ()) if unlimited else ((), rules)
    return estimate_pb2.EstimateRunRequest(
        view=estimate_pb2.ESTIMATE_VIEW_SUMMARY,
        spec=adapted_draft(pack, inputs, method, parameters=parameters, rules=applied),
        fallbacks=[_adapt(run_spec_pb2.RunSpec(), rule) for rule in open_rules],
        dataset_profile=inputs.profile,
        matrix_rates=inputs.matrix_rates,
    )


def cut_questions(pack: Pack, inputs: Inputs, parameters: int | None) -> dict[Method, estimate_pb2.EstimateRunRequest]:
    """Build the requests for recipes that truncate rows, after every other adaptation: for what else does not fit.

    The first row of a method's fallbacks is the longest length that its rules know.
    """
    found = {}
    for method in Method:
        rules = adaptations(pack, inputs, method)
        kept = len(uncut(rules))
        if kept == len(rules):
            continue
        found[method] = estimate_pb2.EstimateRunRequest(
            view=estimate_pb2.ESTIMATE_VIEW_SUMMARY,
            spec=adapted_draft(pack, inputs, method, parameters=parameters, rules=rules[: kept + 1]),
            fallbacks=[_adapt(run_spec_pb2.RunSpec(), rule) for rule in rules[kept + 1 :]],
            dataset_profile=inputs.profile,
        )
    return found


def adapted_draft(
    pack: Pack, inputs: Inputs, method: Method, *, parameters: int | None, rules: Iterable[Adaptation]
) -> run_spec_pb2.RunSpec:
    """Draft the recipe of a method with adaptations applied; what no rule sets is left to the estimator's defaults."""
    spec = draft(pack, inputs, method, parameters=parameters).spec
    for rule in rules:
        _adapt(spec, rule)
    return spec


def build(pack: Pack, inputs: Inputs, method: Method, *, parameters: int | None, adapted: int = 0) -> Recipe:
    """Build the recipe of a method, complete and with its sources, with its first `adapted` adaptations applied."""
    drawn = draft(pack, inputs, method, parameters=parameters)
    sources = {path: _source(pack, path, rule) for path, rule in drawn.rules.items()}
    for adaptation in adaptations(pack, inputs, method)[:adapted]:
        _adapt(drawn.spec, adaptation)
        because = Computed(adaptation.id, f"to make it fit: {adaptation.message}", adaptation.source)
        sources |= {path: _source(pack, path, because) for path in settings_of(adaptation)}
    # The source of an empty method message, as `full: {}` is.
    chosen = check_pb2.SettingSource(field_path=method.field, rule_id="verdict", reason="the recommended method")
    sources[method.field] = chosen
    resolved = resolve_spec(drawn.spec, profile=inputs.profile, matrix_rates=inputs.matrix_rates)
    return Recipe(resolved.spec, tuple(sources.get(item.field_path, item) for item in resolved.sources))


def _adapt(spec: run_spec_pb2.RunSpec, rule: Adaptation) -> run_spec_pb2.RunSpec:
    """Apply an adaptation to a spec, and return it."""
    for path, value in settings_of(rule).items():
        assign(spec, path, value)
    return spec


def _source(pack: Pack, path: str, rule: Rule) -> check_pb2.SettingSource:
    ends = value_range(rule)
    return check_pb2.SettingSource(
        field_path=path,
        rule_id=rule.id,
        reason=rule.reason,
        provenance=pack.provenance(rule.source),
        min=ends[0] if ends else None,
        max=ends[1] if ends else None,
    )
