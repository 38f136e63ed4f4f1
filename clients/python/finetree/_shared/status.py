# SPDX-License-Identifier: Apache-2.0
"""Exceptions from gRPC statuses. grpcio-status would be one more dependency for these lines."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterable, Sequence
from typing import Any

from google.protobuf.message import DecodeError
from google.rpc import code_pb2, error_details_pb2, status_pb2

from finetree.config.options import Target
from finetree.errors import BY_CODE, BY_REASON, FinetreeError, Unavailable, Violation

Metadata = Iterable[tuple[str, str | bytes]]
DETAILS = "grpc-status-details-bin"
SERVER_VERSION = "finetree-server-version"
PROBE_SECONDS = 1.0
TOKEN_RENEWED = "TOKEN_RENEWED"  # noqa: S105 - a reason, no token
"""Reason of a call that was refused for an old token, where there is a new one: the same call may succeed now."""
BROKEN = {"INTERNAL", "UNKNOWN", "CANCELLED", "ABORTED", "DATA_LOSS"}
"""Codes that gRPC gives to a cut HTTP/2 stream, beside UNAVAILABLE."""


def error_of(
    code: str, text: str, trailers: Metadata | None, *, request_id: str, target: Target | None = None
) -> FinetreeError:
    """Make the exception for a call that ended with a status.

    Args:
        code: name of the status code.
        text: the status's message.
        trailers: trailing metadata; google.rpc.Status is read from it.
        request_id: id of the call, to find it in the server's log.
        target: the address, to explain a failure to connect.
    """
    found = dict(trailers or ())
    status = _details(found.get(DETAILS))
    version = _text(found.get(SERVER_VERSION))
    # Without a status of ours it was not our service that answered, but gRPC itself, a proxy, or another program.
    foreign = status is None and not version and target is not None
    reason = _transport_reason(code) if foreign else ""
    # Whatever gRPC calls a cut connection, for a caller the service cannot be reached now.
    shown = "UNAVAILABLE" if reason == "CONNECTION_BROKEN" else code
    error = error_of_status(status or status_pb2.Status(message=text), code=shown, request_id=request_id)
    error.server_version = version
    if foreign and target is not None:
        error.message = _explained(code, text, target)
        error.reason = reason
    if error.retry_after is None:
        error.retry_after = _pushback(found)
    return error


def error_of_status(status: status_pb2.Status, *, code: str = "", request_id: str = "") -> FinetreeError:
    """Make the exception for a google.rpc.Status: of a call, of a row of a batch, of a job."""
    code = code or _code_name(status.code)
    info, retry, violations = error_details_pb2.ErrorInfo(), None, list[Violation]()
    for detail in status.details:
        if detail.Unpack(info):
            continue
        violations += _violations(detail)
        delay = error_details_pb2.RetryInfo()
        if detail.Unpack(delay):
            retry = delay.retry_delay.seconds + delay.retry_delay.nanos / 1e9
    cls = BY_REASON.get(info.reason) or BY_CODE.get(code, FinetreeError)
    return cls(
        status.message,
        code=code,
        reason=info.reason,
        violations=tuple(violations),
        retry_after=retry,
        request_id=request_id,
        metadata=dict(info.metadata),
    )


def may_be_plaintext_to_tls(error: FinetreeError, target: Target) -> bool:
    """Whether `speaks_tls` may explain an error: something listens, and hangs up on a client without encryption."""
    return error.reason == "SERVICE_UNREACHABLE" and target.tls is None and "is not reachable" in error.message


def plaintext_to_tls(error: FinetreeError, target: Target) -> FinetreeError:
    """Explain in an error that the server speaks TLS and the client does not."""
    error.message = f"{target.address} speaks TLS and this client does not; use https://{target.address} or tls=True"
    return error


def token_renewed(refusal: FinetreeError) -> Unavailable:
    """Make the error for a call with a token that a service no longer takes, when a new one was read."""
    return Unavailable(refusal.message, reason=TOKEN_RENEWED, request_id=refusal.request_id)


def is_broken_connection(error: FinetreeError) -> bool:
    """Whether a call failed on its way (or the server is going down), so that the same call may succeed soon."""
    if error.code == "UNAVAILABLE":
        return True
    # A service of ours always gives a reason of its own.
    return error.reason == "CONNECTION_BROKEN"


def _transport_reason(code: str) -> str:
    if code == "UNAVAILABLE":
        return "SERVICE_UNREACHABLE"
    return "CONNECTION_BROKEN" if code in BROKEN else ""


def _details(raw: str | bytes | None) -> status_pb2.Status | None:
    if not isinstance(raw, bytes):
        return None
    try:
        return status_pb2.Status.FromString(raw)
    except DecodeError:
        return None


def _violations(detail: Any) -> Sequence[Violation]:
    bad = error_details_pb2.BadRequest()
    if detail.Unpack(bad):
        return [Violation(each.field, each.description) for each in bad.field_violations]
    unmet = error_details_pb2.PreconditionFailure()
    if detail.Unpack(unmet):
        return [Violation(each.subject, each.description) for each in unmet.violations]
    return []


def _code_name(number: int) -> str:
    known = code_pb2.Code.DESCRIPTOR.values_by_number.get(number)
    return known.name if known else "UNKNOWN"


def _text(value: str | bytes | None) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value or ""


def _pushback(trailers: dict[str, str | bytes]) -> float | None:
    millis, seconds = _text(trailers.get("grpc-retry-pushback-ms")), _text(trailers.get("retry-after"))
    if millis.isdecimal():
        return int(millis) / 1000
    return float(seconds) if seconds.isdecimal() else None


def _explained(code: str, text: str, target: Target) -> str:
    where = target.address
    if code == "DEADLINE_EXCEEDED":
        return f"{where} did not answer in time; raise `timeout`, or check that the service is well"
    if code == "UNIMPLEMENTED":
        return f"{where} does not know this call; check that it is the right service, and its version"
    if code in BROKEN:
        return f"the connection to {where} broke: {text}"
    return _unreachable(text, target) if code == "UNAVAILABLE" else text


def _unreachable(text: str, target: Target) -> str:
    where = target.address
    if "onnection refused" in text or "No such file" in text:
        return f"nothing listens at {where}; start the service (`finetree up`) or check the address"
    if "name resolution" in text.lower() or "DNS" in text:
        return f"the host of {where} has no address; check the name"
    if target.tls is not None and ("handshake" in text.lower() or "SSL" in text):
        return _handshake(where, text)
    return f"{where} is not reachable: {text}"


def _handshake(where: str, text: str) -> str:
    if "WRONG_VERSION_NUMBER" in text:
        return f"{where} does not speak TLS and this client does; use http://{where} or tls=False"
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return f"the certificate of {where} is not trusted; give its authority as tls=TLS(ca=…)"
    return f"the TLS handshake with {where} failed: {text}"


def speaks_tls(address: str) -> bool:
    """Whether a TLS server listens at an address; gRPC's message does not say so. Takes at most a second."""
    host, _, port = address.rpartition(":")
    if not port.isdecimal() or address.startswith(("unix:", "dns:")):
        return False
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with socket.create_connection((host.strip("[]"), int(port)), PROBE_SECONDS) as plain:
            plain.settimeout(PROBE_SECONDS)
            with context.wrap_socket(plain):
                return True
    except OSError:
        return False
