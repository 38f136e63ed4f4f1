# SPDX-License-Identifier: Apache-2.0
"""The call in progress, as a context variable: principal, request id, deadline and fields of its log line.

Outside a call (a background task, a test) the defaults hold: the local principal, no request id, no deadline.
"""

from __future__ import annotations

import contextvars
import datetime as dt
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from finetree_runtime.server.access.roles import EVERYTHING, Grants
from finetree_runtime.server.tracing.traceparent import TraceContext


@dataclass(frozen=True, slots=True)
class Principal:
    """An authenticated caller.

    Attributes:
        name: Its name, for the log and as the owner of jobs.
        project: Project that short resource names belong to.
        grants: What it may do; nothing unless granted.
        kind: How it was recognised.
        credential: Id of its token, for the log; never the token.
        expire_time: When its credentials expire, where that is known.
    """

    name: str
    project: str = "default"
    grants: Grants = field(default_factory=Grants)
    kind: Literal["local", "token", "oidc", "certificate"] = "local"
    credential: str = ""
    expire_time: dt.datetime | None = None


LOCAL = Principal(name="local", grants=EVERYTHING)
"""Principal of every call where no authentication is configured."""

UNKNOWN = Principal(name="unknown", project="")
"""Principal of a call that is not authenticated yet, or was refused."""


@dataclass(slots=True)
class Call:
    """One rpc in progress. `deadline` is on the clock of `time.monotonic`, None where there is none."""

    method: str = ""
    request_id: str = ""
    principal: Principal = LOCAL
    deadline: float | None = None
    fields: dict[str, Any] = field(default_factory=dict)
    trace: TraceContext | None = None
    """Its span where calls are traced, else the caller's; None where neither has one."""
    traceparent: str = ""
    """The caller's own span as it was sent, in the form of the W3C; empty where the caller sent none."""
    on_waiting: Callable[[], None] | None = None
    """What `only_waits` calls; set where the call holds a place among those that run."""


CURRENT: contextvars.ContextVar[Call | None] = contextvars.ContextVar("finetree_call", default=None)
"""Call of this task; set by the interceptor, read through the functions below."""


def principal() -> Principal:
    """Principal of this call."""
    call = CURRENT.get()
    return call.principal if call else LOCAL


def request_id() -> str:
    """Request id of this call, sent by the client or made by the interceptor; empty outside a call."""
    call = CURRENT.get()
    return call.request_id if call else ""


def traceparent() -> str:
    """The caller's span, as the W3C's traceparent; empty where the caller sent none, and outside a call."""
    call = CURRENT.get()
    return call.traceparent if call else ""


def remaining() -> float | None:
    """Seconds until the client's deadline, never negative; None without a deadline."""
    call = CURRENT.get()
    if call is None or call.deadline is None:
        return None
    return max(0.0, call.deadline - time.monotonic())


def only_waits() -> None:
    """Give up this call's place among those that run: from here on it waits for something to happen.

    It then counts as a stream. Raises ResourceExhausted TOO_MANY_STREAMS. No-op outside a call.
    """
    call = CURRENT.get()
    if call is not None and call.on_waiting is not None:
        call.on_waiting()


def bind(**fields: Any) -> None:
    """Add fields to the log line of this call: ids and counts, never a secret or user text. No-op outside a call."""
    call = CURRENT.get()
    if call is not None:
        call.fields.update(fields)
