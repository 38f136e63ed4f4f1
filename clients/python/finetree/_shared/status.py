# SPDX-License-Identifier: Apache-2.0
"""Exceptions from gRPC statuses. grpcio-status would be one more dependency for these lines."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from google.protobuf.message import DecodeError
from google.rpc import code_pb2, error_details_pb2, status_pb2

from finetree.config.options import Target
from finetree.errors import BY_CODE, BY_REASON, FinetreeError, Unavailable, Violation

Metadata = Iterable[tuple[str, str | bytes]]
DETAILS = "grpc-status-details-bin"
SERVER_VERSION = "finetree-server-version"
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
    if target.tls is not None and any(word in text.lower() for word in ("handshake", "ssl", "verification")):
        return _handshake(where, text)
    return f"{where} is not reachable: {text}"


def _handshake(where: str, text: str) -> str:
    lower = text.lower()
    if "wrong_version_number" in lower:
        return f"{where} does not speak TLS and this client does; use http://{where} or tls=False"
    if "hostname verification" in lower:
        return f"the TLS certificate of {where} is for another name; use one of its names, or tls=TLS(server_name=…)"
    if "certificate has expired" in lower:
        return f"the TLS certificate of {where} has expired; whoever runs it has to renew it (`finetree tls renew`)"
    if "not yet valid" in lower:
        return f"the TLS certificate of {where} is not valid yet; check the clocks of this machine and of the service"
    if "certificate_verify_failed" in lower:
        return f"the TLS certificate of {where} is not trusted; give its authority as tls=TLS(ca=…) or FINETREE_TLS_CA"
    return f"the TLS handshake with {where} failed: {text}"
