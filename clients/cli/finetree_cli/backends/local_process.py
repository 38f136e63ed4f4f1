# SPDX-License-Identifier: Apache-2.0
"""A service without a server: child processes that answer on their standard output. No socket is opened.

Clients never import services, so each is started as `python -m finetree_… --once`. It runs the rpc's own method: its
responses are those of the server.
"""

import contextlib
import importlib.util
import io
import os
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Self, TypeVar, cast

from finetree_cli.errors import BadInput, CliError, NotAvailable

if TYPE_CHECKING:
    from finetree import FinetreeError
    from google.protobuf.message import Message
    from google.rpc import status_pb2

    Response = TypeVar("Response", bound=Message)

PAGE_SIZE = 1000
"""Largest page that the contract allows."""
AHEAD_BYTES = 32 << 10
"""Bytes of requests that are sent ahead of their answers."""
STOP_SECONDS = 5.0
"""Longest wait for a process to end after its input has ended."""


class LocalService:
    """Child processes of one service, one for each rpc; they end when the `with` block does.

    Args:
        service: "estimator" or "recommender".
        flags: settings of the service.
        variables: environment variables in addition to this process's.
    """

    def __init__(self, service: str, flags: Sequence[str] = (), variables: Mapping[str, str] | None = None) -> None:
        self._service = service
        self._flags = list(flags)
        self._variables = variables or {}
        self._processes: dict[str, _Process] = {}

    def start(self, rpc: str) -> None:
        """Start the process of an rpc ahead of the call, so that it loads while the caller prepares the request.

        Raises:
            NotAvailable: The service is not installed.
        """
        require_installed(self._service)
        if rpc not in self._processes:
            self._processes[rpc] = _Process(self._service, rpc, self._flags, self._variables)

    def call(self, rpc: str, request: "Message", response: "Response") -> "Response":
        """Call an rpc and parse its answer into `response`. Raises FinetreeError as the SDK's Client does."""
        from finetree import error_of_status

        self.start(rpc)
        process = self._processes[rpc]
        process.send(request)
        answer = _answer(process, response, error_of_status)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def call_each(
        self, rpc: str, requests: "Iterable[Message]", response: "type[Response]"
    ) -> "Iterator[Response | FinetreeError]":
        """Call an rpc for each request and yield the answers in order; a request that is refused has its exception.

        Requests are taken and sent while the process answers those before them.
        """
        from finetree import error_of_status

        self.start(rpc)
        process = self._processes[rpc]
        sent = deque[int]()
        for request in requests:
            size = request.ByteSize()
            # A pipe holds 64 KiB: beyond that, both sides could wait for each other to read.
            while sent and sum(sent) + size > AHEAD_BYTES:
                sent.popleft()
                yield _answer(process, response(), error_of_status)
            process.send(request)
            sent.append(size)
        for _ in sent:
            yield _answer(process, response(), error_of_status)

    def pages(self, rpc: str, request: Any, response: type[Any]) -> Iterator[Any]:
        """Call a list rpc page by page and yield each response."""
        request.page_size = PAGE_SIZE
        while True:
            page = self.call(rpc, request, response())
            yield page
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes.values():
            process.close()


def installed(service: str) -> bool:
    """Tell whether a service is installed in this environment."""
    return importlib.util.find_spec(f"finetree_{service}") is not None


def require_installed(service: str) -> None:
    """Raise NotAvailable unless the service is installed in this environment."""
    if not installed(service):
        raise NotAvailable(
            f"the {service} is not installed, and no address of one is given",
            remedy="pip install 'finetree-cli[local]', or give --address",
            reason="LOCAL_ENGINE_NOT_INSTALLED",
        )


def _answer(
    process: "_Process", response: "Response", error_of: "Callable[[status_pb2.Status], FinetreeError]"
) -> "Response | FinetreeError":
    status = process.receive(response)
    return error_of(status) if status.code else response


class _Process:
    """The child process of one rpc."""

    def __init__(self, service: str, rpc: str, flags: list[str], variables: Mapping[str, str]) -> None:
        # -P: a module in the current folder must not be imported in place of a library.
        command = [sys.executable, "-P", "-m", f"finetree_{service}", "--once", "--once-method", rpc]
        self._service = service
        self._stderr: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self._process = subprocess.Popen(
            [*command, "--once-format", "delimited", *flags],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env=os.environ | variables,
        )

    def send(self, request: "Message") -> None:
        """Send a request; `receive` reads its answer."""
        from google.protobuf import proto

        assert self._process.stdin is not None  # noqa: S101 - it is a pipe
        try:
            proto.serialize_length_prefixed(request, cast("io.BytesIO", self._process.stdin))
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._exit_error() from None

    def receive(self, response: "Message") -> "status_pb2.Status":
        """Return the status of the next answer; if it is OK, the answer is in `response`."""
        from google.protobuf import proto
        from google.rpc import status_pb2

        source = cast("io.BytesIO", self._process.stdout)
        try:
            status = cast("status_pb2.Status | None", proto.parse_length_prefixed(status_pb2.Status, source))
            if status is not None and not status.code:
                response.CopyFrom(proto.parse_length_prefixed(type(response), source))
        except (EOFError, TypeError, ValueError):  # TypeError: no response came
            raise self._exit_error() from None
        if status is None:
            raise self._exit_error()
        return status

    def close(self) -> None:
        """End the process."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):  # it has ended already, and `exchange` said why
                    stream.close()
        # It has no state to save, and its interpreter's shutdown takes 60 ms: end it rather than wait.
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._stderr.close()

    def _exit_error(self) -> CliError:
        """Explain an end without an answer: a setting that the service refuses, or a bug."""
        code = self._process.wait()
        self._stderr.seek(0)
        lines = self._stderr.read().decode("utf-8", "replace").strip().splitlines()
        reason, _, text = (lines[-1] if lines else "").partition(": ")
        if code == BadInput.exit_code and reason.isupper():
            return BadInput(text, reason=reason)
        last = lines[-1] if lines else "no message"
        return CliError(f"the {self._service} process ended with exit code {code}: {last}")
