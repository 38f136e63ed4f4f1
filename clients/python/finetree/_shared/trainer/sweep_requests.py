# SPDX-License-Identifier: Apache-2.0
"""Requests about sweeps, built from what a caller writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from finetree_api.trainer.v1 import sweep_pb2
from google.protobuf import timestamp_pb2
from google.type import money_pb2

from finetree._shared import rpcs
from finetree._shared.channels import new_request_id
from finetree._shared.listing import Listing
from finetree._shared.requests import enum_number, invalid
from finetree._shared.trainer_requests import JobLike, full_name, job_template, project_name
from finetree.money import parse_money
from finetree.spec import coerce

Domain = Sequence[Any] | Mapping[str, Any] | sweep_pb2.SweepRange
Halving = bool | Mapping[str, Any] | sweep_pb2.SuccessiveHalving | None

LONGEST_WAIT = 20
"""Seconds that GetSweep waits for a change at most."""
ENDED = frozenset({sweep_pb2.SWEEP_STATE_SUCCEEDED, sweep_pb2.SWEEP_STATE_FAILED, sweep_pb2.SWEEP_STATE_CANCELLED})
"""States that are final."""


def sweep_template(
    job: JobLike | sweep_pb2.SweepTemplate,
    parameters: Mapping[str, Domain] | None,
    *,
    trials: int | None = None,
    search: str | int = 0,
    seed: int | None = None,
    metric: str = "",
    halving: Halving = None,
    max_cost: money_pb2.Money | str | None = None,
    max_parallel: int | None = None,
    display_name: str = "",
) -> sweep_pb2.SweepTemplate:
    """Build a SweepTemplate; a whole one stays as it is."""
    if isinstance(job, sweep_pb2.SweepTemplate):
        return job
    if not parameters:
        raise invalid("parameters", "name at least one setting, such as {'lora.rank': [4, 8, 16]}")
    return sweep_pb2.SweepTemplate(
        display_name=display_name,
        job=job_template(job),
        parameters=[_parameter(path, domain) for path, domain in parameters.items()],
        search=enum_number(sweep_pb2.SweepSearch, search, "search"),
        trials=trials,
        seed=seed,
        metric=metric,
        halving=_halving(halving),
        max_cost=_money(max_cost),
        max_parallel=max_parallel,
    )


def _parameter(path: str, domain: Domain) -> sweep_pb2.SweepParameter:
    parameter = sweep_pb2.SweepParameter(field_path=path)
    if isinstance(domain, sweep_pb2.SweepRange | Mapping):
        parameter.range.CopyFrom(coerce(sweep_pb2.SweepRange, domain, prefix=f"parameters[{path}]"))
    elif isinstance(domain, str) or not isinstance(domain, Sequence):
        raise invalid("parameters", f"{path} takes a list of values, or a range as {{'low': …, 'high': …}}")
    else:
        parameter.values.values.extend(_value(path, value) for value in domain)
    return parameter


def _value(path: str, value: Any) -> sweep_pb2.SweepValue:
    if isinstance(value, bool):
        return sweep_pb2.SweepValue(truth=value)
    if isinstance(value, int | float):
        return sweep_pb2.SweepValue(number=value)
    if isinstance(value, str):
        return sweep_pb2.SweepValue(text=value)
    raise invalid("parameters", f"{path}: {value!r} is no number, text or truth value")


def _halving(halving: Halving) -> sweep_pb2.SuccessiveHalving | None:
    if isinstance(halving, bool) or halving is None:
        return sweep_pb2.SuccessiveHalving() if halving else None
    return coerce(sweep_pb2.SuccessiveHalving, halving, prefix="halving")


def _money(amount: money_pb2.Money | str | None) -> money_pb2.Money | None:
    if not isinstance(amount, str):
        return amount
    try:
        return parse_money(amount)
    except ValueError as error:
        raise invalid("max_cost", str(error)) from None


def validate_sweep(project: str, sweep: sweep_pb2.SweepTemplate) -> sweep_pb2.ValidateSweepRequest:
    """Build the request of ValidateSweep."""
    return sweep_pb2.ValidateSweepRequest(parent=project_name(project), sweep=sweep)


def create_sweep(project: str, sweep: sweep_pb2.SweepTemplate, request_id: str) -> sweep_pb2.CreateSweepRequest:
    """Build the request of CreateSweep."""
    key = request_id or new_request_id()
    return sweep_pb2.CreateSweepRequest(parent=project_name(project), sweep=sweep, request_id=key)


def get_sweep(
    project: str, name: str, *, wait: int = 0, known: timestamp_pb2.Timestamp | None = None
) -> sweep_pb2.GetSweepRequest:
    """Build the request of GetSweep; `wait` in seconds."""
    full = full_name(project, "sweeps", name)
    return sweep_pb2.GetSweepRequest(name=full, wait_seconds=wait, known_update=known)


def list_sweeps(project: str, page_size: int) -> Listing[sweep_pb2.Sweep]:
    """Build the list call of ListSweeps."""
    request = sweep_pb2.ListSweepsRequest(parent=project_name(project), page_size=page_size)
    return Listing(rpcs.LIST_SWEEPS, request, lambda page: page.sweeps)


def cancel_sweep(project: str, name: str, request_id: str) -> sweep_pb2.CancelSweepRequest:
    """Build the request of CancelSweep."""
    full = full_name(project, "sweeps", name)
    return sweep_pb2.CancelSweepRequest(name=full, request_id=request_id or new_request_id())
