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
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Self, TypeVar, cast

from finetree_cli.errors import BadInput, CliError, NotAvailable

if TYPE_CHECKING:
    from google.protobuf.message import Message
    from google.rpc import status_pb2

    Response = TypeVar("Response", bound=Message)

PAGE_SIZE = 1000
"""Largest page that the contract allows."""
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
        status = self._processes[rpc].exchange(request, response)
        if status.code:
            raise error_of_status(status)
        return response

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

    def exchange(self, request: "Message", response: "Message") -> "status_pb2.Status":
        """Send a request and return the status of its answer; if it is OK, the answer is in `response`."""
        from google.protobuf import proto
        from google.rpc import status_pb2

        assert self._process.stdin is not None  # noqa: S101 - both are pipes
        assert self._process.stdout is not None  # noqa: S101
        source, sink = (cast("io.BytesIO", pipe) for pipe in (self._process.stdout, self._process.stdin))
        try:
            proto.serialize_length_prefixed(request, sink)
            sink.flush()
            status = cast("status_pb2.Status | None", proto.parse_length_prefixed(status_pb2.Status, source))
            if status is not None and not status.code:
                response.CopyFrom(proto.parse_length_prefixed(type(response), source))
        except (BrokenPipeError, EOFError, TypeError, ValueError):  # TypeError: no response came
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
