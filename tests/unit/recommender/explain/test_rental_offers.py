# SPDX-License-Identifier: Apache-2.0
"""What could be rented where nothing at hand trains the model."""

from typing import Any

import pytest
from finetree_api.estimator.v1 import catalog_pb2, estimate_pb2
from finetree_api.recommender.v1 import recommendation_pb2
from finetree_api.types.v1 import estimate_summary_pb2, evidence_pb2, training_pb2
from finetree_recommender.estimator.values import Accelerator, Catalog, Model
from finetree_recommender.explain import cautions, rental_offers
from finetree_recommender.messages.summary import paragraph
from finetree_recommender.method import Method
from finetree_recommender.recommend import conclude
from finetree_recommender.request.inputs import normalize
from finetree_recommender.request.limits import Limits
from finetree_recommender.rule_pack.pack import builtin_packs
from finetree_runtime.money import to_money
from google.protobuf import json_format


def usd(amount: float) -> dict[str, Any]:
    """A Money in proto JSON."""
    return json_format.MessageToDict(to_money(amount, "USD"))


CATALOG = Catalog(
    {"large": Accelerator(192, native_bf16=True), "old": Accelerator(192, native_bf16=False)},
    {"m": Model(70_000_000_000, 8192)},
)
SMALL_GPU = {"unknown_accelerator": {"marketed_memory_gb": 24}}


def request(**fields: Any):
    known = {"model": {"name": "m"}, "can_rent": True, "dataset_profile": {"examples": 5000}}
    return json_format.ParseDict(known | fields, recommendation_pb2.RecommendRequest())


def offered(accelerator, amount, term=catalog_pb2.PRICE_TERM_ON_DEMAND):
    price = catalog_pb2.Price(
        accelerator=accelerator, provider="somewhere", term=term, hourly_price=to_money(4.0, "USD"), price_id="p"
    )
    hours = evidence_pb2.Interval(low=1, expected=amount / 4, high=9)
    ends = evidence_pb2.Interval(low=1, expected=amount, high=99)
    cost = evidence_pb2.MoneyInterval(amount=ends, currency_code="USD")
    return estimate_pb2.Offer(
        price=price, count=1, hours=hours, cost=cost, verdict=estimate_summary_pb2.FIT_VERDICT_FITS
    )


def found(**costs: float):
    """An estimate with one offer for each method that is named."""
    return {
        Method(name.upper()): estimate_pb2.Estimate(offers=[offered("large", cost)]) for name, cost in costs.items()
    }


@pytest.mark.parametrize(
    ("fields", "fits", "helps"),
    [
        ({"hardware": SMALL_GPU}, "DOES_NOT_FIT", True),
        ({"hardware": SMALL_GPU}, "TIGHT", False),
        ({"hardware": SMALL_GPU, "can_rent": False}, "DOES_NOT_FIT", False),
        ({"hardware": {"cpu": {"cores": 8}}}, "FITS", True),
        ({}, None, True),
        ({"model": None}, None, False),
    ],
)
def test_offers_are_asked_for_where_nothing_at_hand_trains_the_model(pack, evidence, fields, fits, helps):
    asked = request(**{name: value for name, value in fields.items() if value is not None})
    if "model" in fields:
        asked.ClearField("model")
    estimates = evidence(lora=fits) if fits is not None else None
    assert rental_offers.wanted(normalize(asked, pack, CATALOG), estimates) is helps


def test_each_methods_recipe_is_asked_for_as_small_as_it_gets_without_cutting_rows(pack):
    rows = rental_offers.questions(pack, request(hardware=SMALL_GPU), CATALOG, parameters=70_000_000_000)
    assert set(rows) == set(Method)
    for method, row in rows.items():
        assert row.view == estimate_pb2.ESTIMATE_VIEW_SUMMARY
        assert row.searches == [estimate_pb2.ESTIMATE_SEARCH_OFFERS]
        assert row.spec.hardware.unknown_accelerator.marketed_memory_gb == rental_offers.ANY_GPU_GB
        assert row.spec.training.micro_batch_size == 1
        assert row.spec.training.sequence_length == 2048
        recomputed = row.spec.gradient_checkpointing == training_pb2.GRADIENT_CHECKPOINTING_OFFLOADED
        assert recomputed is (method is not Method.PREFIX)


def test_offers_that_may_be_taken_away_and_gpus_without_bfloat16_are_passed_over(pack):
    answer = estimate_pb2.Estimate(
        offers=[
            offered("large", 1, catalog_pb2.PRICE_TERM_SPOT),
            offered("old", 2),
            offered("large", 3),
            offered("large", 4),
        ]
    )
    (offer,) = rental_offers.offers(
        pack, request(), CATALOG, found={Method.LORA: answer, Method.FULL: estimate_pb2.Estimate()}
    )
    assert (offer.method, offer.accelerator, offer.cost.amount.expected) == (Method.LORA, "large", 3)


@pytest.mark.parametrize(
    ("costs", "preferred", "advised"),
    [
        ({"lora": 20, "qlora": 10, "full": 40}, Method.LORA, [Method.LORA, Method.FULL, Method.QLORA]),
        ({"lora": 20, "qlora": 19}, Method.LORA, [Method.LORA]),
        ({"qlora": 19, "prefix": 5}, Method.LORA, [Method.QLORA, Method.PREFIX]),
        ({"lora": 20, "qlora": 30}, None, [Method.LORA]),
    ],
)
def test_the_rules_method_comes_first_then_what_is_better_or_clearly_cheaper(pack, costs, preferred, advised):
    rented = rental_offers.offers(pack, request(), CATALOG, found=found(**costs))
    assert [caution.redirect for caution in rental_offers.advice(pack, preferred, rented)] == advised


@pytest.mark.parametrize(
    ("limits", "advised", "words"),
    [
        ({"budget_per_run": usd(30)}, [Method.LORA, Method.FULL], ["", "over the budget of 30.00 USD"]),
        ({"budget_per_run": usd(15)}, [Method.QLORA, Method.LORA, Method.FULL], ["", "over the budget of 15.00 USD"]),
        ({"max_duration": "10800s"}, [Method.QLORA, Method.LORA, Method.FULL], ["", "over the time limit of 3 h"]),
        (
            {"budget_per_run": usd(15), "max_duration": "3600s"},
            [Method.LORA],
            ["15.00 USD and over the time limit of 60 min"],
        ),
    ],
)
def test_offers_are_compared_with_the_limits_of_a_run(pack, limits, advised, words):
    asked = request(**limits)
    costs = {"lora": 20, "full": 40} | ({"qlora": 10} if Method.QLORA in advised else {})
    rented = rental_offers.offers(pack, asked, CATALOG, found=found(**costs))
    answer = conclude(pack, normalize(asked, pack, CATALOG), None, missing=cautions.HARDWARE_UNKNOWN, rented=rented)
    advice = [caution for caution in answer.cautions if caution.code == "RENT"]
    assert [caution.redirect for caution in advice][: len(advised)] == advised
    for caution, expected in zip(advice, words, strict=False):
        assert expected in caution.message
        assert expected or "over the" not in caution.message
    # The playbook's hours of 7B models say nothing beside prices of this model.
    assert answer.decision.method is Method.LORA
    by_method = {item.method: item for item in answer.methods}
    assert by_method[Method.LORA].figures.cost.amount.expected == 20
    assert by_method[Method.LORA].figures.total_seconds.expected == 5 * 3600
    assert (by_method[Method.PREFIX].figures.cost, by_method[Method.PREFIX].dominated_by) == (None, None)
    assert not by_method[Method.PREFIX].on_frontier
    assert not [flip for flip in answer.counterfactuals if flip.field_path in ("budget_per_run", "max_duration")]
    assert not {"OVER_BUDGET", "OVER_MAX_DURATION"} & {r.code for item in answer.methods for r in item.reasons}


def test_where_nothing_keeps_to_the_limits_the_cheapest_comes_first(pack):
    rented = rental_offers.offers(pack, request(), CATALOG, found=found(lora=20, qlora=10, full=40))
    advised = [caution.redirect for caution in rental_offers.advice(pack, None, rented, limits=Limits(run_usd=1))]
    assert advised == [Method.QLORA, Method.LORA, Method.FULL]


def test_the_method_that_the_rules_prefer_on_any_gpu_comes_first(pack, evidence):
    """Nothing trains at hand, so that the rules choose nothing here; by quality full fine-tuning would come first."""
    asked = request(hardware=SMALL_GPU)
    rented = rental_offers.offers(pack, asked, CATALOG, found=found(full=0.04, lora=0.05, qlora=0.06))
    answer = conclude(pack, normalize(asked, pack, CATALOG), evidence(), rented=rented)
    assert answer.decision.choice.method is not Method.FULL
    assert next(item.redirect for item in answer.cautions if item.code == "RENT") is Method.LORA
    best = request(hardware=SMALL_GPU, quality="QUALITY_NEED_MAXIMUM")
    evidence_1 = builtin_packs()["evidence-1"]
    answer = conclude(evidence_1, normalize(best, evidence_1, CATALOG), evidence(), rented=rented)
    assert next(item.redirect for item in answer.cautions if item.code == "RENT") is Method.FULL


def test_what_is_rented_keeps_float32_weights_and_whole_rows():
    evidence_1 = builtin_packs()["evidence-1"]
    asked = request(hardware=SMALL_GPU, dataset_profile={"examples": 9, "total_tokens": 90_000})
    row = rental_offers.questions(evidence_1, asked, CATALOG, parameters=70_000_000_000)[Method.FULL]
    assert row.spec.precision == training_pb2.PRECISION_BF16_MIXED
    assert row.spec.optimizer == training_pb2.OPTIMIZER_PAGED_ADAMW_8BIT


def test_the_answer_names_what_to_rent_before_it_warns(pack, evidence):
    asked = request(hardware=SMALL_GPU)
    rented = rental_offers.offers(pack, asked, CATALOG, found=found(lora=20, qlora=10))
    inputs = normalize(asked, pack, CATALOG)
    answer = conclude(pack, inputs, evidence(), rented=rented)
    words = paragraph(answer)
    offer = next(item for item in answer.cautions if item.code == "RENT").message
    assert all(fact in offer for fact in ("LoRA", "large", "somewhere", "4.00 USD", "5 h"))
    assert offer.endswith("ask again with `hardware.accelerator` large")
    assert words.index(f"To rent: {offer}") < words.index("Caution: ")
    codes = [caution.code for caution in answer.cautions]
    assert codes[:3] == ["NOTHING_FITS", "RENT", "RENT"]
    assert "RENTING_CHANGES_METHOD" not in codes


def test_without_hardware_the_verdict_stays_and_the_offer_is_for_it(pack):
    asked = request()
    rented = rental_offers.offers(pack, asked, CATALOG, found=found(lora=20, prefix=5))
    answer = conclude(pack, normalize(asked, pack, CATALOG), None, missing=cautions.HARDWARE_UNKNOWN, rented=rented)
    assert answer.decision.method is Method.LORA
    assert next(caution for caution in answer.cautions if caution.code == "RENT").redirect is Method.LORA
