# SPDX-License-Identifier: Apache-2.0
"""Values and helpers that several fakes share: a small catalog, intervals, pages, plans."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, TypeVar

from finetree_api.types.v1 import evidence_pb2, run_spec_pb2, server_pb2, training_data_pb2

from finetree._version import __version__
from finetree.errors import InvalidArgument, NotFound, Violation

T = TypeVar("T")

PARAMETERS = {
    "tiny": 1_000_000,
    "small": 135_000_000,
    "large": 7_000_000_000,
    "smollm2-135m-instruct": 134_515_008,
    "llama-3.1-8b": 8_030_261_248,
}
"""Parameters of the models of the catalog: three invented ones, and those that examples name."""
USABLE_BYTES = {"cpu": 8 * 2**30, "rtx-4090": 24 * 10**9}
"""Memory of the devices of the catalog."""
REVISION = evidence_pb2.Revision(engine=evidence_pb2.RevisionComponent(id="fake-1", date="2026-01-01"))
PICTURE = '<svg xmlns="http://www.w3.org/2000/svg"><title>A fake picture</title></svg>\n'


def interval(expected: float) -> evidence_pb2.Interval:
    """Make an interval of ten percent around a number."""
    return evidence_pb2.Interval(low=expected * 0.9, expected=expected, high=expected * 1.1, coverage=0.9)


def money(amount: float) -> evidence_pb2.MoneyInterval:
    """Make a predicted amount in US dollars."""
    return evidence_pb2.MoneyInterval(amount=interval(amount), currency_code="USD")


def server(service: str) -> server_pb2.ServerInfo:
    """Make the server info of a service."""
    return server_pb2.ServerInfo(service=f"finetree-{service}", version=__version__, api_revisions=["v1"])


def invalid(field: str, text: str) -> InvalidArgument:
    """Make the error for a wrong field."""
    return InvalidArgument(f"{field}: {text}", reason="INVALID_REQUEST", violations=(Violation(field, text),))


def page(items: Sequence[T], request: Any, *, size: int = 50) -> tuple[Sequence[T], str]:
    """Cut the page that a request asks for, and make the token of the next one."""
    start = int(request.page_token or 0)
    end = start + (request.page_size or size)
    return items[start:end], str(end) if end < len(items) else ""


def parameters(spec: run_spec_pb2.RunSpec, field: str) -> int:
    """Parameters of a spec's model.

    Raises:
        InvalidArgument: the spec names none.
        NotFound: MODEL_NOT_FOUND.
    """
    if not spec.model.WhichOneof("source"):
        raise invalid(field, "name a model")
    name = spec.model.name
    if name and name not in PARAMETERS:
        raise NotFound(f"no model {name!r}; list_models shows all", reason="MODEL_NOT_FOUND")
    return PARAMETERS.get(name, PARAMETERS["small"])


def device(spec: run_spec_pb2.RunSpec) -> str:
    """Name of a spec's device.

    Raises:
        NotFound: ACCELERATOR_NOT_FOUND.
    """
    name = spec.hardware.accelerator or "cpu"
    if name not in USABLE_BYTES:
        raise NotFound(f"no accelerator {name!r}", reason="ACCELERATOR_NOT_FOUND")
    return name


def make_plan(spec: run_spec_pb2.RunSpec, profile: training_data_pb2.DatasetProfile | None = None) -> run_spec_pb2.Plan:
    """Make the plan of a spec, with a digest of it."""
    plan = run_spec_pb2.Plan(spec=spec, dataset_profile=profile, revision=REVISION)
    plan.digest = f"sha256:{hashlib.sha256(plan.SerializeToString(deterministic=True)).hexdigest()}"
    return plan
