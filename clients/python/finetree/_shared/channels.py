# SPDX-License-Identifier: Apache-2.0
"""Arguments, credentials and metadata that both transports give to gRPC."""

from __future__ import annotations

import json
import sys
import uuid
from pathlib import Path
from typing import Literal

import grpc

from finetree._version import __version__
from finetree.config.options import TLS, Options, Target
from finetree.config.settings import Service
from finetree.metadata import current

Kind = Literal["unary", "stream"]
RETRY = {
    "maxAttempts": 4,
    "initialBackoff": "0.05s",
    "maxBackoff": "1s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"],
}
"""Retries by gRPC itself (gRFC A6, AIP-194): 4 attempts over at most 350 ms, so that they use no deadline up."""
SERVICE_CONFIG = json.dumps(
    {
        "methodConfig": [{"name": [{}], "retryPolicy": RETRY}],
        "retryThrottling": {"maxTokens": 100, "tokenRatio": 0.1},
    }
)
MAX_RECEIVED_BYTES = 16 * 1024 * 1024
_PYTHON = ".".join(map(str, sys.version_info[:3]))
USER_AGENT = f"finetree-python/{__version__} grpc/{grpc.__version__} python/{_PYTHON}"


def channel_arguments(options: Options, target: Target, kind: Kind) -> list[tuple[str, int | str]]:
    """Build the arguments of a channel. gRPC retries no streams: they continue from their position by themselves."""
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
        ("grpc.enable_http_proxy", 0 if _is_local(target.address) else 1),
    ]
    if kind == "unary" and options.retries:
        arguments += [("grpc.enable_retries", 1), ("grpc.service_config", SERVICE_CONFIG)]
    else:
        arguments += [("grpc.enable_retries", 0)]
    if target.tls and target.tls.server_name:
        arguments.append(("grpc.ssl_target_name_override", target.tls.server_name))
    return arguments


def credentials(tls: TLS) -> grpc.ChannelCredentials:
    """Read credentials from PEM bytes or files; a rotated file takes effect with the next channel."""
    return grpc.ssl_channel_credentials(_pem(tls.ca), _pem(tls.key), _pem(tls.certificate))


def new_request_id() -> str:
    """Make the id of a call, the same for all of its attempts; inside `call_metadata` it may be given."""
    return current().get("x-request-id") or str(uuid.uuid4())


def metadata(options: Options, service: Service, request_id: str) -> tuple[tuple[str, str | bytes], ...]:
    """Build the metadata of a call."""
    entries = {"x-request-id": request_id}
    token = options.targets[service].token
    if token is not None and "authorization" not in current():
        entries["authorization"] = f"Bearer {token.value()}"
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


def _pem(value: bytes | Path | None) -> bytes | None:
    return Path(value).read_bytes() if value is not None and not isinstance(value, bytes) else value


def _is_local(address: str) -> bool:
    return address.startswith(("unix:", "127.", "localhost:", "[::1]"))
