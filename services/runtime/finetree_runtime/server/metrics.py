# SPDX-License-Identifier: Apache-2.0
"""Prometheus metrics of calls, under the names that common gRPC dashboards expect."""

from __future__ import annotations

from finetree_runtime.config.settings import SettingsError

_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)


class CallMetrics:
    """`grpc_server_handled_total` and `grpc_server_handling_seconds` on an HTTP page of their own.

    Args:
        address: HOST:PORT of the page, plain HTTP: it holds counts and method names, no user data.

    Raises:
        SettingsError: ADDRESS_UNAVAILABLE.
    """

    def __init__(self, address: str) -> None:
        import prometheus_client  # takes 70 ms, only needed with metrics on

        host, _, port = address.rpartition(":")
        names = ("grpc_type", "grpc_service", "grpc_method")
        self._handled = prometheus_client.Counter(
            "grpc_server_handled", "Calls that ended, by status code.", (*names, "grpc_code")
        )
        self._seconds = prometheus_client.Histogram(
            "grpc_server_handling_seconds", "Time from a call's start to its end.", names, buckets=_BUCKETS
        )
        self._registry = prometheus_client.REGISTRY
        try:
            self._server, self._thread = prometheus_client.start_http_server(int(port), host.strip("[]"))
        except (OSError, ValueError, OverflowError):
            self._forget()
            raise SettingsError("ADDRESS_UNAVAILABLE", f"cannot serve metrics on {address}: is it in use?") from None

    @property
    def port(self) -> int:
        """The port of the page."""
        return int(self._server.server_port)

    def observe(self, kind: str, method: str, *, code: str, seconds: float) -> None:
        """Count a call: `kind` is unary, server_stream, client_stream or bidi_stream."""
        _, service, name = method.split("/")
        self._handled.labels(kind, service, name, code).inc()
        self._seconds.labels(kind, service, name).observe(seconds)

    def close(self) -> None:
        """Take the page down."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=5)
        self._forget()

    def _forget(self) -> None:
        self._registry.unregister(self._handled)
        self._registry.unregister(self._seconds)
