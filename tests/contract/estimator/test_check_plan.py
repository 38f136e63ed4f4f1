# SPDX-License-Identifier: Apache-2.0
"""CheckPlan over the wire: each limit, each documented error, and remedies that keep what they promise."""

from decimal import Decimal

import grpc
import pytest
from finetree_api.estimator.v1 import check_plan_pb2, estimate_pb2
from finetree_api.types.v1 import check_pb2, evidence_pb2
from finetree_estimator.whatif.changes import Patch, apply_patches
from finetree_runtime.money import to_money
from google.protobuf import json_format

PASS, FAIL, UNDECIDED = check_pb2.CHECK_VERDICT_PASS, check_pb2.CHECK_VERDICT_FAIL, check_pb2.CHECK_VERDICT_UNDECIDED
LIMITS = ("cost", "monthly_cost", "duration_seconds", "device_bytes", "fit", "energy_kwh", "carbon_kg", "confidence")


def policy_of(limits: dict[str, object]) -> check_plan_pb2.PlanPolicy:
    """A policy from bounds by metric; costs are in `currency`, US dollars unless it says otherwise."""
    currency = str(limits.get("currency", "USD"))
    found = []
    for name, bound in limits.items():
        if name == "currency":
            continue
        limit: dict[str, object] = {"metric": f"POLICY_METRIC_{name.upper()}"}
        if name in ("cost", "monthly_cost"):
            money = to_money(Decimal(str(bound)), currency)
            limit["max_money"] = json_format.MessageToDict(money)
        elif name == "confidence":
            limit["min_confidence"] = f"CONFIDENCE_LEVEL_{bound}"
        elif name != "fit":
            limit["max"] = bound
        found.append(limit)
    return json_format.ParseDict({"limits": found}, check_plan_pb2.PlanPolicy())


BIG = "llama-3.1-70b"
"""A model that fits on none of the small devices here."""


@pytest.fixture
def check_of(request_of):
    """A CheckPlanRequest from a policy's bounds; the rest is the run of `request_of`."""

    def make(
        limits: dict[str, object], spec: dict[str, object] | None = None, **parts: object
    ) -> check_plan_pb2.CheckPlanRequest:
        kept = {"gradient_checkpointing": "GRADIENT_CHECKPOINTING_OFF"}
        run = request_of({"model": {"name": "smollm2-135m-instruct"}} | kept | (spec or {}), **parts)
        return check_plan_pb2.CheckPlanRequest(run=run, policy=policy_of(limits))

    return make


def measured(estimate: estimate_pb2.Estimate) -> dict[str, evidence_pb2.Interval]:
    return {
        "cost": estimate.cost.total.amount,
        "monthly_cost": estimate.cost.total.amount,
        "duration_seconds": estimate.time.total_seconds,
        "device_bytes": estimate.memory.device_bytes,
        "energy_kwh": estimate.cost.energy_kwh,
        "carbon_kg": estimate.cost.carbon_kg,
    }


async def test_loose_limits_pass_one_check_each_in_the_order_of_the_policy(stub, check_of):
    loose = dict.fromkeys(LIMITS, 1e9) | {"device_bytes": 10**12, "confidence": "LOW"}
    reply = await stub.CheckPlan(check_of(loose))

    assert reply.verdict == PASS
    assert [check.rule_id for check in reply.checks] == list(LIMITS)
    assert {check.verdict for check in reply.checks} == {PASS}
    assert all(
        check.severity == check_pb2.SEVERITY_ERROR and check.message and check.field_path for check in reply.checks
    )
    assert [check_pb2.CheckUnit.Name(check.unit).removeprefix("CHECK_UNIT_") for check in reply.checks] == [
        *("MONEY", "MONEY", "SECONDS", "BYTES", "BYTES", "KILOWATT_HOURS", "KILOGRAMS_CO2", "CONFIDENCE_LEVEL"),
    ]
    assert [check.currency_code for check in reply.checks] == ["USD", "USD", *[""] * 6]
    assert not reply.remedies
    assert not any(check.HasField("fix") for check in reply.checks)


@pytest.mark.parametrize("name", [name for name in LIMITS if name not in ("fit", "confidence")])
async def test_each_limit_passes_is_undecided_and_fails(stub, check_of, name):
    estimate = (await stub.EstimateRun(check_of({"fit": True}).run)).estimate
    interval = measured(estimate)[name]
    found = {}
    for verdict, limit in ((PASS, interval.high * 1.01), (UNDECIDED, interval.expected), (FAIL, interval.low * 0.99)):
        reply = await stub.CheckPlan(check_of({name: limit}))
        found[verdict] = [reply.verdict, *(check.verdict for check in reply.checks)]
        assert reply.checks[0].measured == interval
        assert reply.checks[0].limit == pytest.approx(limit, rel=1e-6, abs=1e-9)

    assert found == {verdict: [verdict, verdict] for verdict in (PASS, UNDECIDED, FAIL)}


@pytest.mark.service_alone("figures")
async def test_lengths_of_the_rows_are_to_be_stated_where_a_limit_may_turn_on_them(stub, check_of):
    """Not where a limit passes, where they are known, or where the weights alone are too much."""
    large = {"model": {"name": "llama-3-70b"}, "hardware": {"accelerator": "rtx-2060"}}
    counted = {"dataset": {"profile": {"examples": 1000}}}
    known = {"dataset": {"profile": {"examples": 1000, "token_lengths": [{"upper_bound": 512, "count": 1000}]}}}
    told = "; the lengths of the rows are unknown, and short rows take less: state them first ({})"
    for limit, spec, path in (
        ({"duration_seconds": 1}, counted, "dataset.profile.total_tokens"),
        ({"device_bytes": 10**8}, counted, ""),
        ({"device_bytes": 4 * 10**9}, counted, "dataset.profile.token_lengths"),
        ({"duration_seconds": 1}, known, ""),
        ({"duration_seconds": 1e9}, counted, ""),
        ({"fit": True}, counted | large, ""),
    ):
        request = check_of(limit, spec)
        request.run.ClearField("dataset_profile")
        (check,) = (await stub.CheckPlan(request)).checks
        assert (told.format(path) in check.message) is bool(path), (limit, check.message)
        assert ("lengths" in check.message) is bool(path)
        assert not path or check.field_path == path


async def test_a_month_of_one_run_is_said(stub, check_of):
    request = check_of({"monthly_cost": 1e9})
    request.run.ClearField("runs_per_month")
    (check,) = (await stub.CheckPlan(request)).checks
    assert check.message.endswith("; one run a month is counted: give runs_per_month")
    request.run.runs_per_month = 4
    assert "one run" not in (await stub.CheckPlan(request)).checks[0].message


async def test_a_plan_is_one_run(stub, check_of, explain):
    request = check_of({"cost": 1})
    request.run.fallbacks.add()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.CheckPlan(request)
    assert explain(caught.value).fields == ["run.fallbacks"]


async def test_the_estimate_is_that_of_estimate_run_in_its_basic_view(stub, check_of):
    request = check_of({"cost": 1})
    request.run.view = estimate_pb2.ESTIMATE_VIEW_FULL
    basic = estimate_pb2.EstimateRunRequest()
    basic.CopyFrom(request.run)
    basic.view = estimate_pb2.ESTIMATE_VIEW_BASIC

    reply = await stub.CheckPlan(request)
    assert reply.estimate == (await stub.EstimateRun(basic)).estimate
    assert reply.estimate.plan_digest.startswith("sha256:")
    assert reply.estimate.revision.engine.id


async def test_the_same_request_gives_the_same_bytes(stub, check_of):
    request = check_of({"cost": 1e-6, "duration_seconds": 1, "fit": True}, {"model": {"name": "llama-3.1-8b"}})
    first, second = [await stub.CheckPlan(request) for _ in range(2)]
    assert first.SerializeToString(deterministic=True) == second.SerializeToString(deterministic=True)


def patched(
    request: check_plan_pb2.CheckPlanRequest, patches: list[check_pb2.SpecPatch]
) -> check_plan_pb2.CheckPlanRequest:
    changed = check_plan_pb2.CheckPlanRequest()
    changed.CopyFrom(request)
    made = [Patch(each.field_path, json_format.MessageToDict(each.value), "") for each in patches]
    changed.run.spec.CopyFrom(apply_patches(request.run.spec, made))
    return changed


@pytest.mark.parametrize(
    ("policy", "spec"),
    [
        ({"fit": True}, {"model": {"name": "llama-3.1-8b"}}),
        ({"fit": True, "cost": 50}, {"model": {"name": "llama-3.1-8b"}, "full": {}}),
        ({"device_bytes": 16 << 30}, {"model": {"name": "llama-3.2-3b"}}),
        ({"duration_seconds": 200}, {"model": {"name": "llama-3.2-3b"}}),
        ({"cost": 0.015}, {"model": {"name": "llama-3.2-3b"}, "hardware": {"accelerator": "rtx-4090"}}),
        ({"duration_seconds": 60}, {"model": {"name": "llama-3.2-1b"}, "training": {"max_steps": 500}}),
        # No single change keeps both: a lighter run is also made shorter.
        ({"duration_seconds": 6000, "fit": True}, {"model": {"name": "llama-3.1-8b"}, "training": {"epochs": 20}}),
        (
            {"cost": 0.05, "fit": True},
            {"model": {"name": "llama-3.2-3b"}, "ownership": {"rented": {"price_id": "vast/rtx-4090/2026-07-15"}}},
        ),
    ],
)
@pytest.mark.service_alone("search")
async def test_every_remedy_passes_once_it_is_applied_to_the_job(stub, check_of, policy, spec):
    request = check_of(policy, spec)
    reply = await stub.CheckPlan(request)

    assert reply.verdict in (FAIL, UNDECIDED)
    assert reply.remedies
    for remedy in reply.remedies:
        assert (await stub.CheckPlan(patched(request, list(remedy.patches)))).verdict == PASS, remedy.summary


@pytest.mark.service_alone("search")
async def test_a_fix_is_one_change_after_which_that_rule_passes(stub, check_of):
    request = check_of({"duration_seconds": 200, "fit": True}, {"model": {"name": "llama-3.2-3b"}})
    fixed = [check for check in (await stub.CheckPlan(request)).checks if check.HasField("fix")]

    assert fixed
    for check in fixed:
        alone = await stub.CheckPlan(patched(request, [check.fix]))
        verdicts = {item.rule_id: item.verdict for item in alone.checks}
        assert verdicts[check.rule_id] == PASS


@pytest.mark.parametrize(
    ("policy", "spec", "parts"),
    [
        ({"cost": 1e-9}, {}, ["cost may reach", "limit 1e-09 USD"]),
        ({"device_bytes": 1 << 20}, {}, ["device_bytes may reach", "limit 1 MiB", "micro-batch 1"]),
        (
            {"duration_seconds": 1e-3, "fit": True},
            {"model": {"name": "llama-3.1-8b"}},
            ["fit passes", "but then duration_seconds does not"],
        ),
        (
            {"fit": True},
            {
                "model": {"name": "llama-3.1-405b"},
                "ownership": {"owned": {"price_per_kwh": {"nanos": 300_000_000, "currency_code": "USD"}}},
            },
            ["fit may reach", "8 devices", "other hardware is not proposed"],
        ),
        ({"cost": 1}, {"hardware": {"cpu": {"cores": 2}}}, ["no change is possible", "cost: unknown without a price"]),
    ],
)
@pytest.mark.service_alone("search")
async def test_where_no_change_would_pass_it_says_so_and_why(stub, check_of, policy, spec, parts):
    reply = await stub.CheckPlan(check_of(policy, spec))

    assert reply.verdict in (FAIL, UNDECIDED)
    assert not reply.remedies
    assert [part for part in parts if part not in reply.no_remedy] == [], reply.no_remedy
    broken = [check.rule_id for check in reply.checks if check.verdict != PASS]
    assert all(rule in reply.no_remedy for rule in broken)


@pytest.mark.parametrize(
    "policy", [{"cost": 1e9}, pytest.param({"duration_seconds": 200}, marks=pytest.mark.service_alone("search"))]
)
async def test_where_a_change_passes_or_none_is_needed_there_is_nothing_to_explain(stub, check_of, policy):
    reply = await stub.CheckPlan(check_of(policy, {"model": {"name": "llama-3.2-3b"}}))
    assert (reply.verdict == PASS) == (not reply.remedies)
    assert not reply.no_remedy


@pytest.mark.service_alone("search")
async def test_owned_hardware_is_not_replaced_by_another(stub, check_of):
    owned = {
        "model": {"name": "llama-3.1-8b"},
        "ownership": {"owned": {"price_per_kwh": {"nanos": 300_000_000, "currency_code": "USD"}}},
    }
    reply = await stub.CheckPlan(check_of({"fit": True}, owned))

    assert reply.remedies
    assert not {patch.field_path for remedy in reply.remedies for patch in remedy.patches} & {"hardware.accelerator"}


@pytest.mark.parametrize(
    "case",
    [
        ({"cost": 1}, {}, 0, "dataset.profile.examples"),
        ({"duration_seconds": 1}, {}, 0, "dataset.profile.examples"),
        ({"energy_kwh": 1}, {}, 0, "dataset.profile.examples"),
        ({"cost": 1}, {"dataset": {"path": "train.jsonl"}}, 0, "rows of dataset.path"),
        ({"cost": 1}, {"hardware": {"cpu": {"cores": 2}}}, 10, "ownership.owned"),
        ({"fit": True}, {"hardware": {"cpu": {"cores": 2}}}, 10, "give its memory"),
    ],
)
async def test_a_number_that_cannot_be_known_is_undecided_and_says_what_to_give(stub, check_of, case):
    policy, spec, examples, asked = case
    request = check_of(policy, spec)
    request.run.ClearField("dataset_profile")
    if examples:
        request.run.dataset_profile.examples = examples
    reply = await stub.CheckPlan(request)

    (check,) = reply.checks
    assert (reply.verdict, check.verdict) == (UNDECIDED, UNDECIDED)
    assert asked in check.message
    assert check.field_path.startswith("hardware" if "fit" in policy else "ownership" if examples else "dataset")


def lists(metric: str, **names: list[str]) -> dict[str, object]:
    return {"metric": f"POLICY_METRIC_{metric}", "names": names}


def with_policy(request: check_plan_pb2.CheckPlanRequest, **parts: object) -> check_plan_pb2.CheckPlanRequest:
    """The request with further parts of its policy, and a date."""
    json_format.ParseDict({"policy": parts, "evaluation_date": "2026-11-28"}, request)
    return request


@pytest.mark.service_alone("search")
async def test_a_provider_that_is_not_allowed_is_replaced_by_one_that_is(stub, check_of):
    request = check_of({"cost": 50}, {"model": {"name": "llama-3.2-3b"}})
    request.policy.limits.append(
        json_format.ParseDict(lists("PROVIDER", allowed=["runpod"]), check_plan_pb2.PolicyLimit())
    )
    reply = await stub.CheckPlan(request)

    assert reply.verdict == FAIL
    assert reply.checks[1].measured_name not in ("", "runpod")
    assert reply.checks[1].fix.field_path == "ownership.rented.price_id"
    assert reply.remedies
    for remedy in reply.remedies:
        assert (await stub.CheckPlan(patched(request, list(remedy.patches)))).verdict == PASS, remedy.summary


@pytest.mark.parametrize(
    ("limit", "names", "verdict"),
    [
        (lists("METHOD", denied=["l*"]), ["lora"], FAIL),
        (lists("METHOD", allowed=["LoRA", "full"]), ["lora"], PASS),
        (lists("MODEL", allowed=["huggingfacetb/*"]), ["smollm2-135m-instruct"], PASS),
        (lists("MODEL", denied=["smollm2-*"]), ["smollm2-135m-instruct"], FAIL),
        (lists("PROVIDER", denied=["owned"]), ["owned"], FAIL),
        ({"metric": "POLICY_METRIC_EXAMPLES", "max": 1000}, [1000], PASS),
        ({"metric": "POLICY_METRIC_TOKENS", "max": 199_999}, [200_000], FAIL),
    ],
)
async def test_names_and_the_size_of_the_data_are_those_of_the_request(stub, check_of, limit, names, verdict):
    owned = {"owned": {"price_per_kwh": {"nanos": 300_000_000, "currency_code": "USD"}}}
    request = check_of({"fit": True}, {"ownership": owned})
    request.policy.limits.append(json_format.ParseDict(limit, check_plan_pb2.PolicyLimit()))
    check = (await stub.CheckPlan(request)).checks[1]

    assert check.verdict == verdict
    assert [check.measured_name or check.measured.expected] == names


async def test_the_tokens_of_rows_that_are_not_counted_are_to_be_stated(stub, check_of):
    request = check_of({"tokens": 1})
    request.run.dataset_profile.ClearField("total_tokens")
    (check,) = (await stub.CheckPlan(request)).checks

    assert (check.verdict, check.field_path) == (UNDECIDED, "dataset.profile.total_tokens")
    assert "dataset.profile.total_tokens" in check.message


@pytest.mark.service_alone("search")
async def test_a_method_is_not_replaced_and_the_answer_says_so(stub, check_of):
    request = check_of({"fit": True})
    request.policy.limits.append(json_format.ParseDict(lists("METHOD", denied=["l*"]), check_plan_pb2.PolicyLimit()))

    assert "no other one is proposed" in (await stub.CheckPlan(request)).no_remedy


WAIVER = {"rule_id": "duration_seconds", "owner": "ml-platform", "reason": "migration", "until": "2026-11-28"}


async def test_a_waived_limit_stops_nothing_until_the_waiver_expires(stub, check_of):
    request = with_policy(check_of({"duration_seconds": 1e-3, "device_bytes": 1000}), waivers=[WAIVER])
    reply = await stub.CheckPlan(request)
    assert [check.verdict for check in reply.checks] == [check_pb2.CHECK_VERDICT_WAIVED, FAIL]
    assert reply.checks[0].waiver.owner == "ml-platform"

    request.evaluation_date = "2026-11-29"
    expired = await stub.CheckPlan(request)
    assert [check.verdict for check in expired.checks] == [FAIL, FAIL]
    assert "expired after 2026-11-28" in expired.checks[0].message


@pytest.mark.service_alone("search")
async def test_remedies_leave_a_waived_limit_alone(stub, check_of):
    request = with_policy(check_of({"duration_seconds": 1, "device_bytes": 2 * 10**9}), waivers=[WAIVER])
    reply = await stub.CheckPlan(request)
    assert reply.remedies
    for remedy in reply.remedies:
        after = await stub.CheckPlan(patched(request, list(remedy.patches)))
        assert after.verdict == check_pb2.CHECK_VERDICT_WAIVED, remedy.summary


async def test_a_run_that_does_not_fit_fails_there_and_has_no_time_and_no_cost(stub, check_of):
    reply = await stub.CheckPlan(check_of({"fit": True, "duration_seconds": 1, "cost": 1e9}, {"model": {"name": BIG}}))
    assert [check.verdict for check in reply.checks] == [FAIL, UNDECIDED, UNDECIDED]
    for check in reply.checks[1:]:
        assert "the run does not fit" in check.message
        assert check.field_path == "hardware"
        assert not check.HasField("measured")
    assert not reply.estimate.HasField("time")
    assert not reply.estimate.HasField("cost")


async def test_an_override_lifts_an_overridable_limit_and_no_hard_one(stub, check_of):
    request = check_of({"duration_seconds": 1, "cost": 0})
    request.policy.limits[0].level = check_pb2.LIMIT_LEVEL_OVERRIDABLE
    for rule_id in ("duration_seconds", "cost"):
        request.overrides.add(rule_id=rule_id, by="ada", reason="release day")
    reply = await stub.CheckPlan(request)
    assert [check.verdict for check in reply.checks] == [check_pb2.CHECK_VERDICT_WAIVED, FAIL]
    assert "refused: the limit is hard" in reply.checks[1].message


@pytest.mark.parametrize(
    ("undecided", "verdict"),
    [("FAIL", UNDECIDED), ("WARN", check_pb2.CHECK_VERDICT_WARN), ("PASS", PASS), ("UNSPECIFIED", UNDECIDED)],
)
async def test_the_policy_says_what_becomes_of_undecided_limits(stub, check_of, undecided, verdict):
    request = with_policy(check_of({"cost": 5, "fit": True}), undecided=f"UNDECIDED_POLICY_{undecided}")
    request.run.ClearField("dataset_profile")
    reply = await stub.CheckPlan(request)
    assert [check.verdict for check in reply.checks] == [UNDECIDED, PASS]
    assert reply.verdict == verdict
    assert bool(reply.no_remedy) == (undecided != "PASS")


async def test_an_increase_is_held_against_the_base_run_and_every_number_shows_it(stub, check_of):
    request = check_of({"cost": 50, "fit": True}, {"training": {"epochs": 3}})
    limit = {"metric": "POLICY_METRIC_DURATION_SECONDS", "max_increase": 0.2}
    request.policy.limits.append(json_format.ParseDict(limit, check_plan_pb2.PolicyLimit()))
    new = await stub.CheckPlan(request)
    assert [check.verdict for check in new.checks] == [PASS, PASS, PASS]
    assert not any(check.HasField("base") for check in new.checks)

    request.base_run.CopyFrom(request.run)
    request.base_run.spec.training.epochs = 1
    before = (await stub.EstimateRun(request.base_run)).estimate
    reply = await stub.CheckPlan(request)
    cost, fit, increase = reply.checks
    assert (cost.base, increase.base) == (before.cost.total.amount, before.time.total_seconds)
    assert not fit.HasField("base")
    assert (increase.rule_id, increase.verdict) == ("duration_seconds_increase", FAIL)
    assert increase.limit == pytest.approx(1.2 * before.time.total_seconds.expected)


@pytest.mark.service_alone("search")
async def test_remedies_take_back_an_increase(stub, check_of):
    request = check_of({"cost": 50, "fit": True}, {"training": {"epochs": 3}})
    limit = {"metric": "POLICY_METRIC_DURATION_SECONDS", "max_increase": 0.2}
    request.policy.limits.append(json_format.ParseDict(limit, check_plan_pb2.PolicyLimit()))
    request.base_run.CopyFrom(request.run)
    request.base_run.spec.training.epochs = 1
    reply = await stub.CheckPlan(request)
    assert reply.remedies
    for remedy in reply.remedies:
        assert (await stub.CheckPlan(patched(request, list(remedy.patches)))).verdict == PASS, remedy.summary


async def test_two_limits_of_a_metric_warn_and_stop(stub, check_of):
    request = check_of({"cost": 50})
    request.policy.limits[0].rule_id = "cost.stop"
    request.policy.limits.append(request.policy.limits[0])
    request.policy.limits[1].rule_id = "cost.warn"
    request.policy.limits[1].max_money.units = 0
    request.policy.limits[1].level = check_pb2.LIMIT_LEVEL_ADVISORY
    reply = await stub.CheckPlan(request)
    assert reply.verdict == check_pb2.CHECK_VERDICT_WARN
    assert {check.rule_id: check.verdict for check in reply.checks} == {"cost.stop": PASS, "cost.warn": FAIL}


INVALID, NOT_FOUND = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize(
    "case",
    [
        ({}, {}, (INVALID, "INVALID_REQUEST", "policy.limits")),
        (
            {"cost": 1, "currency": "EUR"},
            {},
            (INVALID, "CURRENCY_MISMATCH", "policy.limits[0].max_money.currency_code"),
        ),
        (
            {"fit": True, "monthly_cost": 1, "currency": "EUR"},
            {},
            (INVALID, "CURRENCY_MISMATCH", "policy.limits[1].max_money.currency_code"),
        ),
        ({"cost": 1, "currency": "??"}, {}, (INVALID, "INVALID_REQUEST", "policy.limits[0].max_money")),
        ({"cost": -1}, {}, (INVALID, "INVALID_REQUEST", "policy.limits[0].max_money")),
        ({"duration_seconds": "NaN"}, {}, (INVALID, "INVALID_REQUEST", "policy.limits[0].max")),
        ({"cost": 1}, {"lora": {"rank": -8}}, (INVALID, "INVALID_REQUEST", "run.spec.lora.rank")),
        (
            {"cost": 1},
            {"lora": {"target_modules": ["x"]}},
            (INVALID, "INVALID_REQUEST", "run.spec.lora.target_modules"),
        ),
        ({"cost": 1}, {"model": {"name": "nope"}}, (NOT_FOUND, "MODEL_NOT_FOUND", None)),
        ({"cost": 1}, {"hardware": {"accelerator": "nope"}}, (NOT_FOUND, "ACCELERATOR_NOT_FOUND", None)),
        ({"cost": 1}, {"ownership": {"rented": {"price_id": "nope"}}}, (NOT_FOUND, "PRICE_NOT_FOUND", None)),
        (
            {"cost": 1},
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


LIMIT = {"metric": "POLICY_METRIC_FIT"}


@pytest.mark.parametrize(
    ("parts", "field"),
    [
        ({"policy": {"limits": [LIMIT, LIMIT]}}, "policy"),
        ({"policy": {"limits": [{"metric": "POLICY_METRIC_METHOD", "max": 1}]}}, "policy.limits[0]"),
        ({"policy": {"limits": [{"metric": "POLICY_METRIC_TOKENS", "names": {"allowed": ["a"]}}]}}, "policy.limits[0]"),
        ({"policy": {"limits": [LIMIT | {"max_increase": 1}]}}, "policy.limits[0]"),
        ({"policy": {"limits": [LIMIT | {"rule_id": "A b"}]}}, "policy.limits[0].rule_id"),
        ({"policy": {"limits": [lists("METHOD")]}}, "policy.limits[0].names"),
        ({"policy": {"limits": [lists("METHOD", allowed=["x"] * 65)]}}, "policy.limits[0].names.allowed"),
        ({"policy": {"limits": [LIMIT], "waivers": [WAIVER | {"owner": ""}]}}, "policy.waivers[0].owner"),
        ({"policy": {"limits": [LIMIT], "waivers": [WAIVER | {"until": "soon"}]}}, "policy.waivers[0].until"),
        (
            {"policy": {"limits": [LIMIT], "waivers": [WAIVER]}, "evaluation_date": "2026-11-28"},
            "policy.waivers[0].rule_id",
        ),
        ({"policy": {"limits": [LIMIT], "waivers": [WAIVER | {"rule_id": "fit"}]}}, "evaluation_date"),
        ({"overrides": [{"rule_id": "cost", "by": "", "reason": "x"}]}, "overrides[0].by"),
        ({"evaluation_date": "yesterday"}, "evaluation_date"),
        (
            {"base_run": {"spec": {"model": {"name": "smollm2-135m-instruct"}, "lora": {"rank": -1}}}},
            "base_run.spec.lora.rank",
        ),
        ({"base_run": {"spec": {"model": {"name": "smollm2-135m-instruct"}}}}, "base_run.spec.method"),
    ],
)
async def test_what_a_policy_may_hold_is_bounded(stub, check_of, explain, parts, field):
    request = check_of({"cost": 1})
    if "policy" in parts:
        request.ClearField("policy")
    json_format.ParseDict(parts, request)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.CheckPlan(request)
    found = explain(caught.value)
    assert (found.reason, found.fields) == ("INVALID_REQUEST", [field])


@pytest.mark.parametrize("part", ["run", "policy"])
async def test_run_and_policy_are_required(stub, check_of, explain, part):
    request = check_of({"cost": 1})
    request.ClearField(part)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.CheckPlan(request)
    assert explain(caught.value).fields == [part]


async def test_another_revision_is_not_available(stub, check_of, explain):
    request = check_of({"cost": 1})
    request.run.pinned.price_book.id = "other"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.CheckPlan(request)
    assert (caught.value.code(), explain(caught.value).reason) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "REVISION_UNAVAILABLE",
    )


async def test_a_currency_is_that_of_the_price(stub, check_of):
    owned = {"ownership": {"owned": {"price_per_kwh": {"nanos": 300_000_000, "currency_code": "CHF"}}}}
    reply = await stub.CheckPlan(check_of({"cost": 1000, "currency": "CHF"}, owned))
    assert reply.verdict == PASS
    assert "CHF" in reply.checks[0].message


async def test_a_failure_of_less_severity_leaves_the_plan_at_warn(stub, check_of):
    request = check_of({"duration_seconds": 1e-3, "device_bytes": 1e12})
    request.policy.limits[0].severity = check_pb2.SEVERITY_WARNING
    reply = await stub.CheckPlan(request)

    assert reply.verdict == check_pb2.CHECK_VERDICT_WARN
    assert [(check.verdict, check.severity) for check in reply.checks] == [
        (FAIL, check_pb2.SEVERITY_WARNING),
        (PASS, check_pb2.SEVERITY_ERROR),
    ]


async def test_a_bound_that_its_metric_does_not_take_is_refused(stub, check_of, explain):
    request = check_of({"cost": 1})
    request.policy.limits[0].max = 5.0
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.CheckPlan(request)
    assert explain(caught.value).fields == ["policy.limits[0]"]
