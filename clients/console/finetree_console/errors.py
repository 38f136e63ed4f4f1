# SPDX-License-Identifier: Apache-2.0
"""Errors as JSON, with the HTTP status that belongs to their gRPC code.

{"error": {"code", "reason", "message", "violations": [{"field", "description"}], "metadata", "retry_after",
           "request_id"}}
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from finetree import FinetreeError, Violation
from starlette.responses import Response

STATUS: Mapping[str, int] = {
    "CANCELLED": 499,
    "INVALID_ARGUMENT": 400,
    "DEADLINE_EXCEEDED": 504,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "PERMISSION_DENIED": 403,
    "RESOURCE_EXHAUSTED": 429,
    "FAILED_PRECONDITION": 400,
    "ABORTED": 409,
    "OUT_OF_RANGE": 400,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
    "UNAUTHENTICATED": 401,
}
"""HTTP status by gRPC code, as google.rpc.Code documents it; 500 for every other code."""
STATUS_OF_REASON: Mapping[str, int] = {"REQUEST_TOO_LARGE": 413, "DATASET_TOO_LARGE": 413, "DISK_FULL": 507}
"""HTTP status by reason, where HTTP has a more exact one."""


class HttpError(FinetreeError):
    """A request that the console itself refuses, with an HTTP status of its own."""

    def __init__(
        self,
        message: str = "",
        *,
        status: int = 400,
        headers: Mapping[str, str] | None = None,
        **fields: Any,
    ) -> None:
        super().__init__(message, **{"code": "INVALID_ARGUMENT", **fields})
        self.status = status
        self.headers = dict(headers or {})


class Json(Response):
    """A JSON document and a newline, as terminals like it."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Encode the document; numbers that JSON has not are a fault of the program."""
        text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return text.encode() + b"\n"


def invalid(field: str, description: str, reason: str = "INVALID_REQUEST") -> HttpError:
    """Make the error for a field of a request; `field` is its path, or the name of a header in brackets."""
    return HttpError(
        f"{field}: {description}" if field else description,
        reason=reason,
        violations=(Violation(field, description),),
    )


def status_of(error: FinetreeError) -> int:
    """HTTP status of an error."""
    if isinstance(error, HttpError):
        return error.status
    return STATUS_OF_REASON.get(error.reason) or STATUS.get(error.code, 500)


def document_of(error: FinetreeError, request_id: str) -> dict[str, Any]:
    """Make the JSON document of an error."""
    document = {
        "code": error.code,
        "reason": error.reason,
        "message": error.message,
        "violations": [{"field": each.field, "description": each.description} for each in error.violations],
        "metadata": dict(error.metadata),
        "retry_after": error.retry_after,
        "request_id": request_id,
    }
    return {"error": document}


def response_of(error: FinetreeError, request_id: str) -> Json:
    """Make the response for an error."""
    headers = dict(error.headers) if isinstance(error, HttpError) else {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(math.ceil(error.retry_after))
    status = status_of(error)
    if status == 401:
        headers.setdefault("WWW-Authenticate", "Bearer")
    return Json(document_of(error, request_id), status, headers)
