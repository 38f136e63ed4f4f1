# SPDX-License-Identifier: Apache-2.0
"""What the fake suite says of servers: they load LoRA and whole models and nothing else, whatever their versions."""

from __future__ import annotations

from collections.abc import Iterable

from finetree_api.recommender.v1 import serving_pb2 as recommender_serving_pb2
from finetree_api.types.v1 import serving_pb2

from finetree.testing.catalog import DATE
from finetree.testing.requests import invalid

_EVERY = tuple(
    recommender_serving_pb2.ServerVersion(server=number) for number in serving_pb2.ServingTarget.values() if number
)


def check_serving(
    request: recommender_serving_pb2.CheckServingRequest,
) -> recommender_serving_pb2.CheckServingResponse:
    """Answer CheckServing."""
    if request.HasField("spec") and request.spec.WhichOneof("method") is None:
        raise invalid("spec", "must have a method: what is served depends on it")
    form = recommender_serving_pb2.ServedForm.Name(request.result.form)
    made = request.spec.WhichOneof("method") or form.removeprefix("SERVED_FORM_").lower()
    checks = invented_checks(request.servers, served=made in ("lora", "qlora", "full", "model"))
    return recommender_serving_pb2.CheckServingResponse(checks=checks, rules_date=DATE)


def invented_checks(
    servers: Iterable[recommender_serving_pb2.ServerVersion] = (), *, served: bool
) -> list[serving_pb2.ServingCheck]:
    """Return one answer for each server, or for all of them."""
    return [
        serving_pb2.ServingCheck(
            server=each.server,
            versions=each.version,
            verdict=serving_pb2.SERVING_VERDICT_SERVES if served else serving_pb2.SERVING_VERDICT_NOT,
            message="This answer is invented.",
            remedy="" if served else "Train LoRA.",
            rule_ids=["fake"],
        )
        for each in tuple(servers) or _EVERY
    ]
