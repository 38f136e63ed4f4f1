# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: N818  # the classes are named after the status codes that they stand for
"""Errors of a service, and their form as `google.rpc.Status`.

    DomainError
    ├── InvalidArgument       the request is wrong in itself: fix the named fields
    ├── NotFound              the named resource does not exist
    ├── AlreadyExists         the name or request id belongs to another resource
    ├── FailedPrecondition    the request is right, the state is not: change the state first
    ├── OutOfRange            a position (offset, sequence number) that does not exist
    ├── ResourceExhausted     a quota, a queue or a disk is full
    ├── PermissionDenied      the caller is known and not allowed
    ├── Unauthenticated       the caller is unknown
    ├── Unavailable           the service cannot answer now: try again
    ├── DeadlineExceeded      not done in the time given
    └── Internal              a fault of the service, of which the client sees no details

Domain modules raise these and import no gRPC; the interceptor turns them into a `google.rpc.Status` with `to_status`.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, ClassVar, NamedTuple

if TYPE_CHECKING:
    from google.protobuf.message import Message
    from google.rpc import error_details_pb2, status_pb2

DOMAIN = "finetree"
"""`ErrorInfo.domain` of every error of the suite."""

MAX_VIOLATIONS = 32
"""Violations that one error sends at most."""

MAX_STATUS_BYTES = 4096
"""Serialized size of one error. Beyond about 10 KB of trailers a client sees RESOURCE_EXHAUSTED instead (measured)."""

MAX_MESSAGE_CHARACTERS = 512
"""Length of a message in characters; non-ASCII text triples in the `grpc-message` trailer."""

_MAX_FIELD_CHARACTERS = 256
_MAX_METADATA_CHARACTERS = 512
_MAX_METADATA_BYTES = 1024
_OVERHEAD_BYTES = 320  # type URLs and lengths of three details, RetryInfo, and the violation_count entry
_VIOLATION_OVERHEAD_BYTES = 16  # tags and lengths of one violation or entry


class Code(enum.IntEnum):
    """The members of `google.rpc.Code` that the suite uses."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    OUT_OF_RANGE = 11
    INTERNAL = 13
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16


class Violation(NamedTuple):
    """One fault of a request: the field's proto path, what is wrong with it, and a stable reason."""

    field_path: str
    description: str
    reason: str = ""


class DomainError(Exception):
    """An error that a client is to see, with a stable reason; its subclasses are the status codes.

    Args:
        reason: UPPER_SNAKE and stable, for programs to switch on.
        message: What was wrong, where, and what to do; one line for people, without secrets or paths of the server.
        metadata: Values that a program may use, for example {"oldest_seq": "17"}.
        violations: The single faults; at most `MAX_VIOLATIONS` are sent.
        retry_delay: Seconds after which a retry makes sense.
    """

    code: ClassVar[Code] = Code.UNKNOWN

    def __init__(
        self,
        reason: str,
        message: str,
        *,
        metadata: Mapping[str, str] | None = None,
        violations: Iterable[tuple[str, str] | tuple[str, str, str]] = (),
        retry_delay: float | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.metadata = dict(metadata or {})
        self.violations = tuple(Violation(*violation) for violation in violations)
        self.retry_delay = retry_delay


class InvalidArgument(DomainError):
    """The request is wrong in itself, whatever the state of the service."""

    code = Code.INVALID_ARGUMENT


class NotFound(DomainError):
    """The named resource does not exist."""

    code = Code.NOT_FOUND


class AlreadyExists(DomainError):
    """The name or the request id belongs to another resource."""

    code = Code.ALREADY_EXISTS


class FailedPrecondition(DomainError):
    """The request is right, the state is not; a violation's `field_path` names what stands in the way."""

    code = Code.FAILED_PRECONDITION


class OutOfRange(DomainError):
    """A position (offset, sequence number) does not exist."""

    code = Code.OUT_OF_RANGE


class ResourceExhausted(DomainError):
    """A quota, a queue or a disk is full."""

    code = Code.RESOURCE_EXHAUSTED


class PermissionDenied(DomainError):
    """The caller is known and not allowed."""

    code = Code.PERMISSION_DENIED


class Unauthenticated(DomainError):
    """The caller is not known."""

    code = Code.UNAUTHENTICATED


class Unavailable(DomainError):
    """The service cannot answer now; the same call may be retried."""

    code = Code.UNAVAILABLE


class DeadlineExceeded(DomainError):
    """The work was not done in the time given."""

    code = Code.DEADLINE_EXCEEDED


class Internal(DomainError):
    """Something failed that nobody foresaw; the server's log has the cause."""

    code = Code.INTERNAL


def invalid_field(field_path: str, description: str, reason: str = "INVALID_REQUEST") -> InvalidArgument:
    """Make an InvalidArgument with one violation."""
    return InvalidArgument(reason, f"{field_path}: {description}", violations=[(field_path, description, reason)])


def to_status(error: DomainError) -> status_pb2.Status:
    """Convert an error to `google.rpc.Status` with ErrorInfo and, if it has any, violations and a RetryInfo.

    The result is at most `MAX_STATUS_BYTES` long and holds at most `MAX_VIOLATIONS` violations. Where some are left
    out, ErrorInfo's metadata has `violation_count`, the number of all of them.
    """
    from google.rpc import error_details_pb2, status_pb2

    status = status_pb2.Status(code=error.code, message=_cut(error.message, MAX_MESSAGE_CHARACTERS))
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=_bounded(error.metadata))
    details: list[Message] = [info]
    if error.retry_delay is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromMilliseconds(round(error.retry_delay * 1000))
        details.append(retry)
    if error.violations:
        room = MAX_STATUS_BYTES - _OVERHEAD_BYTES - status.ByteSize() - info.ByteSize()
        sent = _that_fit(error.violations[:MAX_VIOLATIONS], room)
        details.append(_precondition(sent) if error.code == Code.FAILED_PRECONDITION else _bad_request(sent))
        if len(sent) < len(error.violations):
            info.metadata["violation_count"] = str(len(error.violations))
    for detail in details:
        status.details.add().Pack(detail)
    return status


def _that_fit(violations: tuple[Violation, ...], room: int) -> list[Violation]:
    """Take the first violations, each shortened, that need at most `room` bytes."""
    fitting = []
    for violation in violations:
        short = Violation(*(_cut(part, _MAX_FIELD_CHARACTERS) for part in violation))
        room -= sum(len(part.encode()) for part in short) + _VIOLATION_OVERHEAD_BYTES
        if room < 0:
            break
        fitting.append(short)
    return fitting


def _bad_request(violations: Iterable[Violation]) -> error_details_pb2.BadRequest:
    from google.rpc import error_details_pb2

    detail = error_details_pb2.BadRequest()
    for path, description, reason in violations:
        detail.field_violations.add(field=path, description=description, reason=reason)
    return detail


def _precondition(violations: Iterable[Violation]) -> error_details_pb2.PreconditionFailure:
    from google.rpc import error_details_pb2

    detail = error_details_pb2.PreconditionFailure()
    for path, description, reason in violations:
        detail.violations.add(type=reason, subject=path, description=description)
    return detail


def _bounded(metadata: Mapping[str, str]) -> dict[str, str]:
    """Shorten the metadata's values and leave entries out, so that the rest of the error has room."""
    room, kept = _MAX_METADATA_BYTES, {}
    for key, value in metadata.items():
        short = _cut(str(value), _MAX_METADATA_CHARACTERS)
        room -= len(key.encode()) + len(short.encode()) + _VIOLATION_OVERHEAD_BYTES
        if room < 0:
            break
        kept[key] = short
    return kept


def _cut(text: str, characters: int) -> str:
    return text if len(text) <= characters else text[: characters - 1] + "…"
