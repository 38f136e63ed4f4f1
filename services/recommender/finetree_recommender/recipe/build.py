# SPDX-License-Identifier: Apache-2.0
"""Recipes: a draft of the pack's rules as a RunSpec, what makes it smaller, and the source behind each value."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import NamedTuple

from finetree_api.estimator.v1 import estimator_pb2 as est
from finetree_api.recommender.v1 import recommender_pb2 as rec
from finetree_api.types.v1 import evidence_pb2 as ev
from finetree_api.types.v1 import run_spec_pb2 as rs
from finetree_runtime.runspec import resolve
from finetree_runtime.runspec.wire import delimited, key

from finetree_recommender.method import Method
from finetree_recommender.policy.answers import UNKNOWN
from finetree_recommender.policy.pack import Pack
from finetree_recommender.policy.schema.recipe_rules import Adaptation, Computed, Value
from finetree_recommender.recipe.draft import SEQUENCE, Draft, device_of, drafts_of, sequence_length
from finetree_recommender.recipe.tables import Rule, limits, setting
from finetree_recommender.request.inputs import Inputs


class Recipe(NamedTuple):
    """A complete RunSpec and where each value comes from."""

    spec: rs.RunSpec
    settings: bytes
    """The spec without its names, as `plan.resolved_settings` has it."""
    told: bytes
    """The sources as `setting_sources` of a reply, as bytes of the wire: most of them come again and again."""

    @property
    def sources(self) -> tuple[ev.SettingSource, ...]:
        """Where each value comes from, in field order."""
        return tuple(rec.RecommendResponse.FromString(self.told).setting_sources)


def adaptations(pack: Pack, inputs: Inputs, method: Method) -> tuple[Adaptation, ...]:
    """Ways to shrink a method's recipe on this device, in the pack's order."""
    return _adaptations(pack, method, _length(pack, inputs), device_of(inputs))


def questions(pack: Pack, inputs: Inputs, parameters: int | None, beside: bytes) -> dict[Method, bytes]:
    """What to ask the estimator for each method: its recipe without adaptations, and what each of those would set.

    Of a CPU whose memory is not known the recipe with all of them is asked: what a method takes at its smallest.

    What no rule sets is left open. `parameters` of the base model choose the learning rate; None takes the rows for an
    unknown size. `beside` is what is asked with every recipe. It and what is found are EstimateRunRequests in bytes of
    the wire.
    """
    named, length = _named(inputs), _length(pack, inputs)
    device, found = device_of(inputs), {}
    # Where nobody knows what there is to fit into, what a method takes at its smallest tells most.
    unlimited = inputs.on_cpu and not inputs.request.hardware.cpu.memory_bytes
    for method, drawn in drafts_of(pack, inputs, parameters).items():
        spec, adapted = named + _marker(method) + drawn.raw, b""
        if unlimited:
            spec += b"".join(map(_setting_of, _adaptations(pack, method, length, device)))
        else:
            adapted = _fallbacks(pack, method, length, device)
        found[method] = delimited(_SPEC, spec) + beside + adapted
    return found


def changes(pack: Pack, inputs: Inputs, method: Method) -> tuple[rs.RunSpec, ...]:
    """What each adaptation sets."""
    return tuple(rs.RunSpec.FromString(_setting_of(rule)) for rule in adaptations(pack, inputs, method))


def build(pack: Pack, inputs: Inputs, method: Method, *, parameters: int | None, adapted: int = 0) -> Recipe:
    """The recipe of a method, with its first `adapted` adaptations applied, complete and with its sources."""
    choices = drafts_of(pack, inputs, parameters)[method]
    applied = adaptations(pack, inputs, method)[:adapted] if adapted else ()
    given = _named(inputs) + _marker(method) + choices.raw + b"".join(map(_setting_of, applied))
    spec = rs.RunSpec.FromString(given)
    bare = resolve.bare_of(spec, profile=inputs.profile)
    settings, _ = resolve.resolution_of(bare)
    ids = tuple(rule.id for rule in applied)
    names = b"".join(map(_told_name, resolve.named_paths(spec)))
    # Settings of thousands of bytes come once.
    kept = _told_settings if len(bare.settings) <= resolve.LONGEST_KEPT else _told_settings.__wrapped__
    return Recipe(
        resolve.named_spec(settings, spec),
        settings,
        names + kept(pack, _Ruled(choices.rules, choices), method, ids, bare),
    )


@dataclass(frozen=True, slots=True)
class _Ruled:
    """A draft as a key: sources say which rules chose, and not what."""

    rules: tuple[Hashable, ...]
    draft: Draft = field(compare=False)


@lru_cache(maxsize=4096)
def _told_settings(pack: Pack, ruled: _Ruled, method: Method, applied: tuple[str, ...], bare: resolve.Bare) -> bytes:
    """The sources of settings as a reply has them; `applied` are the ids of the adaptations."""
    ours = _sources(pack, ruled.draft, method, applied)
    return b"".join([ours.get(item.field_path) or _in_reply(item) for item in resolve.resolution_of(bare)[1]])


def _in_reply(source: ev.SettingSource) -> bytes:
    return delimited(_SOURCES, source.SerializeToString())


@lru_cache(maxsize=1024)
def _told_name(path: str) -> bytes:
    """The source of a name that the request gave, as a reply has it."""
    return _in_reply(resolve.given(path))


def _sources(pack: Pack, choices: Draft, method: Method, applied: tuple[str, ...]) -> Mapping[str, bytes]:
    """Where each value comes from, by its path, as a reply has it; `applied` are the ids of the adaptations."""
    sources = {path: _source(pack, path, choice.rule) for path, choice in choices.choices.items()}
    for rule in (rule for rule in pack.rules.adaptations if rule.id in applied):
        for path in _settings(rule):
            sources[path] = _source(pack, path, Computed(rule.id, f"to make it fit: {rule.message}", rule.source))
    # The source of an empty method message, as `full: {}` is.
    reason = "the recommended method"
    sources[method.field] = _in_reply(ev.SettingSource(field_path=method.field, rule_id="verdict", reason=reason))
    return sources


def _length(pack: Pack, inputs: Inputs) -> int:
    """Tokens of a sequence of every recipe."""
    longest = inputs.model.longest if inputs.model is not None else 0
    return sequence_length(pack, inputs.suggested_length, longest)[0]


@lru_cache(maxsize=1024)
def _adaptations(pack: Pack, method: Method, length: int, device: str) -> tuple[Adaptation, ...]:
    """`length` is that of the recipe's sequences, which a cut at more tokens would not shorten."""
    # A GPU of which nothing is known computes in bfloat16, as its recipe does.
    kinds = {device.partition("_")[0], device} if device != UNKNOWN else {"gpu", "gpu_bf16"}
    rules = (rule for rule in pack.rules.adaptations if method in rule.methods and not kinds.isdisjoint(rule.devices))
    return tuple(rule for rule in rules if rule.set or 0 < rule.cut_rows_at < length)


@lru_cache(maxsize=1024)
def _fallbacks(pack: Pack, method: Method, length: int, device: str) -> bytes:
    """The adaptations as the fallbacks of a question, as bytes of the wire."""
    rules = _adaptations(pack, method, length, device)
    return b"".join(delimited(_FALLBACK, _setting_of(rule)) for rule in rules)


def _setting_of(rule: Adaptation) -> bytes:
    """What an adaptation sets, as a RunSpec in bytes of the wire."""
    return b"".join(setting(path, value)[0] for path, value in _settings(rule).items())


def _settings(rule: Adaptation) -> Mapping[str, Value]:
    return {**rule.set, SEQUENCE: rule.cut_rows_at} if rule.cut_rows_at else rule.set


def _source(pack: Pack, path: str, rule: Rule) -> bytes:
    return _told(pack, path, (rule.id, rule.reason, rule.source), tuple(limits(rule)))


@lru_cache(maxsize=8192)
def _told(pack: Pack, path: str, rule: tuple[str, str, str], ends: tuple[float, ...]) -> bytes:
    """The source of a setting in a reply, by its rule's id, reason and source; recipes share most of theirs."""
    rule_id, reason, reference = rule
    source = ev.SettingSource(field_path=path, rule_id=rule_id, reason=reason)
    source.provenance.CopyFrom(pack.provenance(reference))
    if ends:
        source.min, source.max = ends
    return _in_reply(source)


def _named(inputs: Inputs) -> bytes:
    """What the request itself says of the run, as a RunSpec in bytes of the wire."""
    found: bytes | None = inputs.kept.get("named")
    if found is None:
        found = inputs.kept["named"] = _named_spec(inputs).SerializeToString()
    return found


def _named_spec(inputs: Inputs) -> rs.RunSpec:
    request = inputs.request
    spec = rs.RunSpec()
    for name in ("model", "dataset", "ownership", "evaluation"):
        if request.HasField(name):
            getattr(spec, name).CopyFrom(getattr(request, name))
    if inputs.hardware_known:
        spec.hardware.CopyFrom(inputs.hardware)
    if not request.HasField("dataset") and inputs.profile is not None:
        spec.dataset.profile.CopyFrom(inputs.profile)
    return spec


@cache
def _marker(method: Method) -> bytes:
    """A RunSpec of a method with nothing said of it, as bytes of the wire."""
    spec = rs.RunSpec()
    getattr(spec, method.field).SetInParent()
    return spec.SerializeToString()


_SOURCES = key(rec.RecommendResponse, "setting_sources")
_SPEC, _FALLBACK = key(est.EstimateRunRequest, "spec"), key(est.EstimateRunRequest, "fallbacks")
