# SPDX-License-Identifier: Apache-2.0
"""Checks of a pack's cards, questionnaire and charts: every reference exists."""

import re
from collections.abc import Iterable, Iterator

from finetree_api.recommender.v1 import recommendation_pb2
from finetree_api.types.v1 import run_spec_pb2
from google.protobuf import json_format

from finetree_recommender.method import Method
from finetree_recommender.rule_pack.schema.cards import Figure
from finetree_recommender.rule_pack.schema.content import Situation
from finetree_recommender.rule_pack.schema.rules import CautionRule, Rules
from finetree_recommender.rule_pack.yaml import PackError

_RESOLUTION = re.compile(r"\bB\d+b?\b")


def check_content(rules: Rules, references: Iterable[tuple[str, str]]) -> None:
    """Check the content of a pack; `references` are all its sources, with the rule that each belongs to.

    Raises:
        PackError: The first thing that is wrong, with its rule.
    """
    _resolutions(rules, references)
    _requests(rules)
    _figures(rules)
    _guides(rules)
    _hardware(rules)
    for rule in rules.cautions:
        _hard(rules, rule)


def _resolutions(rules: Rules, references: Iterable[tuple[str, str]]) -> None:
    known = {item.id for item in rules.resolutions}
    cited = [(item.id, item.resolution) for item in rules.content.literals]
    cited += [(rule_id, name) for rule_id, text in references if "resolution" in text for name in _named(text)]
    for rule_id, name in cited:
        if name not in known:
            raise PackError(f"rule {rule_id}: there is no resolution {name}; add it to `resolutions`")


def _named(text: str) -> list[str]:
    return _RESOLUTION.findall(text.partition("resolution")[2])


def _requests(rules: Rules) -> None:
    for question in rules.questions:
        for option in question.options:
            _request(option.id, option.request or "{}")
            if option.upgrade and option.votes:
                raise PackError(f"rule {option.id}: an answer that asks for an upgrade votes for no method")
    for situation in _situations(rules):
        _request(situation.id, situation.request)
        _settings(situation)


def _situations(rules: Rules) -> Iterator[Situation]:
    content = rules.content
    yield from (*content.situations, *content.quick_reference, *content.scenarios)


def _request(rule_id: str, text: str) -> recommendation_pb2.RecommendRequest:
    try:
        return json_format.Parse(text, recommendation_pb2.RecommendRequest())
    except json_format.ParseError as error:
        raise PackError(f"rule {rule_id}: `request` is no part of a RecommendRequest: {error}") from None


def _settings(situation: Situation) -> None:
    try:
        spec = json_format.Parse(situation.settings, run_spec_pb2.RunSpec())
    except json_format.ParseError as error:
        raise PackError(f"rule {situation.id}: `settings` is no part of a RunSpec: {error}") from None
    chosen = spec.WhichOneof("method")
    if chosen not in (None, situation.method.field):
        raise PackError(
            f"rule {situation.id}: its settings are those of {chosen}, its method is {situation.method.value}"
        )


def _figures(rules: Rules) -> None:
    kinds = [kind.name for kind in rules.content.figure_kinds]
    for card in rules.methods:
        names = [figure.name for figure in card.figures]
        wrong = [name for name in names if name not in kinds or names.count(name) > 1]
        if wrong:
            raise PackError(
                f"card {card.method.value}: figure {wrong[0]!r} is unknown or given twice; kinds are {kinds}"
            )
        for figure in card.figures:
            _ordered(f"card {card.method.value}, figure {figure.name}", figure)
    for finding in rules.content.findings:
        _ordered(f"rule {finding.id}", finding)


def _ordered(place: str, item: Figure | object) -> None:
    ends = [getattr(item, name) for name in ("low", "expected", "high")]
    given = [value for value in ends if value is not None]
    if len(given) not in (0, 3) or given != sorted(given):
        raise PackError(f"{place}: give low, expected and high, in this order of size, or none of them")


def _guides(rules: Rules) -> None:
    names = [guide.name for guide in rules.content.guides]
    for card in rules.methods:
        for parameter in card.parameters:
            if parameter.choices and parameter.choices not in names:
                raise PackError(
                    f"card {card.method.value}: no guide {parameter.choices!r}; guides are {', '.join(names)}"
                )
    for guide in rules.content.guides:
        if sum(choice.recommended for choice in guide.choices) != 1:
            raise PackError(f"guide {guide.name}: exactly one choice is recommended")


def _hardware(rules: Rules) -> None:
    sizes = [entry.gb for entry in rules.content.hardware]
    if sizes != sorted(sizes, reverse=True) or len(set(sizes)) < len(sizes):
        raise PackError("content.hardware: list each size of memory once, the largest first")
    methods = sorted(item.method for item in rules.content.reference_gpus)
    if methods != sorted(Method):
        raise PackError(f"content.reference_gpus: each of {', '.join(Method)} exactly once")


def _hard(rules: Rules, rule: CautionRule) -> None:
    """Check that a hard caution agrees with the gate, which applies it."""
    if not rule.hard:
        return
    needs = next(card.minimum_gpu_gb.value for card in rules.methods if card.method is rule.method)
    gated = {item.key for item in rules.gate.classes if item.upgrade or item.low < needs} | {"cpu"}
    if set(rule.when) != {"memory"} or not set(rule.when["memory"]) <= gated:
        raise PackError(
            f"rule {rule.id}: the gate keeps {rule.method.value} from {', '.join(sorted(gated))}; name no other"
        )
