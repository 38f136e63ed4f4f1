# SPDX-License-Identifier: Apache-2.0
import asyncio

import grpc
import pytest
from finetree_api.estimator.v1 import catalog_pb2, estimate_pb2
from finetree_api.types.v1 import estimate_summary_pb2, evidence_pb2
from finetree_runtime.money import to_money
from finetree_runtime.runspec.digest import plan_digest

CPU = {"cpu": {"cores": 2, "memory_bytes": 16 << 30}}
RATES = {"bf16_flops_per_second": 2e12, "fp32_flops_per_second": 3e11}


OWNED = {"owned": {"price_per_kwh": {"nanos": 300_000_000, "currency_code": "EUR"}}}


@pytest.mark.parametrize("method", ["full", "lora", "qlora", "prefix", "adapter"])
@pytest.mark.parametrize("hardware", [{"accelerator": "a100-80gb"}, CPU], ids=["gpu", "cpu"])
async def test_each_method_is_estimated_on_gpu_and_cpu(stub, request_of, method, hardware):
    spec = {"model": {"name": "smollm2-135m-instruct"}, "hardware": hardware, method: {}}
    request = request_of(spec, matrix_rates=RATES)
    estimate = (await stub.EstimateRun(request)).estimate

    memory = estimate.memory
    assert sum(part.bytes.expected for part in memory.components) == pytest.approx(memory.device_bytes.expected)
    assert sum(phase.seconds.expected for phase in estimate.time.phases) == pytest.approx(
        estimate.time.total_seconds.expected
    )
    assert estimate.fit.verdict == estimate_summary_pb2.FIT_VERDICT_FITS
    assert estimate.total_parameters == 134_515_008
    assert 0 < estimate.trainable_parameters <= 134_515_008
    assert estimate.optimizer_steps == 189
    assert estimate.resolved_spec.training.effective_batch_size == 16


def intervals(message):
    """Every interval anywhere in a message."""
    for field, value in message.ListFields():
        for item in value if field.is_repeated else [value]:
            if isinstance(item, evidence_pb2.Interval):
                yield f"{message.DESCRIPTOR.name}.{field.name}", item
            elif field.message_type is not None and not field.message_type.GetOptions().map_entry:
                yield from intervals(item)


async def test_every_interval_states_its_coverage_and_where_it_comes_from(stub, request_of):
    estimate = (await stub.EstimateRun(request_of())).estimate
    found = list(intervals(estimate))

    assert len(found) >= 15
    for name, interval in found:
        assert 0 <= interval.low <= interval.expected <= interval.high, name
        assert 0 < interval.coverage <= 1, name
        assert interval.provenance, name
        assert all(source.kind and source.source for source in interval.provenance), name


async def test_the_same_request_gives_the_same_answer(stub, request_of):
    first, second = [await stub.EstimateRun(request_of()) for _ in range(2)]

    assert first.SerializeToString(deterministic=True) == second.SerializeToString(deterministic=True)


async def test_calls_at_once_are_answered_as_one_after_the_other(stub, request_of, explain):
    asked = [request_of(dataset_profile={"examples": 100 + number}) for number in range(64)]
    asked[40] = request_of({"model": {"name": "nonesuch"}})
    at_once = await asyncio.gather(*map(stub.EstimateRun, asked), return_exceptions=True)
    assert explain(at_once.pop(40)).reason == "MODEL_NOT_FOUND"

    in_turn = [await stub.EstimateRun(each) for each in asked[:40] + asked[41:]]
    assert at_once == in_turn


async def test_the_digest_is_the_suites_and_follows_the_plan(stub, request_of):
    request = request_of()
    estimate = (await stub.EstimateRun(request)).estimate
    other = (await stub.EstimateRun(request_of({"lora": {"rank": 16}}))).estimate

    assert estimate.plan_digest == plan_digest(estimate.resolved_spec, request.dataset_profile, estimate.revision)
    assert other.plan_digest != estimate.plan_digest


async def test_cost_comes_with_the_price_that_it_is_of(stub, request_of):
    rented = (await stub.EstimateRun(request_of({"ownership": {"rented": {}}}))).estimate.cost
    owned = (await stub.EstimateRun(request_of({"ownership": OWNED}))).estimate.cost
    listed = (await stub.ListPrices(catalog_pb2.ListPricesRequest(accelerator="rtx-4090"))).prices
    (price,) = [each for each in listed if each.price_id == rented.price_id]

    assert (rented.provider, rented.region, rented.term) == (price.provider, price.region, price.term)
    assert (rented.hourly_price, rented.price_date) == (price.hourly_price, price.provenance.date)
    assert rented.total.currency_code == price.hourly_price.currency_code
    assert rented.total.amount.expected > 0
    assert (owned.price_id, owned.total.currency_code) == ("", "EUR")
    assert owned.total.amount.expected == pytest.approx(0.3 * owned.energy_kwh.expected)


@pytest.mark.service_alone("catalog")
async def test_cost_comes_with_price_provider_and_date(stub, request_of):
    rented = (await stub.EstimateRun(request_of({"ownership": {"rented": {}}}))).estimate.cost

    assert (rented.price_id, rented.provider, rented.price_date) == ("lium/rtx-4090/2026", "lium", "2026")
    assert (rented.total.currency_code, rented.region) == ("USD", "RO")
    assert rented.hourly_price == to_money(0.35, "USD")
    assert rented.term == catalog_pb2.PRICE_TERM_ON_DEMAND


async def test_cost_per_month_and_carbon_follow_the_request(stub, request_of):
    cost = (await stub.EstimateRun(request_of(runs_per_month=4, carbon_kg_per_kwh=0.1))).estimate.cost

    assert cost.monthly.amount.expected == pytest.approx(4 * cost.total.amount.expected)
    assert cost.carbon_kg.expected == pytest.approx(0.1 * cost.energy_kwh.expected)
    assert not (await stub.EstimateRun(request_of())).estimate.cost.HasField("monthly")


async def test_the_full_view_offers_where_the_run_fits_the_cheapest_first(stub, request_of):
    request = request_of({"qlora": {}, "training": {"micro_batch_size": 1}})
    assert not (await stub.EstimateRun(request)).estimate.offers
    request.view = estimate_pb2.ESTIMATE_VIEW_FULL
    offers = (await stub.EstimateRun(request)).estimate.offers
    amounts = [offer.cost.amount.expected for offer in offers]

    assert 3 <= len(offers) <= 8
    assert amounts == sorted(amounts)
    assert len({offer.price.accelerator for offer in offers}) > 1
    assert all(
        offer.verdict == estimate_summary_pb2.FIT_VERDICT_FITS and offer.price.provenance.date for offer in offers
    )


async def test_what_is_too_large_does_not_fit_and_says_by_how_much(stub, request_of):
    fit = (await stub.EstimateRun(request_of({"model": {"name": "llama-3-70b"}}))).estimate.fit

    assert fit.verdict == estimate_summary_pb2.FIT_VERDICT_DOES_NOT_FIT
    assert fit.headroom_bytes < -100 * 10**9
    assert fit.summary.startswith("does not fit")


@pytest.mark.service_alone("search")
async def test_the_full_view_says_what_would_fit_and_the_basic_one_does_not_search(stub, request_of):
    spec = {"model": {"name": "llama-3.1-8b"}, "training": {"effective_batch_size": 16}}
    spec["gradient_checkpointing"] = "GRADIENT_CHECKPOINTING_OFF"
    full = (await stub.EstimateRun(request_of(spec, view="ESTIMATE_VIEW_FULL"))).estimate
    basic = (await stub.EstimateRun(request_of(spec))).estimate

    assert full.fit.verdict == estimate_summary_pb2.FIT_VERDICT_DOES_NOT_FIT
    assert full.fit.probability < 0.05
    assert (
        [remedy.verdict for remedy in full.remedies]
        == [estimate_summary_pb2.FIT_VERDICT_FITS] * len(full.remedies)
        != []
    )
    assert 0 < full.largest.sequence_length < full.resolved_spec.training.sequence_length
    assert full.largest.micro_batch_size < full.resolved_spec.training.micro_batch_size
    assert full.smallest_hardware[0].count == 1
    assert full.smallest_hardware[0].device_bytes.high <= full.smallest_hardware[0].usable_device_bytes
    assert (list(basic.remedies), list(basic.smallest_hardware)) == ([], [])
    assert not basic.HasField("largest")
    assert basic.memory == full.memory


@pytest.mark.parametrize("view", ["ESTIMATE_VIEW_SUMMARY", "ESTIMATE_VIEW_BASIC"])
@pytest.mark.service_alone("search")
async def test_a_search_that_is_asked_for_finds_what_the_full_view_does_and_no_other_is_made(stub, request_of, view):
    spec = {"model": {"name": "llama-3.1-8b"}, "gradient_checkpointing": "GRADIENT_CHECKPOINTING_OFF"}
    full = (await stub.EstimateRun(request_of(spec, view="ESTIMATE_VIEW_FULL"))).estimate
    plain = (await stub.EstimateRun(request_of(spec, view=view))).estimate
    searches = {
        "nearest_runs": "ESTIMATE_SEARCH_NEAREST_RUNS",
        "remedies": "ESTIMATE_SEARCH_REMEDIES",
        "largest": "ESTIMATE_SEARCH_LARGEST",
        "smallest_hardware": "ESTIMATE_SEARCH_SMALLEST_HARDWARE",
        "offers": "ESTIMATE_SEARCH_OFFERS",
    }
    for field, search in searches.items():
        found = (await stub.EstimateRun(request_of(spec, view=view, searches=[search]))).estimate
        assert getattr(found, field) == getattr(full, field) != getattr(estimate_pb2.Estimate(), field)
        found.ClearField(field)
        assert found == plain
    for refused in ([0], ["ESTIMATE_SEARCH_OFFERS", "ESTIMATE_SEARCH_OFFERS"]):
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await stub.EstimateRun(request_of(spec, view=view, searches=refused))
        assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.service_alone("search")
async def test_what_the_full_view_found_holds_when_it_is_asked_for(stub, request_of):
    spec = {"model": {"name": "llama-3.1-8b"}, "qlora": {}, "training": {"effective_batch_size": 16}}
    full = (await stub.EstimateRun(request_of(spec, view="ESTIMATE_VIEW_FULL"))).estimate
    option = full.smallest_hardware[0]
    chosen = {"accelerator": option.accelerator, "count": option.count, "sharding": option.sharding}
    elsewhere = (await stub.EstimateRun(request_of(spec | {"hardware": chosen}))).estimate
    shorter = {"training": {"sequence_length": full.largest.sequence_length, "effective_batch_size": 16}}
    cut = (await stub.EstimateRun(request_of(spec | shorter))).estimate

    assert elsewhere.memory.device_bytes == option.device_bytes
    assert elsewhere.fit.verdict == option.verdict == estimate_summary_pb2.FIT_VERDICT_FITS
    assert cut.fit.verdict == estimate_summary_pb2.FIT_VERDICT_FITS
    assert 0.95 <= cut.fit.probability <= 1


async def test_without_the_number_of_rows_memory_is_answered_and_time_left_out(stub, request_of):
    request = request_of()
    request.ClearField("dataset_profile")
    estimate = (await stub.EstimateRun(request)).estimate

    assert estimate.memory.device_bytes.expected > 0
    assert not estimate.HasField("time")
    assert not estimate.HasField("cost")
    assert any("number of rows is unknown" in remark.message for remark in estimate.remarks)


@pytest.mark.parametrize(("every", "remarked"), [(1, True), (10_000, False)])
@pytest.mark.service_alone("figures")
async def test_a_run_that_mostly_writes_checkpoints_is_remarked_upon(stub, request_of, every, remarked):
    hardware = {"accelerator": "h200"}
    request = request_of({"full": {}, "checkpoints": {"every_steps": every}, "hardware": hardware})
    estimate = (await stub.EstimateRun(request)).estimate

    assert any("raise checkpoints.every_steps" in remark.message for remark in estimate.remarks) is remarked


async def test_the_present_revision_can_be_pinned(stub, request_of):
    revision = (await stub.EstimateRun(request_of())).estimate.revision
    request = request_of()
    request.pinned.CopyFrom(revision)
    request.pinned.pack.id = "playbook"

    assert (await stub.EstimateRun(request)).estimate.revision == revision


@pytest.mark.parametrize("part", ["engine", "catalog", "price_book", "calibration"])
async def test_another_revision_is_not_to_be_had(stub, request_of, explain, part):
    request = request_of()
    getattr(request.pinned, part).id = "other"

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.EstimateRun(request)

    found = explain(caught.value)
    assert (caught.value.code(), found.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "REVISION_UNAVAILABLE")
    assert f"pinned.{part}" in found.message


async def test_what_was_pinned_and_what_there_is_are_told_by_what_differs(stub, request_of, explain):
    request = request_of()
    engine = (await stub.EstimateRun(request)).estimate.revision.engine
    request.pinned.engine.id, request.pinned.engine.sha256 = engine.id, "0" * 64

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.EstimateRun(request)

    told = explain(caught.value).message
    assert "0" * 64 in told
    assert f"{engine.id} is not" not in told


NOT_FOUND = grpc.StatusCode.NOT_FOUND
INVALID = grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("spec", "error"),
    [
        ({"model": {"name": "nope"}}, (NOT_FOUND, "MODEL_NOT_FOUND", None)),
        ({"model": {"hub": {"id": "no/pe"}}}, (NOT_FOUND, "MODEL_NOT_FOUND", None)),
        ({"model": {"path": "../x"}}, (NOT_FOUND, "MODEL_NOT_FOUND", None)),
        ({"hardware": {"accelerator": "nope"}}, (NOT_FOUND, "ACCELERATOR_NOT_FOUND", None)),
        (
            {"hardware": {"accelerator": "mi300x"}},
            (INVALID, "ACCELERATOR_NOT_SUPPORTED", "spec.hardware.accelerator"),
        ),
        pytest.param(
            {"hardware": {"accelerator": "Radeon 9999"}},
            (INVALID, "ACCELERATOR_NOT_SUPPORTED", "spec.hardware.accelerator"),
            marks=pytest.mark.service_alone("names"),
        ),
        ({"ownership": {"rented": {"price_id": "nope"}}}, (NOT_FOUND, "PRICE_NOT_FOUND", None)),
        ({"lora": {"rank": -8}}, (INVALID, "INVALID_REQUEST", "spec.lora.rank")),
        ({"lora": {"rank": 10**9}}, (INVALID, "INVALID_REQUEST", "spec.lora.rank")),
        ({"lora": {"target_modules": ["x"]}}, (INVALID, "INVALID_REQUEST", "spec.lora.target_modules")),
        ({"training": {"learning_rate": "NaN"}}, (INVALID, "INVALID_REQUEST", "spec.training.learning_rate")),
        ({"model": {}}, (INVALID, "INVALID_REQUEST", "spec.model.source")),
        ({"hardware": None}, (INVALID, "INVALID_REQUEST", "spec.hardware")),
        (
            {"prefix": {}, "gradient_checkpointing": "GRADIENT_CHECKPOINTING_FULL"},
            (INVALID, "PREFIX_WITH_CHECKPOINTING", "spec.gradient_checkpointing"),
        ),
        (
            {"training": {"effective_batch_size": 2, "micro_batch_size": 3}},
            (INVALID, "MICRO_BATCH_TOO_LARGE", "spec.training.micro_batch_size"),
        ),
        ({"hardware": {"accelerator": "h100", "nodes": 2}}, (INVALID, "NODES_UNEVEN", "spec.hardware.nodes")),
        ({"hardware": {"cpu": {"cores": 2}, "count": 3}}, (INVALID, "THREADS_TOO_FEW", "spec.hardware.count")),
        (
            {"training": {"sequence_length": 131_073}},
            (INVALID, "SEQUENCE_TOO_LONG", "spec.training.sequence_length"),
        ),
    ],
)
async def test_each_documented_error(stub, request_of, explain, spec, error):
    code, reason, field = error
    parts = {key: value for key, value in spec.items() if value is not None}
    request = request_of(parts)
    for key in spec.keys() - parts.keys():
        request.spec.ClearField(key)

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.EstimateRun(request)

    found = explain(caught.value)
    assert (caught.value.code(), found.reason, found.domain) == (code, reason, "finetree")
    assert field is None or field in found.fields


async def test_a_sequence_length_that_is_left_open_is_one_that_the_model_has(stub, request_of):
    shape = {"hidden_size": 64, "layers": 2, "intermediate_size": 128, "attention_heads": 4, "vocab_size": 100}
    request = request_of({"model": {"shape": shape | {"max_position_embeddings": 512}}})
    estimate = (await stub.EstimateRun(request)).estimate

    assert estimate.resolved_spec.training.sequence_length == 512


async def test_a_request_without_a_method_is_refused(stub, request_of, explain):
    request = request_of()
    request.spec.ClearField("lora")

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.EstimateRun(request)

    assert explain(caught.value).fields == ["spec.method"]
