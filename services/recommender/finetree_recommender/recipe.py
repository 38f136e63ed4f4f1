# SPDX-License-Identifier: Apache-2.0
"""Recipes: a draft of the pack's rules as a RunSpec, what makes it smaller, and the source behind each value."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from finetree_api.types.v1 import evidence_pb2 as ev
from finetree_api.types.v1 import run_spec_pb2 as rs
from finetree_runtime.defaults import suggested_sequence_length
from finetree_runtime.plan import resolve_spec

from finetree_recommender.drafting import SEQUENCE, Draft, Rule, case_of, draft, limits, sequence_length, setting
from finetree_recommender.inputs import Inputs
from finetree_recommender.methods import Method
from finetree_recommender.pack import Pack
from finetree_recommender.recipe_rules import Adaptation, Computed, Value


@dataclass(frozen=True, slots=True)
class Recipe:
    """A complete RunSpec and where each value comes from."""

    spec: rs.RunSpec
    sources: tuple[ev.SettingSource, ...]


def adaptations(pack: Pack, inputs: Inputs, method: Method) -> tuple[Adaptation, ...]:
    """Ways to shrink a method's recipe on this device, in the pack's order."""
    return _adaptations(pack, method, _length(pack, inputs), on_cpu=inputs.on_cpu)


def plain(pack: Pack, inputs: Inputs, method: Method, parameters: int | None) -> rs.RunSpec:
    """The recipe of a method without adaptations; what no rule sets is left open.

    `parameters` of the base model choose the learning rate; None takes the rows for an unknown size.
    """
    raw = _skeleton(inputs, method) + _joined(draft(pack, case_of(inputs, method, parameters)))
    return rs.RunSpec.FromString(raw)


def changes(pack: Pack, inputs: Inputs, method: Method) -> tuple[rs.RunSpec, ...]:
    """What each adaptation sets. Whoever takes one copies it."""
    return _changes(pack, method, _length(pack, inputs), on_cpu=inputs.on_cpu)


def build(pack: Pack, inputs: Inputs, method: Method, *, parameters: int | None, adapted: int = 0) -> Recipe:
    """The recipe of a method, with its first `adapted` adaptations applied, complete and with its sources."""
    choices = draft(pack, case_of(inputs, method, parameters))
    sources = {path: _source(pack, path, choice.rule) for path, choice in choices.items()}
    raw = _skeleton(inputs, method) + _joined(choices)
    for rule in adaptations(pack, inputs, method)[:adapted]:
        for path, value in _settings(rule).items():
            raw += setting(path, value)[0]
            sources[path] = _source(pack, path, Computed(rule.id, f"to make it fit: {rule.message}", rule.source))
    # The source of an empty method message, as `full: {}` is.
    reason = "the recommended method"
    sources[method.field] = ev.SettingSource(field_path=method.field, rule_id="verdict", reason=reason)
    resolved = resolve_spec(rs.RunSpec.FromString(raw), profile=inputs.profile)
    return Recipe(resolved.spec, tuple(sources.get(item.field_path, item) for item in resolved.sources))


def _length(pack: Pack, inputs: Inputs) -> int:
    longest = inputs.model.longest if inputs.model is not None else 0
    return sequence_length(pack, suggested_sequence_length(inputs.profile), longest)[0]


@lru_cache(maxsize=1024)
def _adaptations(pack: Pack, method: Method, length: int, *, on_cpu: bool) -> tuple[Adaptation, ...]:
    """`length` is that of the recipe's sequences, which a cut at more tokens would not shorten."""
    device = "cpu" if on_cpu else "gpu"
    rules = (rule for rule in pack.rules.adaptations if method in rule.methods and device in rule.devices)
    return tuple(rule for rule in rules if rule.set or 0 < rule.cut_rows_at < length)


@lru_cache(maxsize=1024)
def _changes(pack: Pack, method: Method, length: int, *, on_cpu: bool) -> tuple[rs.RunSpec, ...]:
    rules = _adaptations(pack, method, length, on_cpu=on_cpu)
    raws = (b"".join(setting(path, value)[0] for path, value in _settings(rule).items()) for rule in rules)
    return tuple(map(rs.RunSpec.FromString, raws))


def _settings(rule: Adaptation) -> Mapping[str, Value]:
    return {**rule.set, SEQUENCE: rule.cut_rows_at} if rule.cut_rows_at else rule.set


def _source(pack: Pack, path: str, rule: Rule) -> ev.SettingSource:
    source = ev.SettingSource(field_path=path, rule_id=rule.id, reason=rule.reason)
    source.provenance.CopyFrom(pack.provenance(rule.source))
    if ends := tuple(limits(rule)):
        source.min, source.max = ends
    return source


def _joined(choices: Draft) -> bytes:
    return b"".join(choice.raw for choice in choices.values())


def _skeleton(inputs: Inputs, method: Method) -> bytes:
    """What the request itself says of the run, as bytes of the wire."""
    request = inputs.request
    spec = rs.RunSpec()
    for name in ("model", "dataset", "ownership", "evaluation"):
        if request.HasField(name):
            getattr(spec, name).CopyFrom(getattr(request, name))
    if request.HasField("hardware"):
        spec.hardware.CopyFrom(inputs.hardware)
    if not request.HasField("dataset") and inputs.profile is not None:
        spec.dataset.profile.CopyFrom(inputs.profile)
    getattr(spec, method.field).SetInParent()
    return spec.SerializeToString()
