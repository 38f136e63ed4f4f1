# SPDX-License-Identifier: Apache-2.0
"""gRPC handlers from typed functions: requests keep the contract's rules, errors become google.rpc.Status.

Calls are recorded, and what is ordered for them happens here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.rpc import code_pb2, error_details_pb2, status_pb2

from finetree._shared.rpcs import Q, R, Rpc
from finetree._shared.status import DETAILS, SERVER_VERSION
from finetree._version import __version__
from finetree.errors import FinetreeError, InvalidArgument
from finetree.testing.clock import Clock
from finetree.testing.faults import Faults, Recorded
from finetree.testing.requests import not_promised
from finetree.testing.validation import require_valid

HELD_POLL = 0.02
NO_DEADLINE = 1e7
MAX_VIOLATIONS = 32


class Handlers(grpc.GenericRpcHandler):
    """Functions by rpc; one that raises a FinetreeError fails its call."""

    def __init__(self, faults: Faults, clock: Clock) -> None:
        self._faults, self._clock = faults, clock
        self._handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}

    def service(self, handler_call_details: Any) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Find the handler of a call."""
        return self._handlers.get(handler_call_details.method)

    def unary(self, method: Rpc[Q, R], function: Callable[[Q], R]) -> None:
        """Serve an rpc of one request and one answer, while nothing else is served."""
        self.waiting(method, lambda request, _: self._exclusive(function, request))

    def waiting(self, method: Rpc[Q, R], function: Callable[[Q, grpc.ServicerContext], R]) -> None:
        """Serve an rpc of one request and one answer, which waits for others to be served meanwhile."""

        def handle(raw: bytes, context: grpc.ServicerContext) -> R:
            return self._guarded(method, context, lambda: function(_read(method, raw), context))

        self._handlers[method.path] = grpc.unary_unary_rpc_method_handler(
            handle, response_serializer=method.response.SerializeToString
        )

    def upload(self, method: Rpc[Q, R], function: Callable[[Iterator[Q]], R]) -> None:
        """Serve an rpc of a client stream."""

        def handle(requests: Iterator[bytes], context: grpc.ServicerContext) -> R:
            return self._guarded(method, context, lambda: function(_read(method, raw) for raw in requests))

        self._handlers[method.path] = grpc.stream_unary_rpc_method_handler(
            handle, response_serializer=method.response.SerializeToString
        )

    def stream(self, method: Rpc[Q, R], function: Callable[[Q, grpc.ServicerContext], Iterator[R]]) -> None:
        """Serve an rpc of a server stream."""

        def handle(raw: bytes, context: grpc.ServicerContext) -> Iterator[R]:
            try:
                self._arrive(method, context)
                yield from function(_read(method, raw), context)
            except FinetreeError as error:
                abort(context, error)

        self._handlers[method.path] = grpc.unary_stream_rpc_method_handler(
            handle, response_serializer=method.response.SerializeToString
        )

    def refuse_rest(self, methods: Iterable[Rpc[Any, Any]]) -> None:
        """Answer the unary rpcs that nothing serves with why the fake has no answer."""
        for method in methods:
            if method.path not in self._handlers:
                self.unary(method, functools.partial(_refuse, method.path.rpartition("/")[2]))

    def _guarded(self, method: Rpc[Any, Any], context: grpc.ServicerContext, run: Callable[[], R]) -> R:
        try:
            self._arrive(method, context)
            answer = run()
        except FinetreeError as error:
            abort(context, error)
            raise
        context.set_trailing_metadata(((SERVER_VERSION, __version__),))
        return answer

    def _exclusive(self, function: Callable[[Q], R], request: Q) -> R:
        with self._clock.changed:
            answer = function(request)
            self._clock.changed.notify_all()
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
        ordered = self._faults.arrived(call)
        while ordered.held is not None and context.is_active() and not ordered.held.wait(HELD_POLL):
            pass
        if ordered.latency:
            self._await(self._clock.micros() + ordered.latency, context)

    def _await(self, moment: int, context: grpc.ServicerContext) -> None:
        """Wait until the suite's clock has reached a moment, or the caller is gone."""
        clock = self._clock
        context.add_callback(clock.wake)
        with clock.changed:
            while context.is_active() and clock.micros() < moment:
                clock.changed.wait(clock.real_seconds_until(moment))


def _refuse(name: str, _: Any) -> Any:
    raise not_promised(f"has no answer to {name}")


def _read(method: Rpc[Q, Any], raw: bytes) -> Q:
    try:
        request = method.request.FromString(raw)
    except DecodeError:
        text = f"the bytes are no {method.request.DESCRIPTOR.name}; check the client's stubs"
        raise InvalidArgument(text, reason="MALFORMED_REQUEST") from None
    require_valid(request)
    return request


def abort(context: grpc.ServicerContext, error: FinetreeError) -> None:
    """End a call as a real service does."""
    code: Any = grpc.StatusCode[error.code]
    trailers: list[tuple[str, str | bytes]] = [
        (DETAILS, to_status(error).SerializeToString()),
        (SERVER_VERSION, __version__),
    ]
    if error.retry_after is not None:
        trailers.append(("grpc-retry-pushback-ms", str(round(error.retry_after * 1000))))
    context.set_trailing_metadata(tuple(trailers))
    context.abort(code, error.message)


def to_status(error: FinetreeError) -> status_pb2.Status:
    """Make the status of an error, with its details."""
    status = status_pb2.Status(code=code_pb2.Code.Value(error.code), message=error.message)
    details: list[Any] = [
        error_details_pb2.ErrorInfo(reason=error.reason or error.code, domain="finetree", metadata=error.metadata)
    ]
    violations = error.violations[:MAX_VIOLATIONS]
    if violations and error.code == "FAILED_PRECONDITION":
        unmet = [
            error_details_pb2.PreconditionFailure.Violation(
                type=error.reason, subject=each.field, description=each.description
            )
            for each in violations
        ]
        details.append(error_details_pb2.PreconditionFailure(violations=unmet))
    elif violations:
        fields = [
            error_details_pb2.BadRequest.FieldViolation(
                field=each.field, description=each.description, reason=error.reason
            )
            for each in violations
        ]
        details.append(error_details_pb2.BadRequest(field_violations=fields))
    if error.retry_after is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromNanoseconds(round(error.retry_after * 1e9))
        details.append(retry)
    for detail in details:
        status.details.add().Pack(detail)
    return status
