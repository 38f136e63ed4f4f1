# SPDX-License-Identifier: Apache-2.0
"""`finetree estimate --requests`: a file with one EstimateRunRequest as JSON on each line.

Each line is answered by one line, in order: {"estimate": …} or {"error": {"code", "reason", "message", "line"}}. A line
that fails does not affect the others. Answers are written while later lines are still unread, so that a file may be of
any length.
"""

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from finetree_cli.errors import BadInput, GateFailed

if TYPE_CHECKING:
    from finetree import FinetreeError
    from finetree_api.estimator.v1 import estimate_pb2

    from finetree_cli.backends.estimator import Estimator
    from finetree_cli.output import Output

CHUNK_ROWS = 100
"""Number of requests in one call."""
CHUNK_BYTES = 1 << 19
"""Bytes of lines in one call: half of the estimator's limit."""
MAX_LINE_BYTES = 1 << 20
"""Longest line in bytes; real requests have about 2 kB."""
STDIN = "-"


@dataclass(slots=True)
class _Chunk:
    """Lines that are answered in one call: line number and request, or the line's own error."""

    lines: "list[tuple[int, estimate_pb2.EstimateRunRequest | FinetreeError]]" = field(default_factory=list)
    size: int = 0

    @property
    def full(self) -> bool:
        return len(self.lines) >= CHUNK_ROWS or self.size >= CHUNK_BYTES


def answer_lines(name: str, estimator: "Estimator", out: "Output", *, strict: bool) -> None:
    """Answer every line of a file, or of the standard input for "-".

    Raises:
        BadInput: The file cannot be read.
        GateFailed: With `strict`, a line has failed; all lines are answered first.
    """
    failed = total = 0
    with _opened(name) as stream, _progress(name, out) as advance:
        for chunk in _chunks(stream, advance):
            for document in _answers(chunk, estimator):
                total += 1
                failed += "error" in document
                out.line(document)
    if failed:
        out.say(f"{failed} of {total} lines failed")
    if failed and strict:
        raise GateFailed(f"{failed} of {total} lines failed", reason="LINES_FAILED", reported=True)


def _chunks(stream: BinaryIO, advance: Callable[[int], None]) -> Iterator[_Chunk]:
    chunk, done, number = _Chunk(), 0, 0
    while line := stream.readline(MAX_LINE_BYTES + 1):
        number += 1
        done += len(line)
        if len(line) > MAX_LINE_BYTES:
            done += _skip_line(stream)
        if line.strip():
            chunk.lines.append((number, _request(line)))
            chunk.size += len(line)
        if chunk.full:
            advance(done)
            yield chunk
            chunk = _Chunk()
    if chunk.lines:
        yield chunk


def _skip_line(stream: BinaryIO) -> int:
    """Read to the end of a line that is too long and return the number of bytes."""
    skipped = 0
    while part := stream.readline(MAX_LINE_BYTES):
        skipped += len(part)
        if part.endswith(b"\n"):
            break
    return skipped


def _request(line: bytes) -> "estimate_pb2.EstimateRunRequest | FinetreeError":
    from finetree import FinetreeError, InvalidSpec
    from finetree.spec import message_from_dict
    from finetree_api.estimator.v1 import estimate_pb2

    if len(line) > MAX_LINE_BYTES:
        return InvalidSpec(f"the line is longer than {MAX_LINE_BYTES} bytes")
    try:
        return message_from_dict(estimate_pb2.EstimateRunRequest, json.loads(line, object_pairs_hook=_once_each))
    except FinetreeError as error:
        return error
    except RecursionError:
        return InvalidSpec("the line is nested too deeply")
    except UnicodeDecodeError:
        return InvalidSpec("not JSON: the line is not UTF-8 text")
    except ValueError as error:
        return InvalidSpec(f"not JSON: {error}")


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build an object and refuse a repeated key, as job files do. Raises InvalidSpec."""
    from finetree import InvalidSpec

    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise InvalidSpec(f"{twice[:64]!r} is given twice in one object; keep one of them")
    return found


def _answers(chunk: _Chunk, estimator: "Estimator") -> Iterator[dict[str, Any]]:
    from finetree import FinetreeError
    from finetree_api.estimator.v1 import estimator_pb2

    from finetree_cli.output import as_dict

    rows = {str(number): item for number, item in chunk.lines if not isinstance(item, FinetreeError)}
    answers = estimator.estimate_batch(rows) if rows else {}
    position = {key: index for index, key in enumerate(rows)}
    for number, item in chunk.lines:
        found = item if isinstance(item, FinetreeError) else answers[str(number)]
        if isinstance(found, FinetreeError):
            yield {"error": _error(found, number, f"rows[{position.get(str(number), 0)}].request.")}
        else:
            yield as_dict(estimator_pb2.EstimateRunResponse(estimate=found))


def _error(error: "FinetreeError", line: int, prefix: str) -> dict[str, Any]:
    """Convert an error of a batch row to the line's own: the user knows nothing of batches."""
    violations = [replace(item, field=item.field.removeprefix(prefix)) for item in error.violations]
    document: dict[str, Any] = {
        "code": error.code,
        "reason": error.reason,
        "message": error.message.removeprefix(prefix),
        "line": line,
    }
    if violations:
        document["problems"] = [{"field": item.field, "description": item.description} for item in violations]
    return document


@contextlib.contextmanager
def _opened(name: str) -> Iterator[BinaryIO]:
    if name == STDIN:
        yield sys.stdin.buffer
        return
    try:
        stream = Path(name).open("rb")  # noqa: SIM115 - closed below
    except OSError as error:
        raise BadInput(f"{name}: {error.strerror}", reason="REQUESTS_UNREADABLE") from error
    with stream:
        yield stream


@contextlib.contextmanager
def _progress(name: str, out: "Output") -> Iterator[Callable[[int], None]]:
    """Show a progress bar on a terminal, by bytes of the file; the length of the standard input is not known."""
    from finetree_cli.render.transfer import transfer

    size = 0 if name == STDIN else os.stat(name).st_size  # noqa: PTH116 - of the open file's name
    with transfer(out, f"estimating {name}") as shown:
        yield (lambda done: shown(done, size)) if shown is not None and size else (lambda _: None)
