# SPDX-License-Identifier: Apache-2.0
"""Method cards and the guide of a pack as messages of the contract."""

from collections.abc import Iterable

from finetree_api.recommender.v1 import method_card_pb2
from finetree_api.types.v1 import evidence_pb2
from google.protobuf import json_format

from finetree_recommender.decision.limits import USD
from finetree_recommender.decision.prior_figures import SECONDS, quality
from finetree_recommender.messages.methods import number
from finetree_recommender.messages.questionnaire import questionnaire
from finetree_recommender.method import TRAINABLE_HERE, Method, target
from finetree_recommender.rule_pack.pack import Pack
from finetree_recommender.rule_pack.schema.cards import Card, Figure
from finetree_recommender.rule_pack.schema.cards import Guide as Parameter
from finetree_recommender.rule_pack.schema.content import Choice, Finding, HardwareEntry, Literal, Situation
from finetree_recommender.rule_pack.schema.recipe import Value
from finetree_recommender.rule_pack.schema.rules import CautionRule


def cards(pack: Pack, methods: Iterable[Method]) -> list[method_card_pb2.MethodCard]:
    """Write cards of methods."""
    return [_card(pack, pack.card(method)) for method in methods]


def guide(pack: Pack) -> method_card_pb2.Guide:
    """Write the guide of a pack."""
    content = pack.rules.content
    return method_card_pb2.Guide(
        questions=questionnaire(pack),
        situations=[_situation(pack, item) for item in content.situations],
        quick_reference=[_situation(pack, item) for item in content.quick_reference],
        scenarios=[_situation(pack, item) for item in content.scenarios],
        hardware=[_hardware(pack, entry) for entry in content.hardware],
        superseded=[_superseded(pack, item) for item in content.literals],
    )


def _superseded(pack: Pack, item: Literal) -> method_card_pb2.SupersededStatement:
    found = next(each for each in pack.rules.resolutions if each.id == item.resolution)
    return method_card_pb2.SupersededStatement(
        id=item.id,
        about=item.about,
        values=[
            method_card_pb2.StatedValue(name=target(name), text=_stated(value)) for name, value in item.values.items()
        ],
        resolution_id=item.resolution,
        decision=found.decision,
        provenance=pack.provenance(item.source),
    )


def _stated(value: Value) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, int | float) else target(value)


def _card(pack: Pack, card: Card) -> method_card_pb2.MethodCard:
    content = pack.rules.content
    return method_card_pb2.MethodCard(
        method=number(card.method),
        title=card.title,
        description=card.description,
        tooltip=card.tooltip,
        best_for=card.best_for.value,
        when_to_use=card.when_to_use,
        when_not_to_use=card.when_not_to_use,
        badges=card.badge_labels,
        badge_details=[method_card_pb2.Badge(label=badge.label, tooltip=badge.tooltip) for badge in card.badges],
        stars=int(card.stars.value),
        warning=card.stars.warning,
        efficiency=method_card_pb2.EfficiencyLevel.Value(f"EFFICIENCY_LEVEL_{card.efficiency.level}"),
        efficiency_label=card.efficiency.label,
        minimum_gpu_gb=card.minimum_gpu_gb.value,
        quality_percent=quality(pack, card.method),
        mergeable=card.mergeable.value,
        parameters=[_parameter(pack, item) for item in card.parameters],
        trainable_here=card.method in TRAINABLE_HERE,
        figures=[_figure(pack, figure) for figure in card.figures],
        hardware=[_hardware(pack, entry) for entry in content.hardware if entry.method is card.method],
        reference_cost=_reference_cost(pack, card.method),
        advice=[_advice(pack, rule) for rule in pack.rules.cautions if rule.method is card.method and rule.is_advice],
        evidence=[_finding(pack, item) for item in content.findings if card.method in item.methods],
    )


def _figure(pack: Pack, figure: Figure) -> method_card_pb2.CardFigure:
    label = next(kind.label for kind in pack.rules.content.figure_kinds if kind.name == figure.name)
    message = method_card_pb2.CardFigure(name=figure.name, label=label, text=figure.text, note=figure.note)
    message.provenance.CopyFrom(pack.provenance(figure.source))
    if figure.expected is not None:
        message.interval.CopyFrom(
            _interval(pack, figure.source, figure.low, expected=figure.expected, high=figure.high)
        )
    return message


def _finding(pack: Pack, item: Finding) -> method_card_pb2.EvidenceRow:
    message = method_card_pb2.EvidenceRow(
        id=item.id, claim=item.claim, text=item.text, provenance=pack.provenance(item.source)
    )
    if item.expected is not None:
        message.interval.CopyFrom(_interval(pack, item.source, item.low, expected=item.expected, high=item.high))
    return message


def _hardware(pack: Pack, entry: HardwareEntry) -> method_card_pb2.HardwareRow:
    row = method_card_pb2.HardwareRow(
        accelerator=entry.accelerator,
        marketed_memory_gb=entry.gb,
        method=number(entry.method),
        cost_open_ended=entry.open_ended,
        note=entry.note,
    )
    if entry.hours is not None:
        row.total_seconds.CopyFrom(_point(pack, entry.source, entry.hours * SECONDS))
    if entry.usd_month is not None:
        row.cost_per_month.CopyFrom(_usd(pack, entry.source, entry.usd_month))
    return row


def _reference_cost(pack: Pack, method: Method) -> method_card_pb2.ReferenceCost:
    times, content = pack.rules.times, pack.rules.content
    price = times.usd_per_hour[method]
    rows = [
        method_card_pb2.DatasetCost(
            examples=examples,
            total_seconds=_point(pack, times.source, hours * SECONDS),
            cost=_usd(pack, times.price_source, hours * price),
        )
        for examples, hours in zip(times.examples, times.hours[method], strict=True)
    ]
    return method_card_pb2.ReferenceCost(
        accelerator=next(item.accelerator for item in content.reference_gpus if item.method is method),
        price_per_hour=_usd(pack, times.price_source, price),
        rows=rows,
        basis=content.basis,
    )


def _advice(pack: Pack, rule: CautionRule) -> method_card_pb2.Advice:
    redirects = (*((rule.redirect,) if rule.redirect is not None else ()), *rule.also)
    return method_card_pb2.Advice(
        rule_id=rule.id,
        text=rule.advice or rule.text,
        redirects=[number(method) for method in redirects],
        excludes=rule.hard,
        provenance=pack.provenance(rule.source),
    )


def _parameter(pack: Pack, item: Parameter) -> method_card_pb2.ParameterGuide:
    found = (each.choices for each in pack.rules.content.guides if each.name == item.choices)
    return method_card_pb2.ParameterGuide(
        field_path=item.field_path,
        default_value=item.default_value,
        help=item.help,
        choices=[_choice(pack, choice) for choice in next(found, ())],
    )


def _choice(pack: Pack, choice: Choice) -> method_card_pb2.ParameterChoice:
    message = method_card_pb2.ParameterChoice(
        value=choice.value,
        label=choice.label,
        use_for=choice.use_for,
        recommended=choice.recommended,
        minimum_gpu_gb=choice.minimum_gpu_gb,
        note=choice.note,
        provenance=pack.provenance(choice.source),
    )
    if choice.low is not None and choice.high is not None:
        middle = (choice.low + choice.high) / 2
        message.quality_percent.CopyFrom(_interval(pack, choice.source, choice.low, expected=middle, high=choice.high))
    return message


def _situation(pack: Pack, item: Situation) -> method_card_pb2.Situation:
    message = method_card_pb2.Situation(
        id=item.id,
        title=item.title,
        requirements=item.requirements,
        method=number(item.method),
        reasons=item.reasons,
        note=item.note,
        provenance=pack.provenance(item.source),
    )
    json_format.Parse(item.request, message.request)
    message.request.SetInParent()
    if item.settings != "{}":
        json_format.Parse(item.settings, message.settings)
    return message


def _point(pack: Pack, source: str, value: float) -> evidence_pb2.Interval:
    return _interval(pack, source, value, expected=value, high=value)


def _usd(pack: Pack, source: str, value: float) -> evidence_pb2.MoneyInterval:
    return evidence_pb2.MoneyInterval(amount=_point(pack, source, value), currency_code=USD)


def _interval(
    pack: Pack, source: str, low: float | None, *, expected: float, high: float | None
) -> evidence_pb2.Interval:
    """Write an interval of the pack, whose coverage is not stated: 0."""
    ends = (expected if low is None else low, expected if high is None else high)
    return evidence_pb2.Interval(low=ends[0], expected=expected, high=ends[1], provenance=[pack.provenance(source)])
