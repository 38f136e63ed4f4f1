# SPDX-License-Identifier: Apache-2.0
"""How the estimator is asked: the estimator behind it is a recording here, and a real one in the contract tests."""

from dataclasses import replace
from typing import Any

import pytest
from finetree_api.recommender.v1 import recommendation_pb2
from finetree_api.types.v1.evidence_pb2 import Revision
from finetree_recommender.estimator.values import (
    Accelerator,
    Catalog,
    EstimatorUnavailableError,
    Evidence,
    Model,
    Refused,
)
from finetree_recommender.explain import cautions
from finetree_recommender.explain.ways_out.questions import Kind
from finetree_recommender.method import Method
from finetree_recommender.recommend import Recommender
from finetree_recommender.rule_pack.pack import builtin_packs
from finetree_runtime.errors import FailedPrecondition, InvalidArgument, NotFound
from google.protobuf import json_format


class Recording:
    """Answers every question with one evidence, and remembers what it was asked."""

    def __init__(self, found: Evidence | None, catalogs: int = 1) -> None:
        self.asked = []
        self._found = found
        # The last one stays; before that, each question is followed by a change.
        self._catalogs = [
            Catalog({"gpu": Accelerator(gb, native_bf16=True)}, {"m": Model(8_000_000_000, 4096)})
            for gb in (24, 16)[-catalogs:]
        ]

    async def catalog(self):
        return self._catalogs[0]

    async def evidence(self, rows):
        self.asked.append(rows)
        if len(self._catalogs) > 1:
            self._catalogs.pop(0)
        if self._found is None:
            raise EstimatorUnavailableError
        return self._found


def request(**fields: Any) -> recommendation_pb2.RecommendRequest:
    base = {"model": {"name": "m"}, "hardware": {"accelerator": "gpu"}, "dataset_profile": {"examples": 500}}
    return json_format.ParseDict(base | fields, recommendation_pb2.RecommendRequest())


def recommender(pack, estimator):
    return Recommender({pack.rules.id: pack}, estimator)


async def test_one_batch_estimates_every_method_and_adaptation(pack, evidence):
    estimator = Recording(evidence(lora="FITS", qlora="FITS"))
    await recommender(pack, estimator).recommend(request(evaluation_profile={"examples": 50}))
    (rows,) = estimator.asked
    assert set(rows) == set(Method)
    counts = {method: len(row.fallbacks) for method, row in rows.items()}
    assert counts == {Method.FULL: 4, Method.LORA: 3, Method.QLORA: 3, Method.PREFIX: 1, Method.ADAPTER: 4}
    for method, row in rows.items():
        assert row.spec.WhichOneof("method") == method.field
        assert row.dataset_profile.examples == 500
        assert row.evaluation_profile.examples == 50


async def test_pins_travel_without_the_packs(pack, evidence):
    estimator = Recording(evidence(qlora="FITS"))
    pinned = {"pack": {"id": "playbook-1"}, "engine": {"id": "engine-1"}}
    await recommender(pack, estimator).recommend(request(pinned=pinned))
    row = next(iter(estimator.asked[0].values()))
    assert row.pinned.engine.id == "engine-1"
    assert not row.pinned.HasField("pack")


async def test_a_catalog_that_changes_under_the_question_is_read_again(pack, evidence):
    estimator = Recording(evidence(lora="FITS", qlora="FITS"), catalogs=2)
    answer = await recommender(pack, estimator).recommend(request())
    assert len(estimator.asked) == 2
    assert answer.inputs.answers.memory == "16"


async def test_a_catalog_that_never_rests_degrades_the_answer(pack, evidence):
    class Restless(Recording):
        async def catalog(self) -> Catalog:
            return Catalog()

    estimator = Restless(evidence(lora="FITS"))
    answer = await recommender(pack, estimator).recommend(request())
    assert len(estimator.asked) == 3
    assert answer.cautions[0].code == cautions.ESTIMATOR_UNAVAILABLE


async def test_without_an_answer_the_rules_alone_answer(pack):
    answer = await recommender(pack, Recording(None)).recommend(request())
    assert answer.cautions[0].code == cautions.ESTIMATOR_UNAVAILABLE
    assert answer.recipe is not None


@pytest.mark.parametrize(
    ("reason", "kind", "ours"),
    [
        ("MODEL_NOT_FOUND", NotFound, "MODEL_NOT_FOUND"),
        ("ACCELERATOR_NOT_FOUND", NotFound, "ACCELERATOR_NOT_FOUND"),
        ("REVISION_UNAVAILABLE", FailedPrecondition, "REVISION_UNAVAILABLE"),
        ("PRICE_NOT_FOUND", InvalidArgument, "INVALID_REQUEST"),
        ("INVALID_REQUEST", InvalidArgument, "INVALID_REQUEST"),
    ],
)
async def test_what_the_estimator_refuses_for_every_method_is_the_callers_error(pack, evidence, reason, kind, ours):
    rows = dict.fromkeys(evidence().rows, Refused(reason, "spec.model: wrong", (("spec.model", "wrong"),)))
    rows[next(iter(rows))] = Refused("METHOD_NOT_SUPPORTED", "no formula")
    estimator = Recording(Evidence(rows, evidence().revision, None))
    with pytest.raises(kind) as caught:
        await recommender(pack, estimator).recommend(request())
    assert caught.value.reason == ours
    assert all(not item.field_path.startswith("spec.") for item in caught.value.violations)


async def test_a_local_model_that_cannot_be_estimated_is_still_advised_on(pack, evidence):
    rows = dict.fromkeys(evidence().rows, Refused("MODEL_NOT_FOUND", "no such folder"))
    estimator = Recording(Evidence(rows, evidence().revision, None))
    answer = await recommender(pack, estimator).recommend(request(model={"path": "mine"}))
    assert answer.cautions[0].code == "MODEL_NOT_ESTIMATED"
    assert answer.recipe.spec.model.path == "mine"


async def test_a_shape_without_hardware_gets_the_rate_of_its_size(evidence):
    """The estimator counts the parameters of a shape; 8B has 2e-4, and 135M, as here, 2e-3."""
    pack = builtin_packs()["evidence-1"]
    shape = {"hidden_size": 576, "layers": 30, "intermediate_size": 1536, "attention_heads": 9, "vocab_size": 49152}
    asked = request(model={"shape": shape}, rule_pack="evidence-1")
    asked.ClearField("hardware")
    estimator = Recording(evidence(lora="FITS"))
    answer = await recommender(pack, estimator).recommend(asked)
    assert [list(rows) for rows in estimator.asked] == [[Method.LORA]]
    assert answer.recipe.spec.training.learning_rate == 2e-3
    assert "MODEL_SIZE_UNKNOWN" not in {caution.code for caution in answer.cautions}
    refused = Evidence({(Method.LORA, 0): Refused("INVALID_REQUEST", "no such shape")}, evidence().revision, None)
    with pytest.raises(InvalidArgument):
        await recommender(pack, Recording(refused)).recommend(asked)


async def test_only_where_nothing_trains_is_the_estimator_asked_again(pack, evidence):
    class Twice(Recording):
        again: list[Any]

        async def estimates(self, rows: Any) -> Any:
            self.again = list(rows)
            return {}

    trains, nothing = Twice(evidence(qlora="TIGHT")), Twice(evidence())
    trains.again = nothing.again = []
    await recommender(pack, trains).recommend(request())
    answer = await recommender(pack, nothing).recommend(request(pinned={"engine": {"id": "engine-1"}}))
    assert not trains.again
    assert len(nothing.asked) == 1
    assert {key.kind for key in nothing.again} == {Kind.ANOTHER_GPU, Kind.SHORTER_ROWS}
    assert (answer.decision.method, answer.ways_out) == (None, ())


async def test_a_folder_without_hardware_gets_the_learning_rate_of_its_size(evidence):
    rules = builtin_packs()["evidence-1"]
    asked = request(model={"path": "mine"}, rule_pack="evidence-1")
    asked.ClearField("hardware")
    counted = Recording(replace(evidence(lora="FITS"), parameters=32_000_000_000))
    answer = await recommender(rules, counted).recommend(asked)
    assert answer.recipe is not None
    assert answer.recipe.spec.training.learning_rate == pytest.approx(1e-4)
    assert "MODEL_SIZE_UNKNOWN" not in {caution.code for caution in answer.cautions}
    # A folder that only the trainer has is not refused.
    elsewhere = Recording(Evidence({(Method.LORA, 0): Refused("MODEL_NOT_FOUND", "there is none")}, Revision(), None))
    unknown = await recommender(rules, elsewhere).recommend(asked)
    assert "MODEL_SIZE_UNKNOWN" in {caution.code for caution in unknown.cautions}
