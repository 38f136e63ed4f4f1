# SPDX-License-Identifier: Apache-2.0
"""A job's whole log in a file, as JSON lines: what `finetree jobs export-log` writes and `finetree.testing` replays.

The first line is the job, each other one an event, as `to_json` writes them: numbers are numbers, and jq reads it. A
message that its JSON does not hold to the last byte, such as one with fields of a newer contract, has them in base64
beside it, under "raw".
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from finetree_api.trainer.v1 import event_pb2, job_pb2
    from google.protobuf.message import Message

    from finetree.errors import InvalidArgument

    M = TypeVar("M", bound=Message)

FORMAT = "finetree-job-log/1"


@dataclass(frozen=True, slots=True)
class JobLog:
    """A recorded job: as it was when it was recorded, and its events in order."""

    job: job_pb2.Job
    events: tuple[event_pb2.JobEvent, ...]


def write_log(file: str | Path, job: job_pb2.Job, events: Iterable[event_pb2.JobEvent]) -> int:
    """Write a job and its events; returns the number of events.

    The file gets its name when it is complete.
    """
    path = Path(file)
    part = path.with_name(f"{path.name}.part")
    count = 0
    with part.open("w", encoding="utf-8", newline="\n") as stream:
        stream.write(_line({"format": FORMAT, "job": _document(job)}))
        for event in events:
            stream.write(_line({"event": _document(event)}))
            count += 1
    part.replace(path)
    return count


def read_log(file: str | Path) -> JobLog:
    """Read what `write_log` wrote.

    Raises:
        InvalidArgument: JOB_LOG_INVALID, with the line.
    """
    from finetree_api.trainer.v1 import event_pb2, job_pb2

    path = Path(file)
    events: list[event_pb2.JobEvent] = []
    job: job_pb2.Job | None = None
    with path.open(encoding="utf-8") as stream:
        for number, line in enumerate(stream, 1):
            where = f"{path.name}: line {number}"
            document = _parsed(line, where)
            if job is None:
                if document.get("format") != FORMAT:
                    raise _invalid(f'{where}: expected {{"format": "{FORMAT}", "job": …}}')
                job = _message(document.get("job"), job_pb2.Job, where)
            else:
                events.append(_message(document.get("event"), event_pb2.JobEvent, where))
    if job is None:
        raise _invalid(f"{path.name}: the file is empty")
    for before, event in pairwise(events):
        if event.seq != before.seq + 1:
            raise _invalid(f"{path.name}: event {before.seq} is followed by {event.seq}: events are missing")
    return JobLog(job, tuple(events))


def _line(document: dict[str, Any]) -> str:
    return f"{json.dumps(document, ensure_ascii=False, separators=(',', ':'))}\n"


def _document(message: Message) -> dict[str, Any]:
    from finetree.json import to_json

    document = to_json(message)
    if not _holds(document, message):
        document["raw"] = base64.b64encode(message.SerializeToString(deterministic=True)).decode("ascii")
    return document


def _holds(document: dict[str, Any], message: Message) -> bool:
    from google.protobuf import json_format

    try:
        again = json_format.ParseDict(document, type(message)())
    except json_format.ParseError:
        return False
    return again.SerializeToString(deterministic=True) == message.SerializeToString(deterministic=True)


def _parsed(line: str, where: str) -> dict[str, Any]:
    try:
        document = json.loads(line)
    except ValueError:
        raise _invalid(f"{where}: is not JSON; was the file cut?") from None
    if not isinstance(document, dict):
        raise _invalid(f"{where}: must be a JSON object")
    return document


def _message(document: Any, kind: type[M], where: str) -> M:
    from google.protobuf import json_format
    from google.protobuf.message import DecodeError
    from google.rpc import error_details_pb2  # noqa: F401 - registers the details that errors carry

    try:
        if isinstance(document, dict) and "raw" in document:
            return kind.FromString(base64.b64decode(document["raw"], validate=True))
        return json_format.ParseDict(document, kind())
    except (json_format.ParseError, DecodeError, ValueError, AttributeError, TypeError) as error:
        raise _invalid(f"{where}: {' '.join(str(error).split())[:200]}") from None


def _invalid(text: str) -> InvalidArgument:
    from finetree.errors import InvalidArgument

    return InvalidArgument(text, reason="JOB_LOG_INVALID")
