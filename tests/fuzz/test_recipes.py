# SPDX-License-Identifier: Apache-2.0
"""Whatever is asked, the recommended recipe is one that the trainer takes, and that fits by the estimator's figures.

The three services' own code, without the sockets between them: the recommender asks the estimator's servicer,
and the trainer's planner (what ValidateJob answers with) takes the recipe on a machine that has every accelerator.
"""

import asyncio
import itertools
import json
import os
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from finetree_api.estimator.v1 import estimate_pb2
from finetree_api.recommender.v1 import recommendation_pb2
from finetree_api.trainer.v1 import job_pb2
from finetree_api.types.v1 import estimate_summary_pb2, hardware_pb2, method_pb2, model_pb2
from finetree_recommender.messages.recommendation import recommendation
from finetree_recommender.recommend import Recommender
from finetree_recommender.rule_pack.pack import builtin_packs
from finetree_runtime.errors import DomainError
from finetree_runtime.server.validation import validate
from finetree_trainer.jobs.inputs import Inputs
from finetree_trainer.jobs.planner import Planner
from finetree_trainer.layout import Layout
from finetree_trainer.models import hub
from finetree_trainer.models.locate import KNOWN, Models
from finetree_trainer.scheduling.devices import Device
from fuzz_estimator import CARDS, MODELS, Known
from google.type import money_pb2

INPUTS = int(os.environ.get("FINETREE_RECIPES", "200"))
"""For each pack; `make soak` takes more. Models and cards come in turns, each of them several times, no two together
twice."""
pytestmark = [pytest.mark.timeout(max(120, INPUTS))]
COMMIT = "0" * 40
GB = 10**9


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A trainer's data folder in which every model of the catalog is prepared, as far as the planner looks."""
    made: Path = tmp_path_factory.mktemp("trainer")
    for model in MODELS:
        home = hub.home(made / "models", model.hub_id) / COMMIT
        home.mkdir(parents=True, exist_ok=True)
        (home / "config.json").write_text(json.dumps({"max_position_embeddings": model.shape.max_positions}))
        (home.parent / "refs.json").write_text(json.dumps({"main": COMMIT}))
    for known in KNOWN:
        (made / "models" / known.name).mkdir()
        (made / "models" / known.name / "config.json").write_text("{}")
    (made / "rows.jsonl").write_text('{"prompt": "What is it?", "completion": "A row."}\n' * 50)
    return made


@pytest.fixture(scope="module")
def planner(folder) -> Planner:
    estimator: Any = Known()
    devices = [
        Device(
            "here",
            f"cuda:{index}",
            hardware_pb2.Hardware(accelerator=card.name, count=1),
            card.name,
            # A driver tells more than the marketed figure where that is one of GiB.
            max(int(card.marketed_gb * GB), card.usable_bytes),
        )
        for index, card in enumerate(CARDS)
    ]
    cpu = hardware_pb2.Hardware(cpu=hardware_pb2.CpuDevice(cores=8, memory_bytes=32 << 30), count=1)
    devices.append(Device("here", "cpu", cpu, "CPU", 32 << 30))
    datasets: Any = None  # rows come from a path
    weights: Any = None  # every run starts from its base
    other: Any = None  # nothing is served, evaluated or exported
    layout = Layout(folder)
    inputs = Inputs(Models(layout.models, ()), datasets, layout=layout, data_roots=(str(folder),), estimator=estimator)
    return Planner(
        inputs,
        weights,
        devices=devices,
        estimator=estimator,
        rates=lambda: None,
        capacity=lambda device: device.total_bytes,
        serving=other,
        evaluations=other,
        exports=other,
    )


def requests(policy: str, folder: Path) -> Iterator[recommendation_pb2.RecommendRequest]:
    """Requests over the whole catalog, with any of the answers given or not."""
    draw = random.Random(f"recipes of {policy}")
    turns = (itertools.cycle(draw.sample(every, len(every))) for every in (MODELS, CARDS))
    for _, model, card in zip(range(INPUTS), *turns, strict=False):
        request = recommendation_pb2.RecommendRequest(
            rule_pack=policy, model=model_pb2.ModelSource(hub=model_pb2.HubModel(id=model.hub_id))
        )
        request.dataset.path = str(folder / "rows.jsonl")
        if draw.random() < 0.15:
            request.hardware.cpu.CopyFrom(
                hardware_pb2.CpuDevice(cores=draw.choice((2, 8)), memory_bytes=draw.choice((8, 32)) << 30)
            )
        else:
            request.hardware.accelerator = card.name
        if draw.random() < 0.8:
            examples = int(10 ** draw.uniform(0, 6.5))
            length = int(2 ** draw.uniform(4, 13))
            request.dataset_profile.examples = examples
            request.dataset_profile.token_lengths.add(upper_bound=length, count=examples)
        answer(draw, request)
        yield request


def answer(draw: random.Random, request: recommendation_pb2.RecommendRequest) -> None:
    """Give half of the other answers: words, numbers and lists, whatever the contract has."""
    for field in request.DESCRIPTOR.fields:
        if draw.random() < 0.5:
            continue
        if field.enum_type is not None:
            words = [value.number for value in field.enum_type.values if value.number]
            if field.is_repeated:
                getattr(request, field.name).extend(draw.sample(words, draw.randint(1, len(words))))
            else:
                setattr(request, field.name, draw.choice(words))
        elif field.name.startswith("budget_per"):
            usd = draw.choice((0, 5, 49, 50, 100, 500, 2000, 10**6))
            getattr(request, field.name).CopyFrom(money_pb2.Money(currency_code="USD", units=usd))
        elif field.name == "can_rent":
            request.can_rent = draw.random() < 0.5
        elif field.name == "max_duration":
            request.max_duration.FromSeconds(draw.choice((60, 3600, 86_400)))
        elif field.name in ("runs_per_month", "task_count"):
            setattr(request, field.name, draw.choice((1, 3, 40)))


@pytest.mark.parametrize("policy", list(builtin_packs()))
def test_every_recipe_is_taken_by_the_trainer_and_fits(policy, folder, planner):
    recommender = Recommender(builtin_packs(), Known())
    verdicts: Counter[str] = Counter()

    async def sweep() -> None:
        for request in requests(policy, folder):
            validate(request)
            reply = recommendation(await recommender.recommend(request))
            assert len(reply.methods) == len(method_pb2.Method.values()) - 1
            verdicts[method_pb2.Method.Name(reply.verdict.method)] += 1
            if reply.verdict.method:
                await taken(planner, reply, request)

    asyncio.run(sweep())
    # Nothing trains on the smallest cards with the largest models; each method is the right one somewhere.
    assert 0 < verdicts["METHOD_UNSPECIFIED"] < INPUTS / 2
    assert {"METHOD_LORA", "METHOD_QLORA", "METHOD_FULL"} <= set(verdicts), verdicts


async def taken(
    planner: Planner, reply: recommendation_pb2.RecommendResponse, request: recommendation_pb2.RecommendRequest
) -> None:
    """Assert that the planner takes the reply's recipe, as it stands, and that it fits."""
    job = job_pb2.JobTemplate(train=job_pb2.TrainTask(spec=reply.spec))
    try:
        plan = await planner.plan("default", job)
    except DomainError as error:
        raise AssertionError(f"{error.reason}: {error}\n{request}") from None
    assert plan.kind == job_pb2.TASK_KIND_TRAIN
    method = method_pb2.Method.Name(reply.verdict.method).removeprefix("METHOD_").lower()
    assert plan.task.spec.WhichOneof("method") == method
    request_of = estimate_pb2.EstimateRunRequest(spec=reply.spec)
    if request.HasField("dataset_profile"):
        request_of.dataset_profile.CopyFrom(request.dataset_profile)
    verdict = SERVICER.estimate(request_of).fit.verdict
    assert verdict in (estimate_summary_pb2.FIT_VERDICT_FITS, estimate_summary_pb2.FIT_VERDICT_TIGHT), (
        f"{estimate_summary_pb2.FitVerdict.Name(verdict)}\n{request}"
    )


SERVICER = Known().servicer
