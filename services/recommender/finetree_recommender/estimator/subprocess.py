# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ASYNC109 - the parameters are those of the SDK's client
"""The estimator as a program: `python -m finetree_estimator --once`, asked through its standard input.

Services never import each other, and a recommendation without a server must open no socket either. The program runs
the estimator's own methods, so that its answers are the served ones.
"""

import contextlib
import importlib.util
import io
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from types import TracebackType
from typing import Self, TypeVar, cast

import finetree
from finetree_api.estimator.v1 import catalog_pb2, estimate_pb2, estimator_pb2
from google.protobuf import proto
from google.protobuf.message import Message
from google.rpc import status_pb2

Answer = TypeVar("Answer", bound=Message)

STOP_SECONDS = 5.0
"""Longest time that a program may take to end after its input."""
_METHODS = ("ListAccelerators", "ListModels", "BatchEstimateRuns")
"""Rpcs that a recommendation needs; each has its own program, and all start together."""


class EstimatorProgram:
    """Client through subprocesses, which end with the block; unavailable where the estimator is not installed."""

    def __init__(self) -> None:
        self._programs: dict[str, subprocess.Popen[bytes]] = {}

    async def estimate_batch(
        self, rows: Mapping[str, estimate_pb2.EstimateRunRequest], /, *, timeout: float | None = None
    ) -> dict[str, estimate_pb2.Estimate | finetree.FinetreeError]:
        """BatchEstimateRuns; a row that fails holds its exception."""
        del timeout  # a program has no deadline: it answers or ends
        questions = [estimator_pb2.BatchEstimateRow(key=key, request=each) for key, each in rows.items()]
        request = estimator_pb2.BatchEstimateRunsRequest(rows=questions)
        answer = self._ask("BatchEstimateRuns", request, estimator_pb2.BatchEstimateRunsResponse())
        return {
            row.key: finetree.error_of_status(row.error) if row.WhichOneof("result") == "error" else row.estimate
            for row in answer.results
        }

    async def list_accelerators(
        self, *, page_size: int = 0, timeout: float | None = None
    ) -> AsyncIterator[catalog_pb2.Accelerator]:
        """ListAccelerators, all pages."""
        del timeout
        request = catalog_pb2.ListAcceleratorsRequest(page_size=page_size)
        while True:
            answer = self._ask("ListAccelerators", request, catalog_pb2.ListAcceleratorsResponse())
            for item in answer.accelerators:
                yield item
            if not answer.next_page_token:
                return
            request.page_token = answer.next_page_token

    async def list_models(
        self, *, page_size: int = 0, timeout: float | None = None
    ) -> AsyncIterator[catalog_pb2.Model]:
        """ListModels, all pages."""
        del timeout
        request = catalog_pb2.ListModelsRequest(page_size=page_size)
        while True:
            answer = self._ask("ListModels", request, catalog_pb2.ListModelsResponse())
            for item in answer.models:
                yield item
            if not answer.next_page_token:
                return
            request.page_token = answer.next_page_token

    def _ask(self, method: str, request: Message, answer: Answer) -> Answer:
        """Ask a program, and block until it answers.

        Raises:
            FinetreeError: It refused, or there is none.
        """
        self._start()
        try:
            status = _exchange(self._programs[method], request, answer)
        except (OSError, EOFError, TypeError, ValueError) as error:  # TypeError: no answer followed its status
            raise finetree.Unavailable("the estimator's program ended", reason="ESTIMATOR_ENDED") from error
        if status.code:
            raise finetree.error_of_status(status)
        return answer

    def _start(self) -> None:
        if self._programs:
            return
        if importlib.util.find_spec("finetree_estimator") is None:
            raise finetree.Unavailable("the estimator is not installed", reason="ESTIMATOR_NOT_INSTALLED")
        # -P: no file of the working folder may be imported in place of a library.
        start = [
            sys.executable,
            "-P",
            "-m",
            "finetree_estimator",
            "--once",
            "--once-format",
            "delimited",
            "--once-method",
        ]
        for method in _METHODS:
            self._programs[method] = subprocess.Popen([*start, method], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for program in self._programs.values():
            for stream in (program.stdin, program.stdout):
                if stream is not None:
                    with contextlib.suppress(BrokenPipeError):
                        stream.close()
        for program in self._programs.values():
            try:
                program.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                program.kill()
                program.wait()


def _exchange(program: subprocess.Popen[bytes], request: Message, answer: Message) -> status_pb2.Status:
    """Send a request, and read the status and, if that is OK, the answer."""
    assert program.stdin is not None  # noqa: S101 - both are pipes
    assert program.stdout is not None  # noqa: S101
    source, sink = (cast("io.BytesIO", pipe) for pipe in (program.stdout, program.stdin))
    proto.serialize_length_prefixed(request, sink)
    sink.flush()
    status = cast("status_pb2.Status | None", proto.parse_length_prefixed(status_pb2.Status, source))
    if status is None:
        raise EOFError
    if not status.code:
        answer.CopyFrom(proto.parse_length_prefixed(type(answer), source))
    return status
