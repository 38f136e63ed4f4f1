# SPDX-License-Identifier: Apache-2.0
"""Requests of a small LoRA run with parts replaced, and the runs that they become."""

import json
from collections.abc import Callable

import pytest
from finetree_api.estimator.v1 import estimate_pb2
from finetree_estimator.catalog import price_book
from finetree_estimator.run import Run
from finetree_estimator.spec.parse import parse_request
from finetree_estimator.spec.resolve import Knowledge
from google.protobuf import json_format

KNOWLEDGE = Knowledge(price_book.packaged())


@pytest.fixture
def request_of() -> Callable[..., estimate_pb2.EstimateRunRequest]:
    """Build a request from other fields as JSON, and parts of its spec."""
    return _request


@pytest.fixture
def run_of() -> Callable[..., Run]:
    """Parse a request that is built in this way."""

    def read(text: str = "", knowledge: Knowledge = KNOWLEDGE, **parts: object) -> Run:
        return parse_request(_request(text, **parts), knowledge).run

    return read


@pytest.fixture
def program_of() -> Callable[..., dict[str, object]]:
    """Build the settings of a training program from short names."""

    def settings(name: str, *, sharding_library: str = "UNSPECIFIED", **more: object) -> dict[str, object]:
        library = f"SHARDING_LIBRARY_{sharding_library}"
        return {"program": f"TRAINING_PROGRAM_{name}", "sharding_library": library} | more

    return settings


def _request(text: str = "", **parts: object) -> estimate_pb2.EstimateRunRequest:
    spec = {"model": {"name": "llama-3.2-3b"}, "lora": {}, "hardware": {"accelerator": "rtx-4090"}} | parts
    if not any(name in parts for name in ("full", "qlora", "prefix", "adapter", "no_method")):
        spec["lora"] = parts.get("lora", {})
    else:
        spec.pop("lora")
    spec.pop("no_method", None)
    body = {"spec": spec, "dataset_profile": {"examples": 1000}} | (json.loads(text) if text else {})
    return json_format.ParseDict(body, estimate_pb2.EstimateRunRequest())
