# SPDX-License-Identifier: Apache-2.0
"""gRPC handlers from typed functions: errors become google.rpc.Status, calls are recorded, faults are injected."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import grpc
from google.rpc import code_pb2, error_details_pb2, status_pb2

from finetree._shared.rpcs import Q, R, Rpc
from finetree._shared.status import DETAILS, SERVER_VERSION
from finetree._version import __version__
from finetree.errors import FinetreeError
from finetree.testing.faults import Faults, Recorded

HELD_POLL = 0.02
NO_DEADLINE = 1e7


class Handlers(grpc.GenericRpcHandler):
    """Functions by rpc; one that raises a FinetreeError fails its call."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}

    def service(self, handler_call_details: Any) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Find the handler of a call."""
        return self._handlers.get(handler_call_details.method)

    def unary(self, method: Rpc[Q, R], function: Callable[[Q], R]) -> None:
        """Serve an rpc of one request and one answer."""

        def handle(request: Q, context: grpc.ServicerContext) -> R:
            return self._guarded(method, context, lambda: function(request))

        self._handlers[method.path] = grpc.unary_unary_rpc_method_handler(
            handle, method.request.FromString, method.response.SerializeToString
        )

    def upload(self, method: Rpc[Q, R], function: Callable[[Iterator[Q]], R]) -> None:
        """Serve an rpc of a client stream."""

        def handle(requests: Iterator[Q], context: grpc.ServicerContext) -> R:
            return self._guarded(method, context, lambda: function(requests))

        self._handlers[method.path] = grpc.stream_unary_rpc_method_handler(
            handle, method.request.FromString, method.response.SerializeToString
        )

    def stream(self, method: Rpc[Q, R], function: Callable[[Q, grpc.ServicerContext], Iterator[R]]) -> None:
        """Serve an rpc of a server stream."""

        def handle(request: Q, context: grpc.ServicerContext) -> Iterator[R]:
            try:
                self._arrive(method, context)
                yield from function(request, context)
            except FinetreeError as error:
                abort(context, error)

        self._handlers[method.path] = grpc.unary_stream_rpc_method_handler(
            handle, method.request.FromString, method.response.SerializeToString
        )

    def _guarded(self, method: Rpc[Any, Any], context: grpc.ServicerContext, run: Callable[[], R]) -> R:
        try:
            self._arrive(method, context)
            answer = run()
        except FinetreeError as error:
            abort(context, error)
            raise
        context.set_trailing_metadata(((SERVER_VERSION, __version__),))
        return answer

    def _arrive(self, method: Rpc[Any, Any], context: grpc.ServicerContext) -> None:
        metadata = dict(context.invocation_metadata())
        # Without a deadline grpc gives 9e18 seconds, not None as it documents.
        left = context.time_remaining() or 0.0
        call = Recorded(
            method.path.rpartition("/")[2],
            str(metadata.get("x-request-id", "")),
            str(metadata.get("user-agent", "")),
            left if left < NO_DEADLINE else None,
        )
        held = self._faults.arrived(call)
        while held is not None and context.is_active() and not held.wait(HELD_POLL):
            pass


def abort(context: grpc.ServicerContext, error: FinetreeError) -> None:
    """End a call as a real service does."""
    code: Any = grpc.StatusCode[error.code]
    status = status_pb2.Status(code=code_pb2.Code.Value(error.code), message=error.message)
    details: list[Any] = [
        error_details_pb2.ErrorInfo(reason=error.reason or error.code, domain="finetree", metadata=error.metadata)
    ]
    if error.violations and error.code == "FAILED_PRECONDITION":
        unmet = [
            error_details_pb2.PreconditionFailure.Violation(
                type=error.reason, subject=each.field, description=each.description
            )
            for each in error.violations
        ]
        details.append(error_details_pb2.PreconditionFailure(violations=unmet))
    elif error.violations:
        fields = [
            error_details_pb2.BadRequest.FieldViolation(field=each.field, description=each.description)
            for each in error.violations
        ]
        details.append(error_details_pb2.BadRequest(field_violations=fields))
    if error.retry_after is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromNanoseconds(round(error.retry_after * 1e9))
        details.append(retry)
    for detail in details:
        status.details.add().Pack(detail)
    context.set_trailing_metadata(((DETAILS, status.SerializeToString()), (SERVER_VERSION, __version__)))
    context.abort(code, error.message)
