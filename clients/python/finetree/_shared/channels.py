# SPDX-License-Identifier: Apache-2.0
"""Arguments, credentials and metadata that both transports give to gRPC."""

from __future__ import annotations

import logging
import sys
import time
import uuid
from dataclasses import dataclass, field
from typing import Literal

import grpc

from finetree._version import __version__
from finetree.config.options import Options, Target, is_local
from finetree.config.settings import Service
from finetree.config.token import Token
from finetree.metadata import current

LOG = logging.getLogger("finetree")
"""Where both clients log: calls at DEBUG, what they try again at INFO. Its handlers and level are the program's."""
Kind = Literal["unary", "stream"]
MAX_RECEIVED_BYTES = 16 * 1024 * 1024
_PYTHON = ".".join(map(str, sys.version_info[:3]))
USER_AGENT = f"finetree-python/{__version__} grpc/{grpc.__version__} python/{_PYTHON}"


def channel_arguments(target: Target, kind: Kind) -> list[tuple[str, int | str]]:
    """Build the arguments of a channel.

    gRPC retries by itself only unary calls that no server has seen (gRFC A6, transparent retries). All others are
    the transports', which know the client's budget and RetryInfo; streams continue from their position.
    """
    arguments: list[tuple[str, int | str]] = [
        # The global pool would give a forked child its parent's sockets.
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 5_000),
        ("grpc.max_reconnect_backoff_ms", 5_000),
        ("grpc.max_receive_message_length", MAX_RECEIVED_BYTES),
        ("grpc.primary_user_agent", USER_AGENT),
        ("grpc.enable_http_proxy", 0 if is_local(target.address) else 1),
    ]
    arguments.append(("grpc.enable_retries", 1 if kind == "unary" else 0))
    if target.tls and target.tls.server_name:
        arguments.append(("grpc.ssl_target_name_override", target.tls.server_name))
    return arguments


def new_request_id() -> str:
    """Make the id of a call, the same for all of its attempts; inside `call_metadata` it may be given."""
    return current().get("x-request-id") or str(uuid.uuid4())


@dataclass(frozen=True, slots=True)
class Sent:
    """A call as it is sent. `token` is the client's own, empty when it is not sent."""

    service: Service
    path: str
    request_id: str
    token: str = field(repr=False)
    started: float = field(default_factory=time.monotonic)

    @property
    def metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        """Metadata of the call."""
        return metadata(self.request_id, self.token)

    def log(self, code: str) -> None:
        """Log how the call ended."""
        milliseconds = 1000 * (time.monotonic() - self.started)
        LOG.debug("%s: %s after %.0f ms, request %s", self.path, code, milliseconds, self.request_id)


def own_token(options: Options, service: Service) -> Token | None:
    """Token that the client sends to a service; None where it has none, or `call_metadata` gives another one."""
    return None if "authorization" in current() else options.targets[service].token


def metadata(request_id: str, token: str) -> tuple[tuple[str, str | bytes], ...]:
    """Build the metadata of a call. An empty `token` means none."""
    entries = {"x-request-id": request_id}
    if token:
        entries["authorization"] = f"Bearer {token}"
    if trace := trace_context():
        entries["traceparent"] = trace
    return tuple({**entries, **current()}.items())


def trace_context() -> str:
    """W3C trace context of the caller's span; empty where the program has not loaded OpenTelemetry."""
    if "opentelemetry.trace" not in sys.modules:
        return ""
    context = sys.modules["opentelemetry.trace"].get_current_span().get_span_context()
    if not context.is_valid:
        return ""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"
