# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: N818 - the classes carry the names of the gRPC status codes that users look for
"""Every exception of the SDK.

    FinetreeError                 code                  what to do
    ├── InvalidArgument           INVALID_ARGUMENT      fix the fields in `violations`
    │   └── InvalidSpec           INVALID_ARGUMENT      fix the key or value at `path`; nothing was sent
    ├── NotFound                  NOT_FOUND             check the name; the list calls say what there is
    ├── AlreadyExists             ALREADY_EXISTS        take another request_id
    ├── FailedPrecondition        FAILED_PRECONDITION   do what the message says first
    │   └── PlanDrift             FAILED_PRECONDITION   approve the new plan, or pin the old revisions
    ├── OutOfRange                OUT_OF_RANGE          continue from the position in `metadata`
    ├── PermissionDenied          PERMISSION_DENIED     use a resource that this principal may use
    ├── Unauthenticated           UNAUTHENTICATED       give a valid token
    ├── ResourceExhausted         RESOURCE_EXHAUSTED    try again after `retry_after`, or free space
    ├── Unavailable               UNAVAILABLE           start the service or check the address; safe to try again
    ├── FinetreeTimeout           DEADLINE_EXCEEDED     it also is a TimeoutError
    │   └── DeadlineExceeded      DEADLINE_EXCEEDED     raise `timeout`; a repeat with the same request_id is safe
    ├── Cancelled                 CANCELLED             the call was cancelled here or there
    ├── Aborted                   ABORTED               read again, then try again
    ├── Unimplemented             UNIMPLEMENTED         use a server of this version
    ├── Internal                  INTERNAL              our fault: report it with the request id
    ├── JobFailed                 the job's             see `terminal`
    ├── ClientClosed              FAILED_PRECONDITION   make another client
    └── ForkedClientError         FAILED_PRECONDITION   one of the three ways in its message

All of them pickle and copy, so they travel through process pools and task queues.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from finetree_api.trainer.v1 import event_pb2

SHOWN_VIOLATIONS = 3


@dataclass(frozen=True, slots=True)
class Violation:
    """A field that a request must change. `field` is its proto path, such as "job.spec.training.epochs"."""

    field: str
    description: str

    def __str__(self) -> str:
        return f"{self.field}: {self.description}" if self.field else self.description


def _rebuild(cls: type[FinetreeError], message: str, state: dict[str, Any]) -> FinetreeError:
    error = cls(message)
    error.__dict__.update(state)
    return error


class FinetreeError(Exception):
    """Base of every exception of the SDK.

    Attributes:
        code: gRPC status code by name, such as "NOT_FOUND".
        reason: stable UPPER_SNAKE reason of the service, "" when it gave none.
        message: what was wrong, where, and what to do; one line.
        violations: fields that must change.
        retry_after: seconds after which another try makes sense, None when the service did not say.
        request_id: id of the call, the same over all its attempts; the service logs it.
        server_version: version of the server that answered, "" when none did.
        metadata: further facts, such as `oldest_seq` or `committed_bytes`.
    """

    default_code: ClassVar[str] = "UNKNOWN"

    def __init__(
        self,
        message: str = "",
        *,
        code: str = "",
        reason: str = "",
        violations: tuple[Violation, ...] = (),
        retry_after: float | None = None,
        request_id: str = "",
        server_version: str = "",
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.reason = reason
        self.violations = violations
        self.retry_after = retry_after
        self.request_id = request_id
        self.server_version = server_version
        self.metadata = dict(metadata or {})

    def __str__(self) -> str:
        parts = [" ".join(self.message.split()) or self.code]
        shown = [str(violation) for violation in self.violations if str(violation) not in self.message]
        parts += shown[:SHOWN_VIOLATIONS]
        if len(shown) > SHOWN_VIOLATIONS:
            parts.append(f"and {len(shown) - SHOWN_VIOLATIONS} more")
        text = "; ".join(parts)
        return f"{text} [{self.reason or self.code}]"

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, self.__dict__.copy())


class InvalidArgument(FinetreeError):
    """The request is wrong; `violations` names the fields."""

    default_code = "INVALID_ARGUMENT"


class InvalidSpec(InvalidArgument):
    """A dict does not describe the message it should; nothing was sent.

    `path` is the proto path of the key or value, such as "training.epochs" or "evaluation.metrics[0]".
    """

    def __init__(self, message: str = "", *, path: str = "", reason: str = "INVALID_SPEC", **fields: Any) -> None:
        super().__init__(message, reason=reason, **fields)
        self.path = path


class NotFound(FinetreeError):
    """There is no such resource."""

    default_code = "NOT_FOUND"


class AlreadyExists(FinetreeError):
    """The request_id was used with another body (REQUEST_ID_REUSED)."""

    default_code = "ALREADY_EXISTS"


class FailedPrecondition(FinetreeError):
    """Something must be done first; the message says what."""

    default_code = "FAILED_PRECONDITION"


class PlanDrift(FailedPrecondition):
    """The plan is no longer the approved one (PLAN_DRIFT)."""


class OutOfRange(FinetreeError):
    """A position does not exist (any more); `metadata` says which ones do."""

    default_code = "OUT_OF_RANGE"


class PermissionDenied(FinetreeError):
    """The principal may not do this."""

    default_code = "PERMISSION_DENIED"


class Unauthenticated(FinetreeError):
    """The token is missing, wrong or has expired."""

    default_code = "UNAUTHENTICATED"


class ResourceExhausted(FinetreeError):
    """A quota, a queue or a disk is full; `retry_after` says when to come back, if that helps."""

    default_code = "RESOURCE_EXHAUSTED"


class Unavailable(FinetreeError):
    """The service does not answer. Mutating calls carry a request_id, so trying again is safe."""

    default_code = "UNAVAILABLE"


class FinetreeTimeout(FinetreeError, TimeoutError):
    """Something took longer than the caller allowed. A job that was waited for runs on."""

    default_code = "DEADLINE_EXCEEDED"


class DeadlineExceeded(FinetreeTimeout):
    """A call did not end within its timeout."""


class Cancelled(FinetreeError):
    """The call was cancelled."""

    default_code = "CANCELLED"


class Aborted(FinetreeError):
    """Somebody else changed the resource at the same time."""

    default_code = "ABORTED"


class Unimplemented(FinetreeError):
    """The server does not know this call."""

    default_code = "UNIMPLEMENTED"


class Internal(FinetreeError):
    """A fault of the service (or of the SDK). Report it with `request_id`."""

    default_code = "INTERNAL"


class JobFailed(FinetreeError):
    """A job that was waited for with `check=True` ended FAILED or CANCELLED. `job` is its name."""

    def __init__(self, message: str = "", *, job: str = "", terminal: bytes = b"", **fields: Any) -> None:
        super().__init__(message, **fields)
        self.job = job
        self._terminal = terminal

    @property
    def terminal(self) -> event_pb2.Terminal:
        """Terminal event of the job."""
        from finetree_api.trainer.v1 import event_pb2

        return event_pb2.Terminal.FromString(self._terminal)


class ClientClosed(FailedPrecondition):
    """The client was closed."""


class ForkedClientError(FailedPrecondition):
    """gRPC cannot work in this forked process: a call would hang beyond its deadline, so none is made."""


BY_CODE: Mapping[str, type[FinetreeError]] = {
    cls.default_code: cls
    for cls in (
        InvalidArgument,
        NotFound,
        AlreadyExists,
        FailedPrecondition,
        OutOfRange,
        PermissionDenied,
        Unauthenticated,
        ResourceExhausted,
        Unavailable,
        DeadlineExceeded,
        Cancelled,
        Aborted,
        Unimplemented,
        Internal,
    )
}
BY_REASON: Mapping[str, type[FinetreeError]] = {"PLAN_DRIFT": PlanDrift}
