# SPDX-License-Identifier: Apache-2.0
"""CheckPlan over the wire: each limit, each documented error, and remedies that keep what they promise."""

import json

import grpc
import pytest
from finetree_api.estimator.v1 import estimator_pb2 as pb
from finetree_api.types.v1 import evidence_pb2 as ev
from finetree_estimator.whatif.changes import Patch, apply_patches
from google.protobuf import json_format

PASS, FAIL, UNDECIDED = ev.CHECK_VERDICT_PASS, ev.CHECK_VERDICT_FAIL, ev.CHECK_VERDICT_UNDECIDED
LIMITS = ("max_cost", "max_monthly_cost", "max_seconds", "max_device_bytes", "must_fit", "max_energy_kwh")


@pytest.fixture
def check_of(request_of):
    """A CheckPlanRequest from a policy in JSON; the rest is the run of `request_of`."""

    def make(policy: dict[str, object], spec: dict[str, object] | None = None, **parts: object) -> pb.CheckPlanRequest:
        kept = {"gradient_checkpointing": "GRADIENT_CHECKPOINTING_OFF"}
        run = request_of({"model": {"name": "smollm2-135m-instruct"}} | kept | (spec or {}), **parts)
        return pb.CheckPlanRequest(run=run, policy=json_format.ParseDict(policy, pb.PlanPolicy()))

    return make


def measured(estimate: pb.Estimate) -> dict[str, ev.Interval]:
    return {
        "max_cost": estimate.cost.amount,
        "max_monthly_cost": estimate.cost.amount,
        "max_seconds": estimate.time.total_seconds,
        "max_device_bytes": estimate.memory.device_bytes,
        "max_energy_kwh": estimate.cost.energy_kwh,
    }


async def test_loose_limits_pass_one_check_each_in_the_order_of_the_policy(stub, check_of):
    loose = dict.fromkeys(LIMITS, 1e9) | {"max_device_bytes": 10**12, "must_fit": True}
    reply = await stub.CheckPlan(check_of(loose))

    assert reply.verdict == PASS
    assert [check.rule_id for check in reply.checks] == [f"policy.{name}" for name in LIMITS]
    assert {check.verdict for check in reply.checks} == {PASS}
    assert all(check.severity == ev.SEVERITY_ERROR and check.help and check.field_path for check in reply.checks)
    assert not reply.remedies
    assert not any(check.HasField("fix") for check in reply.checks)


@pytest.mark.parametrize("name", ["max_cost", "max_monthly_cost", "max_seconds", "max_device_bytes", "max_energy_kwh"])
async def test_each_limit_passes_is_undecided_and_fails(stub, check_of, name):
    estimate = (await stub.EstimateRun(check_of({}).run)).estimate
    interval = measured(estimate)[name]
    found = {}
    for verdict, limit in ((PASS, interval.high * 1.01), (UNDECIDED, interval.expected), (FAIL, interval.low * 0.99)):
        policy = {name: int(limit) if name == "max_device_bytes" else limit}
        reply = await stub.CheckPlan(check_of(policy))
        found[verdict] = [reply.verdict, *(check.verdict for check in reply.checks)]
        assert reply.checks[0].measured == interval
        assert reply.checks[0].limit == pytest.approx(limit, rel=1e-6)

    assert found == {verdict: [verdict, verdict] for verdict in (PASS, UNDECIDED, FAIL)}


async def test_a_plan_is_one_run(stub, check_of, explain):
    request = check_of({"max_cost": 1})
    request.run.fallbacks.add()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.CheckPlan(request)
    assert explain(caught.value).fields == ["run.fallbacks"]


async def test_the_estimate_is_that_of_estimate_run_in_its_basic_view(stub, check_of):
    request = check_of({"max_cost": 1})
    request.run.view = pb.ESTIMATE_VIEW_FULL
    basic = pb.EstimateRunRequest()
    basic.CopyFrom(request.run)
    basic.view = pb.ESTIMATE_VIEW_BASIC

    reply = await stub.CheckPlan(request)
    assert reply.estimate == (await stub.EstimateRun(basic)).estimate
    assert reply.estimate.plan_digest.startswith("sha256:")
    assert reply.estimate.revision.engine.id


async def test_the_same_request_gives_the_same_bytes(stub, check_of):
    request = check_of({"max_cost": 1e-6, "max_seconds": 1, "must_fit": True}, {"model": {"name": "llama-3.1-8b"}})
    first, second = [await stub.CheckPlan(request) for _ in range(2)]
    assert first.SerializeToString(deterministic=True) == second.SerializeToString(deterministic=True)


def patched(request: pb.CheckPlanRequest, patches: list[ev.SpecPatch]) -> pb.CheckPlanRequest:
    changed = pb.CheckPlanRequest()
    changed.CopyFrom(request)
    made = [Patch(each.field_path, json.loads(each.json_value), "") for each in patches]
    changed.run.spec.CopyFrom(apply_patches(request.run.spec, made))
    return changed


@pytest.mark.parametrize(
    ("policy", "spec"),
    [
        ({"must_fit": True}, {"model": {"name": "llama-3.1-8b"}}),
        ({"must_fit": True, "max_cost": 50}, {"model": {"name": "llama-3.1-8b"}, "full": {}}),
        ({"max_device_bytes": 16 << 30}, {"model": {"name": "llama-3.2-3b"}}),
        ({"max_seconds": 200}, {"model": {"name": "llama-3.2-3b"}}),
        ({"max_cost": 0.015}, {"model": {"name": "llama-3.2-3b"}, "hardware": {"accelerator": "rtx-4090"}}),
        ({"max_seconds": 60}, {"model": {"name": "llama-3.2-1b"}, "training": {"max_steps": 500}}),
        # No single change keeps both: a lighter run is also made shorter.
        ({"max_seconds": 6000, "must_fit": True}, {"model": {"name": "llama-3.1-8b"}, "training": {"epochs": 20}}),
        (
            {"max_cost": 0.05, "must_fit": True},
            {"model": {"name": "llama-3.2-3b"}, "ownership": {"rented": {"price_id": "vast/rtx-4090/2026-07-15"}}},
        ),
    ],
)
async def test_every_remedy_passes_once_it_is_applied_to_the_job(stub, check_of, policy, spec):
    request = check_of(policy, spec)
    reply = await stub.CheckPlan(request)

    assert reply.verdict in (FAIL, UNDECIDED)
    assert reply.remedies
    for remedy in reply.remedies:
        assert (await stub.CheckPlan(patched(request, list(remedy.patches)))).verdict == PASS, remedy.summary


async def test_a_fix_is_one_change_after_which_that_rule_passes(stub, check_of):
    request = check_of({"max_seconds": 200, "must_fit": True}, {"model": {"name": "llama-3.2-3b"}})
    fixed = [check for check in (await stub.CheckPlan(request)).checks if check.HasField("fix")]

    assert fixed
    for check in fixed:
        alone = await stub.CheckPlan(patched(request, [check.fix]))
        verdicts = {item.rule_id: item.verdict for item in alone.checks}
        assert verdicts[check.rule_id] == PASS


@pytest.mark.parametrize(
    ("policy", "spec", "told"),
    [
        ({"max_cost": 1e-9}, {}, ["policy.max_cost may still take", "limit 1e-09 USD"]),
        ({"max_device_bytes": 1 << 20}, {}, ["policy.max_device_bytes may still", "limit 1 MiB", "one row at"]),
        (
            {"max_seconds": 1e-3, "must_fit": True},
            {"model": {"name": "llama-3.1-8b"}},
            ["policy.must_fit passes", "but then policy.max_seconds does not"],
        ),
        (
            {"must_fit": True},
            {"model": {"name": "llama-3.1-405b"}, "ownership": {"owned": {"tariff_per_kwh": 0.3}}},
            ["policy.must_fit may still take", "8 devices", "other hardware is not proposed"],
        ),
        ({"max_cost": 1}, {"hardware": {"cpu": {"cores": 2}}}, ["nothing is left to", "policy.max_cost cannot be"]),
    ],
)
async def test_where_no_change_would_pass_it_says_so_and_why(stub, check_of, policy, spec, told):
    reply = await stub.CheckPlan(check_of(policy, spec))

    assert reply.verdict in (FAIL, UNDECIDED)
    assert not reply.remedies
    assert [part for part in told if part not in reply.no_remedy] == [], reply.no_remedy
    broken = [check.rule_id for check in reply.checks if check.verdict != PASS]
    assert all(rule in reply.no_remedy for rule in broken)


@pytest.mark.parametrize("policy", [{"max_cost": 1e9}, {"max_seconds": 200}])
async def test_where_a_change_passes_or_none_is_needed_there_is_nothing_to_explain(stub, check_of, policy):
    reply = await stub.CheckPlan(check_of(policy, {"model": {"name": "llama-3.2-3b"}}))
    assert (reply.verdict == PASS) == (not reply.remedies)
    assert not reply.no_remedy


async def test_owned_hardware_is_not_replaced_by_another(stub, check_of):
    owned = {"model": {"name": "llama-3.1-8b"}, "ownership": {"owned": {"tariff_per_kwh": 0.3}}}
    reply = await stub.CheckPlan(check_of({"must_fit": True}, owned))

    assert reply.remedies
    assert not {patch.field_path for remedy in reply.remedies for patch in remedy.patches} & {"hardware.accelerator"}


@pytest.mark.parametrize(
    "case",
    [
        ({"max_cost": 1}, None, 0, "dataset_profile.examples"),
        ({"max_seconds": 1}, None, 0, "dataset_profile.examples"),
        ({"max_energy_kwh": 1}, None, 0, "dataset_profile.examples"),
        ({"max_cost": 1}, {"cpu": {"cores": 2}}, 10, "ownership.owned"),
        ({"must_fit": True}, {"cpu": {"cores": 2}}, 10, "give the memory"),
    ],
)
async def test_a_number_that_cannot_be_known_is_undecided_and_says_what_to_give(stub, check_of, case):
    policy, device, examples, asked = case
    request = check_of(policy, {"hardware": device} if device else {})
    request.run.ClearField("dataset_profile")
    if examples:
        request.run.dataset_profile.examples = examples
    reply = await stub.CheckPlan(request)

    (check,) = reply.checks
    assert (reply.verdict, check.verdict) == (UNDECIDED, UNDECIDED)
    assert asked in check.help


INVALID, NOT_FOUND = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize(
    "case",
    [
        ({}, {}, (INVALID, "POLICY_EMPTY", "policy")),
        ({"currency_code": "USD"}, {}, (INVALID, "POLICY_EMPTY", "policy")),
        ({"max_cost": 1, "currency_code": "EUR"}, {}, (INVALID, "CURRENCY_UNKNOWN", "policy.currency_code")),
        ({"max_monthly_cost": 1, "currency_code": "EUR"}, {}, (INVALID, "CURRENCY_UNKNOWN", "policy.currency_code")),
        (
            {"max_cost": 1, "currency_code": "??"},
            {"hardware": {"cpu": {"cores": 2}}},
            (INVALID, "CURRENCY_UNKNOWN", "policy.currency_code"),
        ),
        ({"max_cost": 1, "currency_code": "E1"}, {}, (INVALID, "CURRENCY_UNKNOWN", "policy.currency_code")),
        ({"max_cost": -1}, {}, (INVALID, "INVALID_REQUEST", "policy.max_cost")),
        ({"max_seconds": "NaN"}, {}, (INVALID, "INVALID_REQUEST", "policy.max_seconds")),
        ({"max_cost": 1}, {"lora": {"rank": -8}}, (INVALID, "INVALID_REQUEST", "run.spec.lora.rank")),
        (
            {"max_cost": 1},
            {"lora": {"target_modules": ["x"]}},
            (INVALID, "INVALID_REQUEST", "run.spec.lora.target_modules"),
        ),
        ({"max_cost": 1}, {"model": {"name": "nope"}}, (NOT_FOUND, "MODEL_NOT_FOUND", None)),
        ({"max_cost": 1}, {"hardware": {"accelerator": "nope"}}, (NOT_FOUND, "ACCELERATOR_NOT_FOUND", None)),
        ({"max_cost": 1}, {"ownership": {"rented": {"price_id": "nope"}}}, (NOT_FOUND, "PRICE_NOT_FOUND", None)),
        (
            {"max_cost": 1},
            {"prefix": {}, "gradient_checkpointing": "GRADIENT_CHECKPOINTING_FULL"},
            (INVALID, "PREFIX_WITH_CHECKPOINTING", "run.spec.gradient_checkpointing"),
        ),
    ],
)
async def test_each_documented_error(stub, check_of, explain, case):
    policy, spec, (code, reason, field) = case
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.CheckPlan(check_of(policy, spec))

    found = explain(caught.value)
    assert (caught.value.code(), found.reason, found.domain) == (code, reason, "finetree")
    assert field is None or field in found.fields


@pytest.mark.parametrize("part", ["run", "policy"])
async def test_run_and_policy_are_required(stub, check_of, explain, part):
    request = check_of({"max_cost": 1})
    request.ClearField(part)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.CheckPlan(request)
    assert explain(caught.value).fields == [part]


async def test_another_revision_is_not_to_be_had(stub, check_of, explain):
    request = check_of({"max_cost": 1})
    request.run.pinned.price_book.id = "other"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.CheckPlan(request)
    assert (caught.value.code(), explain(caught.value).reason) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "REVISION_UNAVAILABLE",
    )


async def test_a_currency_is_that_of_the_price(stub, check_of):
    owned = {"ownership": {"owned": {"tariff_per_kwh": 0.3, "currency_code": "CHF"}}}
    reply = await stub.CheckPlan(check_of({"max_cost": 1000, "currency_code": "chf"}, owned))
    assert reply.verdict == PASS
    assert "CHF" in reply.checks[0].help
