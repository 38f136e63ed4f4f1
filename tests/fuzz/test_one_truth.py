# SPDX-License-Identifier: Apache-2.0
"""What the texts of a reply say of times, costs and memory is what its table says, over random plausible requests.

The recommender asks the estimator's servicer, without the sockets between them.
"""

import os
import random
import re
from collections import Counter
from collections.abc import Iterator

import pytest
from finetree.quantities import approximate_duration
from finetree_api.recommender.v1 import recommendation_pb2
from finetree_recommender.formatting import duration
from finetree_recommender.messages.methods import number
from finetree_recommender.messages.recommendation import recommendation
from finetree_recommender.method import Method
from finetree_recommender.recommend import Recommender
from finetree_recommender.rule_pack.pack import Pack, builtin_packs
from finetree_runtime.money import to_money
from fuzz_estimator import CARDS, MODELS, Known

pytestmark = [pytest.mark.timeout(120)]

TIMES = int(os.environ.get("FINETREE_ONE_TRUTH", "1"))
"""How many times as many requests; `make soak` takes more."""
PACKS = builtin_packs()
RECOMMENDER = Recommender(PACKS, Known())
GIB = 2**30
NAMES = {str(method): method for method in Method}
METHOD = "|".join(NAMES)
TIME = r"[\d.]+ (?:s|min|h|days|years)"
Assessed = dict[Method, recommendation_pb2.MethodAssessment]


def drawn(draw: random.Random, pack: str) -> recommendation_pb2.RecommendRequest:
    """A model on one GPU or several, its data, limits, and half of the words that the contract has."""
    request = recommendation_pb2.RecommendRequest(rule_pack=pack, can_rent=draw.random() < 0.3)
    request.model.hub.id = draw.choice(MODELS).hub_id
    request.hardware.accelerator = draw.choice(CARDS).name
    request.hardware.count = draw.choice((1, 1, 1, 2, 8))
    request.dataset_profile.examples = int(10 ** draw.uniform(1.5, 5.5))
    if draw.random() < 0.8:
        request.dataset_profile.total_tokens = request.dataset_profile.examples * draw.choice((80, 400, 2500))
    for field in request.DESCRIPTOR.fields:
        if field.enum_type is None or field.is_repeated or draw.random() < 0.5:
            continue
        setattr(request, field.name, draw.choice([value.number for value in field.enum_type.values if value.number]))
    if draw.random() < 0.3:
        request.budget_per_run.CopyFrom(to_money(draw.choice((0.1, 1, 10, 100)), "USD"))
    if draw.random() < 0.3:
        request.budget_per_month.CopyFrom(to_money(draw.choice((20, 70, 300, 5000)), "USD"))
    if draw.random() < 0.3:
        request.max_duration.FromSeconds(draw.choice((600, 7200, 86_400)))
    return request


def told(reply: recommendation_pb2.RecommendResponse) -> Iterator[tuple[Method | None, str]]:
    """Every text of a reply, with the method whose reason it is."""
    for item in reply.methods:
        for reason in item.reasons:
            yield next(method for method in Method if number(method) == item.method), reason.message
    for caution in reply.cautions:
        yield None, caution.message


def seconds(table: Assessed, name: str) -> float:
    return table[NAMES[name]].total_seconds.expected


def wrong_times(text: str, of: Method | None, table: Assessed) -> Iterator[str]:
    for ours, took, theirs, other in re.findall(rf"({METHOD}) takes ({TIME}) here, ({METHOD}) ({TIME})", text):
        if (took, other) != tuple(approximate_duration(seconds(table, name)) for name in (ours, theirs)):
            yield "times"
    for took, other, theirs in re.findall(rf"\(({TIME}) against ({TIME}) for ({METHOD})\)", text):
        slower = of is None or seconds(table, str(of)) > seconds(table, theirs)
        if not slower or other != approximate_duration(seconds(table, theirs)):
            yield f"a comparison of {took}"
    for name, took in re.findall(rf"the fastest, ({METHOD}): ({TIME})", text):
        quickest = min(item.total_seconds.expected for item in table.values() if item.HasField("total_seconds"))
        if took != duration(quickest) or seconds(table, name) != quickest:
            yield "the fastest"


def wrong_sizes(text: str, of: Method | None, table: Assessed) -> Iterator[str]:
    for name, needs in re.findall(rf"({METHOD}) fits?(?: tightly)?: ([\d.]+) of [\d.]+ GiB(?! each| on | of )", text):
        if needs != f"{table[NAMES[name]].device_bytes.expected / GIB:.1f}":
            yield "memory"
    for cost in re.findall(r"costs ([\d.]+) USD a run", text) if of is not None and "prefer" not in text else ():
        if of is not None and cost != f"{table[of].cost.amount.expected:.2f}":
            yield "cost"


def wrong_words(text: str, table: Assessed, pack: Pack) -> Iterator[str]:
    for rule in pack.rules.cautions:
        compared = [rule.method, *([rule.redirect] if rule.redirect is not None else [])]
        timed = all(table[each].HasField("total_seconds") for each in compared)
        if rule.ratio and timed and f"{rule.message} {rule.ratio}" in text:
            yield "a published ratio beside times"
    unmet = text.partition("does not meet: ")[2].partition(", and may")[0]
    if re.search(r"\b(budget|time) ", unmet):
        yield "a limit that has a figure"


@pytest.mark.parametrize("name", sorted(PACKS))
async def test_no_text_of_a_reply_contradicts_its_table(name: str):
    draw, seen = random.Random(f"one truth {name}"), Counter[str]()
    # Of 240 requests some six reach the rarest kind of text.
    # Few of 240 requests reach the rarest kind of text; where none has, there are more, up to 1,200.
    for drawn_before in range(1200 * TIMES):
        if drawn_before >= 240 * TIMES and sum(count > 0 for count in seen.values()) >= 4:
            break
        request = drawn(draw, name)
        reply = recommendation(await RECOMMENDER.recommend(request))
        table = {method: item for method in Method for item in reply.methods if item.method == number(method)}
        for of, text in told(reply):
            found = (
                *wrong_times(text, of, table),
                *wrong_sizes(text, of, table),
                *wrong_words(text, table, PACKS[name]),
            )
            assert found == (), f"{text}\n{request}\n{reply.methods}"
            for word in (" here, ", " against ", "fits: ", "the fastest", "a run, and the budget"):
                seen[word] += word in text
    assert sum(count > 0 for count in seen.values()) >= 4, seen
