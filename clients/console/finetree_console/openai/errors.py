# SPDX-License-Identifier: Apache-2.0
"""Errors in OpenAI's shape, and whether the client is to try again.

{"error": {"message", "type", "code", "param"}}

`code` is the suite's stable reason, `param` the field of the request. The clients try 408, 409, 429 and 5xx again by
themselves: no fault of the caller has one of these, and `x-should-retry` decides in any case.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Awaitable, Callable

from finetree import FinetreeError, Violation
from starlette.requests import Request
from starlette.responses import Response

from finetree_console.errors import HttpError, Json, status_of

Endpoint = Callable[[Request], Awaitable[Response]]
TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
"""`type` by HTTP status; others are "invalid_request_error" below 500 and "server_error" from there on."""
RETRIED_CODES = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "ABORTED")
RETRIED_REASONS = ("QUEUE_FULL", "TOO_MANY_REQUESTS", "TOO_MANY_STREAMS", "TOO_MANY_WATCHERS")
"""What may pass by itself. Everything else needs another request, or somebody to do something."""

_PARAMS = {
    "evaluation.dataset": "validation_file",
    "dataset": "training_file",
    "model": "model",
    "training.epochs": "hyperparameters.n_epochs",
    "training.effective_batch_size": "hyperparameters.batch_size",
    "training.learning_rate": "hyperparameters.learning_rate_multiplier",
    "training.seed": "seed",
    "display_name": "suffix",
    "labels": "metadata",
    "annotations": "metadata",
    "source": "file",
    "rows": "file",
}
"""Fields of the interface by the contract's field that they become."""


class RefusedError(HttpError):
    """A request that is refused here. The violation's field is one of the interface."""


def refusal(param: str, message: str, reason: str = "INVALID_REQUEST", *, status: int = 400) -> RefusedError:
    """Make the error for a field of a request; `param` "" means the request as a whole."""
    violations = (Violation(param, message),) if param else ()
    return RefusedError(message, status=status, reason=reason, violations=violations)


def answered(endpoint: Endpoint) -> Endpoint:
    """Let an endpoint answer its errors in OpenAI's shape."""

    @functools.wraps(endpoint)
    async def answer(request: Request) -> Response:
        try:
            return await endpoint(request)
        except FinetreeError as error:
            return response_of(error)

    return answer


def response_of(error: FinetreeError) -> Json:
    """Make the response for an error."""
    status = http_status(error)
    retried = error.code in RETRIED_CODES or error.reason in RETRIED_REASONS
    headers = dict(error.headers) if isinstance(error, HttpError) else {}
    headers["x-should-retry"] = "true" if retried else "false"
    if error.retry_after is not None and retried:
        headers["retry-after"] = str(math.ceil(error.retry_after))
    return Json({"error": document(error)}, status, headers)


def document(error: FinetreeError) -> dict[str, str | None]:
    """Make the error object."""
    status = http_status(error)
    kind = TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {
        "message": _message(error),
        "type": kind,
        "code": error.reason or error.code,
        "param": param_of(error),
    }


def _message(error: FinetreeError) -> str:
    """What was wrong, with the fields that its own text does not name."""
    if isinstance(error, RefusedError):
        return error.message
    return str(error).removesuffix(f" [{error.reason or error.code}]")


def http_status(error: FinetreeError) -> int:
    """HTTP status of an error: that of the console, but 400 where it would be 409, which clients try again."""
    status = status_of(error)
    return 400 if status == 409 and error.code == "ALREADY_EXISTS" else 503 if status == 409 else status


def param_of(error: FinetreeError) -> str | None:
    """Field of the request that an error is about; None for the request as a whole."""
    path = next((each.field for each in error.violations if each.field), "")
    if not path or isinstance(error, RefusedError):
        return path or None
    inner = path
    for prefix in ("job.", "train.", "spec.", "run."):
        inner = inner.removeprefix(prefix)
    for field, param in _PARAMS.items():
        if inner == field or inner.startswith((f"{field}.", f"{field}[")):
            return param
    return f"finetree.{inner.removeprefix('finetree.')}"
