# SPDX-License-Identifier: Apache-2.0
import asyncio
from typing import Any

import finetree
import pytest
from finetree_api.recommender.v1 import recommendation_pb2
from finetree_api.types.v1 import estimate_summary_pb2, hardware_pb2, method_pb2, training_pb2
from finetree_runtime.money import to_money
from finetree_runtime.runspec.paths import set_paths
from google.protobuf import json_format


def usd(amount: float) -> dict[str, Any]:
    """A Money in proto JSON."""
    return json_format.MessageToDict(to_money(amount, "USD"))


EUROS = usd(5) | {"currencyCode": "EUR"}
GIB = 2**30
CPU = {
    "cpu": {
        "cores": 2,
        "memory_bytes": 16 * GIB,
        "model_name": "some CPU",
    }
}
SHORT_ROWS = {"examples": 600, "token_lengths": [{"upper_bound": 40, "count": 590}, {"upper_bound": 90, "count": 10}]}
SMALL = {
    "model": {"name": "smollm2-135m-instruct"},
    "hardware": CPU,
    "matrix_rates": {"bf16_flops_per_second": 2e12, "fp32_flops_per_second": 1e11},
    "dataset_profile": SHORT_ROWS,
    "ownership": {"owned": {"price_per_kwh": usd(0.3), "watts": 60}},
    "evaluation": {"split_fraction": 0.1, "metrics": ["METRIC_LOSS", "METRIC_EXACT_MATCH"], "before_training": True},
}


# Its heads do not divide its width.
CROOKED = {"hidden_size": 10, "layers": 2, "intermediate_size": 8, "attention_heads": 3, "vocab_size": 9}


def on_gpu(gb: float, model: str = "llama-3.1-8b", **fields: Any) -> dict[str, Any]:
    return {"model": {"name": model}, "hardware": {"unknown_accelerator": {"marketed_memory_gb": gb}}, **fields}


@pytest.mark.service_alone("verdict")
async def test_a_small_model_trains_on_a_cpu_although_the_playbook_says_upgrade(client):
    reply = await client.recommend(SMALL)
    assert reply.verdict.method == method_pb2.METHOD_LORA
    assert reply.verdict.upgrade_advised
    assert [step.overruled_rule_id for step in reply.trace if step.overruled_rule_id] == ["gate.cpu"]
    assert (reply.spec.lora.rank, reply.spec.lora.alpha) == (8, 16)
    assert reply.spec.training.learning_rate == pytest.approx(5e-4)
    assert reply.spec.training.micro_batch_size == reply.spec.training.effective_batch_size
    assert reply.spec.precision == training_pb2.PRECISION_BF16
    assert reply.spec.evaluation.before_training
    assert reply.estimate.fit == estimate_summary_pb2.FIT_VERDICT_FITS
    assert 0 < reply.estimate.device_bytes.expected < reply.estimate.usable_device_bytes
    assert reply.estimate.total_seconds.expected > 0
    assert reply.estimate.optimizer_steps >= 100


@pytest.mark.service_alone("verdict")
async def test_where_nothing_at_hand_trains_the_model_an_offer_is_named_that_does(client):
    asked = on_gpu(24, model="llama-3.1-70b", dataset_profile={"examples": 5000})
    reply = await client.recommend(asked | {"can_rent": True})
    assert reply.verdict.method == method_pb2.METHOD_UNSPECIFIED
    offers = [caution for caution in reply.cautions if caution.code == "RENT"]
    assert offers[0].redirect == method_pb2.METHOD_LORA
    assert offers[0].message in reply.summary
    assert f" on a rented {offers[0].hardware.accelerator} (" in offers[0].message
    again = await client.recommend(asked | {"hardware": json_format.MessageToDict(offers[0].hardware)})
    assert again.verdict.method == method_pb2.METHOD_LORA
    assert again.estimate.fit == estimate_summary_pb2.FIT_VERDICT_FITS
    owned = await client.recommend(asked | {"can_rent": False})
    assert "RENT" not in [caution.code for caution in owned.cautions]


async def test_the_recipe_is_the_plan_that_is_estimated(client):
    reply = await client.recommend(SMALL)
    rates = json_format.ParseDict(SMALL["matrix_rates"], hardware_pb2.MatrixRates())
    estimate = await client.estimate(reply.spec, dataset_profile=SMALL["dataset_profile"], matrix_rates=rates)
    assert estimate.plan_digest == reply.plan_digest
    assert estimate.resolved_spec == reply.spec
    assert estimate.memory.device_bytes.expected == reply.estimate.device_bytes.expected
    assert [source.field_path for source in reply.setting_sources] == set_paths(reply.spec)
    assert estimate.revision.engine == reply.revision.engine


async def test_the_same_question_gives_the_same_answer(client):
    first, again = await client.recommend(SMALL), await client.recommend(SMALL)
    assert again.SerializeToString(deterministic=True) == first.SerializeToString(deterministic=True)


@pytest.mark.service_alone("process")
async def test_another_server_gives_the_same_answer(recommender, client, estimator_address):
    first = await client.recommend(SMALL)
    async with recommender(estimator_address) as another:
        again = await another.recommend(SMALL)
    assert again.SerializeToString(deterministic=True) == first.SerializeToString(deterministic=True)


@pytest.mark.parametrize(
    ("gb", "fields", "method"),
    [
        (80, {"quality": "QUALITY_NEED_MAXIMUM", "budget_per_month": usd(10000)}, "FULL"),
        (24, {"quality": "QUALITY_NEED_IMPORTANT", "budget_per_month": usd(500)}, "LORA"),
        (16, {"quality": "QUALITY_NEED_EXPERIMENTAL"}, "QLORA"),
        (24, {"tasks": "TASK_VARIETY_MANY_DIFFERENT"}, "ADAPTER"),
    ],
)
@pytest.mark.service_alone("verdict")
async def test_the_playbooks_verdicts_on_gpus(client, gb, fields, method):
    reply = await client.recommend(on_gpu(gb, dataset_profile={"examples": 5000, **SHORT_ROWS}, **fields))
    assert method_pb2.Method.Name(reply.verdict.method) == f"METHOD_{method}"
    assert reply.spec.WhichOneof("method") == method.lower()
    assert len({item.method for item in reply.methods}) == 5
    assert all(item.reasons for item in reply.methods)


@pytest.mark.service_alone("verdict")
async def test_a_large_model_on_a_catalog_gpu_is_made_to_fit(client):
    request = {"model": {"name": "llama-3.1-8b"}, "hardware": {"accelerator": "rtx-4090"}}
    reply = await client.recommend(request | {"dataset_profile": {"examples": 5000}})
    assert reply.verdict.method == method_pb2.METHOD_LORA
    assert reply.spec.gradient_checkpointing == training_pb2.GRADIENT_CHECKPOINTING_FULL
    source = next(item for item in reply.setting_sources if item.field_path == "gradient_checkpointing")
    assert source.rule_id == "fit.gradient_checkpointing"
    assert reply.spec.training.learning_rate == pytest.approx(2e-4)
    full = next(item for item in reply.methods if item.method == method_pb2.METHOD_FULL)
    assert [reason.code for reason in full.reasons][:2] == ["DOES_NOT_FIT", "GPU_TOO_SMALL"]


@pytest.mark.service_alone("verdict")
async def test_a_small_model_on_a_gpu_below_8_gb_trains_too(client):
    reply = await client.recommend(on_gpu(4, "llama-3.2-1b", dataset_profile=SHORT_ROWS))
    assert reply.verdict.method in (method_pb2.METHOD_LORA, method_pb2.METHOD_QLORA)
    assert reply.verdict.upgrade_advised
    assert "gate.below_8" in [step.overruled_rule_id for step in reply.trace]


async def test_where_nothing_fits_the_answer_says_so(client):
    reply = await client.recommend({"model": {"name": "llama-3.1-8b"}, "hardware": {"cpu": {"memory_bytes": 4 * GIB}}})
    assert reply.verdict.method == method_pb2.METHOD_UNSPECIFIED
    assert reply.verdict.upgrade_advised
    assert not reply.HasField("spec")
    assert not reply.plan_digest
    assert "NOTHING_FITS" in [caution.code for caution in reply.cautions]


async def test_a_question_without_hardware_is_answered_by_the_rules(client):
    reply = await client.recommend({"model": {"name": "llama-3.1-8b"}})
    assert reply.verdict.method == method_pb2.METHOD_LORA
    assert "HARDWARE_UNKNOWN" in [caution.code for caution in reply.cautions]
    assert reply.spec.training.learning_rate == pytest.approx(2e-4)


@pytest.mark.service_alone("process")
async def test_an_estimator_that_is_down_degrades_the_answer(recommender, free_address):
    # Nobody waits for it: the client's own deadline is shorter than the recommender's for the estimator.
    async with recommender(free_address, estimator_time=600.0) as client:
        reply = await client.recommend(on_gpu(24, dataset_profile={"examples": 5000}))
        on_cpu = await client.recommend(SMALL)
    assert reply.verdict.method == method_pb2.METHOD_LORA
    assert "ESTIMATOR_UNAVAILABLE" in [caution.code for caution in reply.cautions]
    assert not reply.HasField("estimate")
    assert reply.spec.lora.rank == 8
    assert reply.revision.pack.id == "playbook-1"
    assert not reply.revision.HasField("engine")
    assert on_cpu.verdict.method == method_pb2.METHOD_UNSPECIFIED
    assert on_cpu.verdict.upgrade_advised


@pytest.mark.service_alone("process")
async def test_an_estimator_that_never_answers_costs_its_deadline_at_most(recommender, silent_address):
    async with recommender(silent_address, estimator_time=0.3) as client:
        replies = await asyncio.gather(*(client.recommend(on_gpu(24)) for _ in range(5)))
    assert all("ESTIMATOR_UNAVAILABLE" in [item.code for item in reply.cautions] for reply in replies)


@pytest.mark.service_alone("names")
async def test_an_alias_of_a_model_is_known_without_hardware_too(recommender, estimator_address):
    async with recommender(estimator_address) as client:
        reply = await client.recommend({"model": {"hub": {"id": "meta-llama/Meta-Llama-3-8B-Instruct"}}})
    assert "HARDWARE_UNKNOWN" in [item.code for item in reply.cautions]


@pytest.mark.parametrize(
    ("request_", "kind", "reason", "field"),
    [
        ({"hardware": {"accelerator": "rtx-9999"}}, finetree.NotFound, "ACCELERATOR_NOT_FOUND", ""),
        ({"max_duration": "0s"}, finetree.InvalidArgument, "INVALID_REQUEST", "max_duration"),
        ({"budget_per_run": usd(-1)}, finetree.InvalidArgument, "INVALID_REQUEST", "budget_per_run"),
        ({"budget_per_run": EUROS}, finetree.InvalidArgument, "CURRENCY_MISMATCH", "budget_per_run"),
        ({"runs_per_month": -1}, finetree.InvalidArgument, "INVALID_REQUEST", "runs_per_month"),
        ({"priorities": [1, 1]}, finetree.InvalidArgument, "INVALID_REQUEST", "priorities"),
        ({"serving": [9]}, finetree.InvalidArgument, "INVALID_REQUEST", "serving"),
        (on_gpu(24, "no-such-model"), finetree.NotFound, "MODEL_NOT_FOUND", ""),
        ({"model": {"name": "no-such-model"}}, finetree.NotFound, "MODEL_NOT_FOUND", ""),
        (
            {"model": {"name": "llama-3.1-8b"}, "hardware": {"accelerator": "rtx-9999"}},
            finetree.NotFound,
            "ACCELERATOR_NOT_FOUND",
            "",
        ),
        (on_gpu(24, rule_pack="evidence-9"), finetree.NotFound, "RULE_PACK_NOT_FOUND", ""),
        (on_gpu(24, budget_per_month=usd(-5)), finetree.InvalidArgument, "INVALID_REQUEST", "budget_per_month"),
        (on_gpu(-24), finetree.InvalidArgument, "INVALID_REQUEST", "hardware.unknown_accelerator.marketed_memory_gb"),
        (
            on_gpu(24, dataset_profile={"examples": 9, "token_lengths": [{"upper_bound": 9}, {"upper_bound": 8}]}),
            finetree.InvalidArgument,
            "INVALID_REQUEST",
            "dataset_profile.token_lengths",
        ),
        (
            on_gpu(24, ownership={"rented": {"price_id": "no-such-price"}}),
            finetree.InvalidArgument,
            "INVALID_REQUEST",
            "ownership.rented.price_id",
        ),
        (
            on_gpu(24) | {"model": {"shape": CROOKED}},
            finetree.InvalidArgument,
            "INVALID_REQUEST",
            "model.shape",
        ),
        (
            on_gpu(24, pinned={"pack": {"sha256": "0" * 64}}),
            finetree.FailedPrecondition,
            "REVISION_UNAVAILABLE",
            "pinned.pack.sha256",
        ),
        (
            on_gpu(24, pinned={"engine": {"id": "engine-0"}}),
            finetree.FailedPrecondition,
            "REVISION_UNAVAILABLE",
            "",
        ),
    ],
)  # fmt: skip
async def test_bad_input_is_named(client, request_, kind, reason, field):
    with pytest.raises(kind) as caught:
        await client.recommend(request_)
    assert caught.value.reason == reason
    assert str(caught.value)
    if field:
        assert any(violation.field.startswith(field) for violation in caught.value.violations), caught.value.violations


async def test_an_empty_request_is_answered_for_a_beginner(client):
    reply = await client.recommend({})
    assert reply.verdict.method == method_pb2.METHOD_LORA
    assert reply.spec.lora.rank == 8
    assert not reply.spec.HasField("model")
    assert "MODEL_UNKNOWN" in [item.code for item in reply.cautions]


@pytest.mark.service_alone("process")
async def test_a_pinned_estimator_revision_is_not_passed_over_when_it_is_down(recommender, free_address):
    async with recommender(free_address) as client:
        with pytest.raises(finetree.FailedPrecondition) as caught:
            await client.recommend(on_gpu(24, pinned={"engine": {"id": "engine-1"}}))
    assert caught.value.reason == "REVISION_UNAVAILABLE"


async def test_the_revision_of_a_reply_can_be_pinned(client):
    reply = await client.recommend(SMALL)
    request = recommendation_pb2.RecommendRequest(pinned=reply.revision)
    json_format.ParseDict(SMALL, request)
    assert (await client.recommend(request)).plan_digest == reply.plan_digest


@pytest.mark.parametrize(("tokens", "warned"), [(100_000_000, True), (1_000_000, False)])
@pytest.mark.service_alone("verdict")
async def test_data_with_more_tokens_than_the_adapter_has_parameters_are_cautioned(client, tokens, warned):
    known = {"examples": 100_000, "total_tokens": tokens, "target_fraction": 0.5}
    reply = await client.recommend(on_gpu(24, "llama-3.2-1b", dataset_profile=known))
    assert reply.verdict.method == method_pb2.METHOD_LORA
    found = [caution for caution in reply.cautions if caution.code == "ADAPTER_CAPACITY"]
    assert bool(found) == warned
    assert all(caution.redirect == method_pb2.METHOD_FULL and "50,000,000" in caution.message for caution in found)
