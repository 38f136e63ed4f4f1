# SPDX-License-Identifier: Apache-2.0
"""Whatever a client sends, a service answers in time, never with INTERNAL or UNKNOWN, and goes on serving."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from finetree_cli.backends.suite import Suite
from fuzz_messages import Maker
from fuzz_services import METHODS, SECONDS, SERVICES, WAITS, call
from google.protobuf.json_format import ParseDict
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

pytestmark = [pytest.mark.slow(50), pytest.mark.timeout(300)]

ROUNDS = int(os.environ.get("FINETREE_MESSAGES", "200"))
"""Messages for each method; `make soak` sends more."""
OURS = "finetree"
UNFORESEEN = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DEADLINE_EXCEEDED}
GOOD = {
    "model": {"name": "smollm2-135m-instruct"},
    "dataset": {"profile": {"examples": 1000, "tokenLengths": [{"upperBound": 128, "count": 1000}]}},
    "lora": {"rank": 8},
    "training": {"epochs": 2, "effectiveBatchSize": 8, "microBatchSize": 2, "sequenceLength": 256},
    "hardware": {"accelerator": "rtx-4090"},
    "evaluation": {"splitFraction": 0.1, "metrics": ["METRIC_LOSS"]},
    "ownership": {"rented": {}},
}
SHAPE = {"hiddenSize": 4096, "layers": 32, "intermediateSize": 11008, "attentionHeads": 32, "vocabSize": 32000}
BESIDE_LORA = {key: value for key, value in GOOD.items() if key not in {"lora", "ownership"}}
LARGE = {"model": {"shape": SHAPE | {"maxPositionEmbeddings": 4096}}, "full": {}, "hardware": {"accelerator": "t4"}}
ON_CPU = {"prefix": {"virtualTokens": 20}, "hardware": {"cpu": {"cores": 2, "memoryBytes": 1 << 30}}}
RUNS = [{"spec": spec, "view": "ESTIMATE_VIEW_FULL"} for spec in (GOOD, BESIDE_LORA | LARGE, BESIDE_LORA | ON_CPU)]
"""Runs that fit, that need remedies, and that have no accelerator."""
LIMITS = {
    "limits": [
        {"metric": "POLICY_METRIC_COST", "maxMoney": {"currencyCode": "USD", "units": 5}},
        {"metric": "POLICY_METRIC_DURATION_SECONDS", "max": 3600, "severity": "SEVERITY_WARNING"},
        {"metric": "POLICY_METRIC_FIT"},
        {"metric": "POLICY_METRIC_CONFIDENCE", "minConfidence": "CONFIDENCE_LEVEL_LOW"},
        {"metric": "POLICY_METRIC_MODEL", "names": {"allowed": ["l*[a-z]?", "smol*"], "denied": ["*/*"]}},
        {"metric": "POLICY_METRIC_PROVIDER", "names": {"allowed": ["runpod"]}, "level": "LIMIT_LEVEL_OVERRIDABLE"},
        {"metric": "POLICY_METRIC_COST", "maxIncrease": 0.2, "ruleId": "cost.more"},
    ],
    "undecided": "UNDECIDED_POLICY_WARN",
    "waivers": [{"ruleId": "fit", "owner": "a", "reason": "b", "until": "2026-12-31"}],
}
EXCEPTIONS = {
    "overrides": [{"ruleId": "provider", "by": "a", "reason": "b"}],
    "evaluationDate": "2026-12-31",
}
TOLD = {"marketedMemoryGb": 16, "name": "RTX 4060"}
WISHES: dict[str, Any] = {
    "hardware": {"unknownAccelerator": TOLD, "count": 4, "sharding": "SHARDING_FULL"},
    "quality": "QUALITY_NEED_MAXIMUM",
    "tasks": "TASK_VARIETY_SINGLE",
    "budgetPerMonth": {"currencyCode": "USD", "units": 50},
    "budgetPerRun": {"currencyCode": "USD", "units": 5},
    "runsPerMonth": 20,
    "taskCount": 3,
    "maxDuration": "600s",
    "canRent": True,
    "serving": ["SERVING_TARGET_VLLM", "SERVING_TARGET_OLLAMA"],
    "priorities": ["PRIORITY_QUALITY", "PRIORITY_COST"],
    "experience": "EXPERIENCE_BEGINNER",
    "behaviorChange": "BEHAVIOR_CHANGE_MINOR",
}
"""Wishes that contradict one another."""
MEASURED = {"job": "projects/p/jobs/j", "run": RUNS[0], "stepSeconds": 1, "totalSeconds": 100, "steps": 50}
JOBS = [
    {"job": {"train": {"spec": GOOD}, "limits": {"maxDuration": "60s"}}},
    {"job": {"train": {"spec": GOOD, "approvedPlan": {"spec": GOOD, "digest": f"sha256:{0:064}"}}}},
    {"job": {"prepare": {"model": {"name": "smollm2-135m-instruct"}, "dataset": {"name": "d"}, "splitFraction": 0.1}}},
    {"job": {"export": {"artifact": "projects/default/jobs/j/artifacts/a"}}},
]
SEEDS: dict[str, list[dict[str, Any]]] = {
    "EstimateRun": RUNS,
    "BatchEstimateRuns": [{"rows": [{"key": str(key), "request": run} for key, run in enumerate(RUNS)]}],
    "CheckPlan": [{"run": run, "policy": LIMITS, "baseRun": RUNS[0]} | EXCEPTIONS for run in RUNS],
    "ReportObservation": [{"observation": MEASURED}],
    "Recommend": [
        {key: GOOD[key] for key in ("model", "dataset", "hardware", "evaluation", "ownership")},
        WISHES,
        WISHES | {key: GOOD[key] for key in ("model", "dataset", "ownership")},
    ],
    "ValidateJob": JOBS,
    "CreateJob": JOBS,
}
"""Good requests as proto JSON, to be changed here and there."""


@pytest.fixture(scope="module")
def suite(tmp_path_factory) -> Iterator[Suite]:
    with Suite(tmp_path_factory.mktemp("fuzz"), extra={"trainer": ("--no-prewarm", "--hub-offline")}) as running:
        yield running


def reason_of(error: grpc.RpcError) -> error_details_pb2.ErrorInfo | None:
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            for detail in status_pb2.Status.FromString(value).details:
                info = error_details_pb2.ErrorInfo()
                if detail.Unpack(info):
                    return info
    return None


@pytest.mark.parametrize(("name", "method"), METHODS)
def test_random_messages_get_a_foreseen_answer(suite, name, method):
    maker = Maker(seed=sum(map(ord, method.full_name)))
    make, seeds = GetMessageClass(method.input_type), SEEDS.get(method.name, [])
    with grpc.insecure_channel(suite.addresses[name], [("grpc.use_local_subchannel_pool", 1)]) as channel:
        for number in range(ROUNDS // 8 if method.name in WAITS else ROUNDS):
            good = seeds and number % 2 == 1
            request = maker.mutate(ParseDict(seeds[number // 2 % len(seeds)], make())) if good else maker.fill(make())
            error = call(channel, method, request.SerializeToString())
            if error is None:
                continue
            context = f"message {number}: {error.code().name} {error.details()}"
            if method.name in WAITS and error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                continue
            assert error.code() not in UNFORESEEN, context
            info = reason_of(error)
            assert info is not None, context
            assert info.domain == OURS, context
            assert info.reason, context
            for secret in (str(suite.data_dir), "Traceback", str(Path.home())):
                assert secret not in (error.details() or ""), context


@pytest.mark.parametrize(("name", "method"), METHODS)
def test_random_bytes_are_refused(suite, name, method):
    maker = Maker(seed=7)
    with grpc.insecure_channel(suite.addresses[name], [("grpc.use_local_subchannel_pool", 1)]) as channel:
        for length in (1, 3, 17, 400):
            error = call(channel, method, maker.random.randbytes(length))
            assert error is None or error.code() not in UNFORESEEN, f"{error.code().name} {error.details()}"


@pytest.mark.parametrize("name", SERVICES)
def test_it_still_serves_afterwards(suite, name):
    with grpc.insecure_channel(suite.addresses[name]) as channel:
        asked = health_pb2.HealthCheckRequest(service=SERVICES[name].full_name)
        reply = health_pb2_grpc.HealthStub(channel).Check(asked, timeout=SECONDS)
    assert reply.status == health_pb2.HealthCheckResponse.SERVING
    assert suite.ended() is None
