# SPDX-License-Identifier: Apache-2.0
from typing import Any

import pytest
from finetree_api.recommender.v1 import recommendation_pb2
from finetree_api.types.v1 import evidence_pb2
from finetree_recommender.estimator.values import Catalog, Estimate, Evidence, FitState, Model, Refused
from finetree_recommender.method import Method
from finetree_recommender.request.inputs import Inputs, normalize
from finetree_recommender.rule_pack.pack import builtin_packs
from google.protobuf import json_format

GIB = 2**30
# Variants that the playbook has per method on a GPU: the plain recipe and its adaptations, one after the other.
GPU_VARIANTS = {Method.FULL: 4, Method.LORA: 3, Method.QLORA: 3, Method.PREFIX: 2, Method.ADAPTER: 4}


@pytest.fixture(scope="session")
def pack():
    return builtin_packs()["playbook-1"]


@pytest.fixture(scope="session")
def read(pack):
    """Reads a request given as proto JSON without its model."""

    def read_request(parameters: int = 135_000_000, longest: int = 8192, **fields: Any) -> Inputs:
        request = json_format.ParseDict({"model": {"name": "m"}, **fields}, recommendation_pb2.RecommendRequest())
        return normalize(request, pack, Catalog(models={"m": Model(parameters, longest)}))

    return read_request


def estimate(fit, needs=1.0, has=8.0, seconds=100.0, cost=1.0):
    """An estimate; memory in GiB, cost in USD."""
    point = evidence_pb2.Interval(low=needs * GIB, expected=needs * GIB, high=needs * GIB)
    time = evidence_pb2.Interval(low=seconds, expected=seconds, high=seconds)
    amount = evidence_pb2.Interval(low=cost, expected=cost, high=cost)
    money = evidence_pb2.MoneyInterval(amount=amount, currency_code="USD")
    return Estimate(FitState(fit), point, int(has * GIB), time, money, 100)


@pytest.fixture(scope="session")
def evidence():
    """Builds evidence from the fit of each method's variants: a word for each, one for all, or None: refused."""

    def build(variants: dict[Method, int] | None = None, **by_method: str | None) -> Evidence:
        rows = {}
        for method in Method:
            count = (variants or GPU_VARIANTS)[method]
            words = by_method.get(method.field, "DOES_NOT_FIT")
            if words is None:
                refused = Refused("METHOD_NOT_SUPPORTED", "no formula")
                rows |= {(method, index): refused for index in range(count)}
                continue
            states = words.split() if " " in words else [words] * count
            for index, state in enumerate(states):
                rows[method, index] = estimate(state, needs=10.0 - index)
        return Evidence(rows, evidence_pb2.Revision(engine=evidence_pb2.RevisionComponent(id="engine-1")), 135_000_000)

    return build
