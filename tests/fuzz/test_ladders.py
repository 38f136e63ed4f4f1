# SPDX-License-Identifier: Apache-2.0
"""More budget, more memory or a higher quality need never takes a method of less quality by evidence-1.

Random requests over the whole catalog, each asked again along one of them, just below and at every price that the
estimator finds for it: the recommender asks the estimator's servicer, without the sockets between them.
docs/decisions/0016 says why it holds, and of which requests.
"""

import os
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import pytest
from finetree_api.estimator.v1 import estimate_pb2
from finetree_api.recommender.v1 import recommendation_pb2
from finetree_api.types.v1 import hardware_pb2
from finetree_recommender.estimator.values import Evidence
from finetree_recommender.method import Method
from finetree_recommender.recommend import Recommendation, Recommender
from finetree_recommender.rule_pack.pack import builtin_packs
from finetree_runtime.money import to_money
from fuzz_estimator import CARDS, MODELS, Known
from google.protobuf.message import Message

TIMES = int(os.environ.get("FINETREE_LADDERS", "1"))
"""How many times as many ladders; `make soak` takes more."""
pytestmark = [pytest.mark.timeout(120 * TIMES)]
PACK = builtin_packs()["evidence-1"]
GRADES = {method: PACK.card(method).quality_percent.expected for method in Method}
GIB = 2**30
BELOW = 1 - 1e-9
"""Times a price: just too little."""
MONTHS = (0, 0.01, 49.99, 50, 99.99, 100, 500, 500.01, 1999.99, 2000, 10**6)
"""Budgets of a month: nothing, next to nothing, and the ends of the pack's brackets."""
GIGABYTES = (2, 4, 6, 8, 11, 12, 16, 24, 32, 48, 80, 141)
QUALITIES = sorted((word for word in recommendation_pb2.QualityNeed.values() if word), reverse=True)
"""The contract has the best first."""


class Remembering(Known):
    """The estimator, which is asked the same for most rungs of a ladder."""

    def __init__(self) -> None:
        super().__init__()
        self._found: dict[Any, Any] = {}

    async def evidence(self, rows: Mapping[Method, estimate_pb2.EstimateRunRequest]) -> Evidence:
        found: Evidence = await self._once(super().evidence, rows)
        return found

    async def estimates(self, rows: Mapping[Any, estimate_pb2.EstimateRunRequest]) -> dict[Any, estimate_pb2.Estimate]:
        found: dict[Any, estimate_pb2.Estimate] = await self._once(super().estimates, rows)
        return found

    async def _once(self, answer: Callable[[Any], Awaitable[Any]], rows: Mapping[Any, Message]) -> Any:
        asked = tuple((key, row.SerializeToString(deterministic=True)) for key, row in rows.items())
        if asked not in self._found:
            self._found[asked] = await answer(rows)
        return self._found[asked]


RECOMMENDER = Recommender({"evidence-1": PACK}, Remembering())


async def ask(request: recommendation_pb2.RecommendRequest) -> Recommendation:
    return await RECOMMENDER.recommend(request)


def drawn(draw: random.Random) -> recommendation_pb2.RecommendRequest:
    """A model on hardware with its data, and half of the words that the contract has for what is wanted."""
    request = recommendation_pb2.RecommendRequest(rule_pack="evidence-1")
    request.model.hub.id = draw.choice(MODELS).hub_id
    request.hardware.accelerator = draw.choice(CARDS).name
    if draw.random() < 0.4:
        request.hardware.unknown_accelerator.marketed_memory_gb = draw.choice(GIGABYTES)
        request.ownership.owned.CopyFrom(hardware_pb2.OwnedHardware(price_per_kwh=to_money(0.3, "USD")))
    rows = int(10 ** draw.uniform(0, 6.5))
    request.dataset_profile.examples = rows
    request.dataset_profile.token_lengths.add(upper_bound=int(2 ** draw.uniform(4, 13)), count=rows)
    for field in request.DESCRIPTOR.fields:
        if field.enum_type is None or draw.random() < (0.8 if field.is_repeated else 0.5):
            continue
        words = [value.number for value in field.enum_type.values if value.number]
        if field.is_repeated:
            getattr(request, field.name).extend(draw.sample(words, 1))
        else:
            setattr(request, field.name, draw.choice(words))
    if runs := draw.choice((0, 1, 3)):
        request.runs_per_month = runs
    return request


async def limited(
    draw: random.Random, request: recommendation_pb2.RecommendRequest
) -> recommendation_pb2.RecommendRequest:
    """The request with a time limit, or a budget of a run, near what one of the methods takes."""
    method = draw.choice((await ask(request)).methods)
    if method.figures.total_seconds is not None and draw.random() < 0.5:
        seconds = int(method.figures.total_seconds.expected * draw.choice((0.5, 1, 1.1)))
        request.max_duration.FromSeconds(max(1, min(seconds, 31_536_000)))
    if method.figures.cost is not None and draw.random() < 0.3:
        request.budget_per_run.CopyFrom(to_money(method.figures.cost.amount.expected, "USD"))
    return request


async def prices(request: recommendation_pb2.RecommendRequest) -> list[float]:
    """What a run of each method costs, and just too little for it."""
    found = [
        method.figures.cost.amount.expected
        for method in (await ask(request)).methods
        if method.figures.cost is not None
    ]
    return [cost * times for cost in found for times in (BELOW, 1)]


async def ends(request: recommendation_pb2.RecommendRequest) -> list[float]:
    """Memory in GB at and beside the ends of the peaks of LoRA and QLoRA: where they begin to fit, or have room."""
    found = (await ask(request)).situation.evidence
    assert found is not None
    best = [found.best[method].estimate for method in (Method.LORA, Method.QLORA)]
    peaks = [
        end / GIB for item in best if item is not None for end in (item.device_bytes.expected, item.device_bytes.high)
    ]
    # A GPU has a little less memory for a process than it is sold with.
    return [min(max(peak * share, 1.0), 4096.0) for peak in peaks for share in (1.0, 1.02, 1.06)]


async def months(draw: random.Random) -> AsyncIterator[recommendation_pb2.RecommendRequest]:
    request = await limited(draw, drawn(draw))
    runs = request.runs_per_month or 1
    for usd in sorted((*MONTHS, *(cost * runs for cost in await prices(request)))):
        yield changed(request, budget_per_month=to_money(usd, "USD"))


async def runs(draw: random.Random) -> AsyncIterator[recommendation_pb2.RecommendRequest]:
    request = await limited(draw, drawn(draw))
    for usd in sorted((*(month / (request.runs_per_month or 1) for month in MONTHS), *await prices(request))):
        yield changed(request, budget_per_run=to_money(usd, "USD"))


async def qualities(draw: random.Random) -> AsyncIterator[recommendation_pb2.RecommendRequest]:
    request = await limited(draw, drawn(draw))
    for word in QUALITIES:
        yield changed(request, quality=word)


async def memories(draw: random.Random) -> AsyncIterator[recommendation_pb2.RecommendRequest]:
    """Without limits on what a run takes: another GPU takes another time, and has another price."""
    request = drawn(draw)
    request.ClearField("ownership")
    for gb in sorted((*GIGABYTES, *await ends(request))):
        more = changed(request)
        more.hardware.unknown_accelerator.marketed_memory_gb = gb
        yield more


def changed(request: recommendation_pb2.RecommendRequest, **fields: Any) -> recommendation_pb2.RecommendRequest:
    other = recommendation_pb2.RecommendRequest()
    other.CopyFrom(request)
    for name, value in fields.items():
        if isinstance(value, Message):
            getattr(other, name).CopyFrom(value)
        else:
            setattr(other, name, value)
    return other


@pytest.mark.parametrize(("raised", "ladders"), [(months, 50), (runs, 40), (qualities, 40), (memories, 10)])
async def test_more_never_takes_a_method_of_less_quality(
    raised: Callable[[random.Random], AsyncIterator[recommendation_pb2.RecommendRequest]], ladders: int
):
    draw, steps = random.Random(raised.__name__), Counter[Method | None]()
    for _ in range(ladders * TIMES):
        before: Method | None = None
        async for request in raised(draw):
            method = (await ask(request)).decision.method
            assert grade(method) >= grade(before), f"{before}, then {method}\n{request}"
            steps[method] += method is not before
            before = method
    assert len(steps) >= 4, steps


def grade(method: Method | None) -> float:
    return GRADES[method] if method is not None else 0.0
