# SPDX-License-Identifier: Apache-2.0
"""Method cards and the guide as messages of the contract: everything is the pack's, nothing is decided here."""

from collections.abc import Iterable

from finetree_api.recommender.v1 import recommender_pb2 as rec
from finetree_api.types.v1 import evidence_pb2 as ev
from google.protobuf import json_format

from finetree_recommender.decision.prior_figures import SECONDS, quality
from finetree_recommender.messages.methods import number
from finetree_recommender.messages.questionnaire import questionnaire
from finetree_recommender.method import TRAINABLE_HERE, Method
from finetree_recommender.policy.pack import Pack
from finetree_recommender.policy.schema.cards import Card, Figure
from finetree_recommender.policy.schema.cards import Guide as Parameter
from finetree_recommender.policy.schema.content import Choice, Finding, HardwareEntry, Situation
from finetree_recommender.policy.schema.rules import CautionRule


def cards(pack: Pack, methods: Iterable[Method]) -> list[rec.MethodCard]:
    """Cards of methods."""
    return [_card(pack, pack.card(method)) for method in methods]


def guide(pack: Pack) -> rec.Guide:
    """What a pack says beside its cards."""
    content = pack.rules.content
    return rec.Guide(
        questions=questionnaire(pack),
        situations=[_situation(pack, item) for item in content.situations],
        quick_reference=[_situation(pack, item) for item in content.quick_reference],
        scenarios=[_situation(pack, item) for item in content.scenarios],
        hardware=[_hardware(pack, entry) for entry in content.hardware],
    )


def _card(pack: Pack, card: Card) -> rec.MethodCard:
    content = pack.rules.content
    return rec.MethodCard(
        method=number(card.method),
        title=card.title,
        description=card.description,
        tooltip=card.tooltip,
        best_for=card.best_for.value,
        when_to_use=card.when_to_use,
        when_not_to_use=card.when_not_to_use,
        badges=card.badge_labels,
        badge_details=[rec.Badge(label=badge.label, tooltip=badge.tooltip) for badge in card.badges],
        stars=int(card.stars.value),
        warning=card.stars.warning,
        efficiency=rec.EfficiencyLevel.Value(f"EFFICIENCY_LEVEL_{card.efficiency.level}"),
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


def _figure(pack: Pack, figure: Figure) -> rec.CardFigure:
    label = next(kind.label for kind in pack.rules.content.figure_kinds if kind.name == figure.name)
    message = rec.CardFigure(name=figure.name, label=label, text=figure.text, note=figure.note)
    message.provenance.CopyFrom(pack.provenance(figure.source))
    if figure.expected is not None:
        message.interval.CopyFrom(_interval(pack, figure.source, figure.low, figure.expected, figure.high))
    return message


def _finding(pack: Pack, item: Finding) -> rec.EvidenceRow:
    message = rec.EvidenceRow(id=item.id, claim=item.claim, text=item.text, provenance=pack.provenance(item.source))
    if item.expected is not None:
        message.interval.CopyFrom(_interval(pack, item.source, item.low, item.expected, item.high))
    return message


def _hardware(pack: Pack, entry: HardwareEntry) -> rec.HardwareRow:
    row = rec.HardwareRow(
        accelerator=entry.accelerator,
        marketed_memory_gb=entry.gb,
        method=number(entry.method),
        cost_open_ended=entry.open_ended,
        note=entry.note,
    )
    if entry.hours is not None:
        row.total_seconds.CopyFrom(_point(pack, entry.source, entry.hours * SECONDS))
    if entry.usd_month is not None:
        row.cost_usd_month.CopyFrom(_point(pack, entry.source, entry.usd_month))
    return row


def _reference_cost(pack: Pack, method: Method) -> rec.ReferenceCost:
    times, content = pack.rules.times, pack.rules.content
    price = times.usd_per_hour[method]
    rows = [
        rec.DatasetCost(
            examples=examples,
            total_seconds=_point(pack, times.source, hours * SECONDS),
            cost_usd=_point(pack, times.price_source, hours * price),
        )
        for examples, hours in zip(times.examples, times.hours[method], strict=True)
    ]
    return rec.ReferenceCost(
        accelerator=next(item.accelerator for item in content.reference_gpus if item.method is method),
        usd_per_hour=_point(pack, times.price_source, price),
        rows=rows,
        basis=content.basis,
    )


def _advice(pack: Pack, rule: CautionRule) -> rec.Advice:
    redirects = (*((rule.redirect,) if rule.redirect is not None else ()), *rule.also)
    return rec.Advice(
        rule_id=rule.id,
        text=rule.advice or rule.message,
        redirects=[number(method) for method in redirects],
        excludes=rule.hard,
        provenance=pack.provenance(rule.source),
    )


def _parameter(pack: Pack, item: Parameter) -> rec.ParameterGuide:
    found = (each.choices for each in pack.rules.content.guides if each.name == item.choices)
    return rec.ParameterGuide(
        field_path=item.field_path,
        default_value=item.default_value,
        help=item.help,
        choices=[_choice(pack, choice) for choice in next(found, ())],
    )


def _choice(pack: Pack, choice: Choice) -> rec.ParameterChoice:
    message = rec.ParameterChoice(
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
        message.quality_percent.CopyFrom(_interval(pack, choice.source, choice.low, middle, choice.high))
    return message


def _situation(pack: Pack, item: Situation) -> rec.Situation:
    message = rec.Situation(
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


def _point(pack: Pack, source: str, value: float) -> ev.Interval:
    return _interval(pack, source, value, value, value)


def _interval(pack: Pack, source: str, low: float | None, expected: float, high: float | None) -> ev.Interval:
    """An interval of the pack; it states no coverage, so that is 0."""
    ends = (expected if low is None else low, expected if high is None else high)
    return ev.Interval(low=ends[0], expected=expected, high=ends[1], provenance=[pack.provenance(source)])
