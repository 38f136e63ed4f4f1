# SPDX-License-Identifier: Apache-2.0
"""Metrics of calls, under the names that common gRPC dashboards expect, and of what is refused."""

from __future__ import annotations

from finetree_api.types.v1 import error_reason_pb2

from finetree_runtime.meter import Meter, Values
from finetree_runtime.server.entry.admission import Admission

BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)
"""Upper ends of the buckets of a call's time, seconds."""

OTHER = "OTHER"
"""Reason of an error that the contract does not declare: no text from outside becomes a label."""

_METHOD = ("grpc_type", "grpc_service", "grpc_method")
_PREFIX = "ERROR_REASON_"


class CallMetrics:
    """Counts calls as they begin, end and are refused."""

    def __init__(self, meter: Meter, admission: Admission) -> None:
        self._started = meter.counter(
            "grpc_server_started_total", "Calls that were begun or refused on arrival.", _METHOD
        )
        self._handled = meter.counter(
            "grpc_server_handled_total", "Calls that ended, by status code.", (*_METHOD, "grpc_code")
        )
        self._seconds = meter.histogram(
            "grpc_server_handling_seconds", "Time from a call's start to its end.", _METHOD, buckets=BUCKETS
        )
        self._errors = meter.counter(
            "finetree_call_errors_total",
            "Calls that ended with an error of ours, by its reason.",
            ("grpc_service", "grpc_method", "reason"),
        )
        self._admission = admission
        self._known: set[str] = set()
        meter.gauge(
            "finetree_calls",
            "Calls in progress: running, waiting for a place, and open streams.",
            ("state",),
            read=self._in_progress,
        )

    def begin(self, kind: str, method: str) -> None:
        """Count a call that begins: `kind` is unary, server_stream, client_stream or bidi_stream."""
        _, service, name = method.split("/")
        self._started.add(kind, service, name)
        if method not in self._known:
            # From 0 on: Prometheus sees no increase in a series that begins with 1.
            self._known.add(method)
            self._handled.add(kind, service, name, "INTERNAL", by=0)

    def observe(self, kind: str, method: str, *, code: str, seconds: float, reason: str = "") -> None:
        """Count a call that has ended, with the reason of its error where it had one."""
        _, service, name = method.split("/")
        self._handled.add(kind, service, name, code)
        self._seconds.observe(seconds, kind, service, name)
        if reason:
            self._errors.add(service, name, reason if _PREFIX + reason in _DECLARED else OTHER)

    def _in_progress(self) -> Values:
        line = self._admission.line
        counts = {"running": line.running, "waiting": line.waiting, "streams": self._admission.streams.count}
        return {(state,): float(count) for state, count in counts.items()}


_DECLARED = frozenset(error_reason_pb2.ErrorReason.keys())
