# SPDX-License-Identifier: Apache-2.0
"""The rows of a file of this machine, read by the installed reader in a child process: no server, no tokenizer."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from finetree_cli.backends.local_process import STOP_SECONDS
from finetree_cli.errors import BadInput, CliError, column_flags

if TYPE_CHECKING:
    from finetree_api.trainer.v1 import dataset_pb2, event_pb2, job_pb2


@dataclass(frozen=True, slots=True)
class ReadFile:
    """What was found in a file: the report on all its rows, and the first of them with turns by role."""

    report: "event_pb2.DatasetReport"
    rows: "list[dataset_pb2.PreviewRow]"


def read_files(task: "job_pb2.PrepareTask") -> "Generator[event_pb2.PhaseProgress | ReadFile]":
    """Read the files that a task names by path, all their rows, and yield progress and what was found in each.

    The child process ends when the iterator is closed, at once and wherever it is.

    Raises:
        BadInput: A file is refused, with the reader's reason.
    """
    from google.protobuf import json_format

    # -P: a module in the current folder must not be imported in place of a library.
    with (
        tempfile.TemporaryFile() as stderr,
        subprocess.Popen(
            [sys.executable, "-P", "-m", "finetree_data"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr
        ) as process,
    ):
        assert process.stdin is not None and process.stdout is not None  # noqa: S101, PT018 - they are pipes
        try:
            process.stdin.write(json_format.MessageToJson(task, indent=None).encode())
            process.stdin.close()
            for line in process.stdout:
                yield _parsed(json.loads(line))
            code = process.wait()
        finally:
            _stop(process)
        if code:
            stderr.seek(0)
            last = stderr.read().decode("utf-8", "replace").strip().rpartition("\n")[2] or "no message"
            raise CliError(f"the reader of training files ended with exit code {code}: {last}")


def _parsed(line: dict[str, Any]) -> "event_pb2.PhaseProgress | ReadFile":
    from finetree_api.trainer.v1 import dataset_pb2, event_pb2
    from google.protobuf import json_format

    if "error" in line:
        found = line["error"]
        raise BadInput(
            found["message"], remedy=column_flags(found["message"]) or found["remedy"], reason=found["reason"]
        )
    if "progress" in line:
        return json_format.ParseDict(line["progress"], event_pb2.PhaseProgress())
    rows = [json_format.ParseDict(row, dataset_pb2.PreviewRow()) for row in line["rows"]]
    return ReadFile(json_format.ParseDict(line["report"], event_pb2.DatasetReport()), rows)


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
