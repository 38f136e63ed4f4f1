# SPDX-License-Identifier: Apache-2.0
"""A service without a server: programs of its own that are asked through their standard input. No socket is opened.

Clients never import services, so each is started as `python -m finetree_… --once`. It runs the methods of the service
itself: its answers are the served ones, byte by byte.
"""

import contextlib
import importlib.util
import os
import struct
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import IO, TYPE_CHECKING, Self, TypeVar

from finetree_cli.errors import BadInput, CliError, NotAvailable

if TYPE_CHECKING:
    from google.protobuf.message import Message

    Answer = TypeVar("Answer", bound=Message)

HEADER = struct.Struct(">BI")
"""Before each message: 0 (or, before an answer, 1 for a google.rpc.Status) and its length."""
STATUS = 1
STOP_SECONDS = 5.0
"""How long a process may take to end once its input has."""


class LocalPrograms:
    """Processes of one service, one for each rpc; they start with `prepare` or a question, and end with the block.

    Args:
        service: "estimator" or "recommender".
        flags: settings of the service.
        variables: of the programs' environment, beside one's own.
    """

    def __init__(self, service: str, flags: Sequence[str] = (), variables: Mapping[str, str] | None = None) -> None:
        self._service = service
        self._flags = list(flags)
        self._variables = variables or {}
        self._processes: dict[str, _Process] = {}

    def prepare(self, method: str) -> None:
        """Start the process that answers an rpc, so that it gets ready while the caller prepares its question.

        Raises:
            NotAvailable: The service is not installed.
        """
        if not installed(self._service):
            raise NotAvailable(
                f"the {self._service} is not installed here, and no address of one is given",
                remedy="pip install 'finetree-cli[local]', or give --address",
                reason="LOCAL_ENGINE_NOT_INSTALLED",
            )
        if method not in self._processes:
            self._processes[method] = _Process(self._service, method, self._flags, self._variables)

    def ask(self, method: str, request: "Message", answer: "Answer") -> "Answer":
        """Fill `answer` with what the service says. Raises FinetreeError as a client does."""
        from finetree import error_of_status
        from google.rpc import status_pb2

        self.prepare(method)
        kind, content = self._processes[method].ask(request.SerializeToString(deterministic=True))
        if kind == STATUS:
            raise error_of_status(status_pb2.Status.FromString(content))
        answer.ParseFromString(content)
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes.values():
            process.close()


def installed(service: str) -> bool:
    """Whether a service can run here."""
    return importlib.util.find_spec(f"finetree_{service}") is not None


class _Process:
    """One process for one rpc."""

    def __init__(self, service: str, method: str, flags: list[str], variables: Mapping[str, str]) -> None:
        # -P: a file of the folder that a pipeline happens to run in must never be imported in place of a library.
        command = [sys.executable, "-P", "-m", f"finetree_{service}", "--once", "--once-method", method]
        self._service = service
        self._said: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self._process = subprocess.Popen(
            [*command, "--once-format", "frames", *flags],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            env=os.environ | variables,
        )

    def ask(self, content: bytes) -> tuple[int, bytes]:
        """Kind and content of the answer."""
        source, sink = self._process.stdout, self._process.stdin
        assert source is not None  # noqa: S101 - both are pipes
        assert sink is not None  # noqa: S101
        try:
            sink.write(HEADER.pack(0, len(content)) + content)
            sink.flush()
            header = source.read(HEADER.size)
            kind, size = HEADER.unpack(header)
            answer = source.read(size)
        except (BrokenPipeError, struct.error):
            raise self._ended() from None
        if len(answer) < size:
            raise self._ended()
        return kind, answer

    def close(self) -> None:
        """End the process."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):  # it has ended before us, and what it said is known
                    stream.close()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._said.close()

    def _ended(self) -> CliError:
        """The process ended without an answer: a setting that it refuses, or a fault of ours."""
        code = self._process.wait()
        self._said.seek(0)
        lines = self._said.read().decode("utf-8", "replace").strip().splitlines()
        reason, _, text = (lines[-1] if lines else "").partition(": ")
        if code == BadInput.exit_code and reason.isupper():
            return BadInput(text, reason=reason)
        last = lines[-1] if lines else "it said nothing"
        return CliError(f"the local {self._service} ended with exit code {code}: {last}")
