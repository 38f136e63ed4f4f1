# SPDX-License-Identifier: Apache-2.0
"""What goes wrong, as exit codes and one clear line.

CliError
├── BadInput       2: a file, a flag or a value is wrong
├── GateFailed     3: a check said no
├── JobFailed      4: the job ended without success
├── NotAvailable   5: a service or a revision is not to be had
└── StillRunning   6: the time is up, the job goes on
"""

import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from finetree import FinetreeError

    from finetree_cli.jobfile.yaml_reader import FileProblem


class ExitCode(IntEnum):
    """What the command's exit code says. 1 is never used: a Python crash is 1 and must not look like a verdict."""

    OK = 0
    USAGE = 2
    GATE_FAILED = 3
    JOB_FAILED = 4
    NOT_AVAILABLE = 5
    STILL_RUNNING = 6
    INTERNAL = 70
    INTERRUPTED = 130


EXIT_CODES = (
    "Exit codes: 0 ok; 2 usage or bad input; 3 gate failed; 4 job failed; 5 service or revision not to be had; "
    "6 timed out or detached, job still running; 70 our fault; 130 interrupted."
)
"""Shown at the end of every help."""


class CliError(Exception):
    """An error that the user can act on."""

    exit_code: ClassVar[ExitCode] = ExitCode.INTERNAL

    def __init__(self, message: str, *, remedy: str = "", reason: str = "", told: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy
        self.reason = reason
        self.told = told
        """Whether the command's own JSON object carries the error already."""


class BadInput(CliError):  # noqa: N818 - the tree above reads better without a suffix
    """A file, a flag or a value is wrong; `problems` name places in a file."""

    exit_code = ExitCode.USAGE

    def __init__(
        self, message: str, *, remedy: str = "", reason: str = "INVALID_REQUEST", problems: Sequence["FileProblem"] = ()
    ) -> None:
        super().__init__(message, remedy=remedy, reason=reason)
        self.problems = tuple(problems)


class GateFailed(CliError):  # noqa: N818 - as above
    """A check said no."""

    exit_code = ExitCode.GATE_FAILED


class JobFailed(CliError):  # noqa: N818 - as above
    """A job ended without success."""

    exit_code = ExitCode.JOB_FAILED


class NotAvailable(CliError):  # noqa: N818 - as above
    """A service or a revision is not to be had."""

    exit_code = ExitCode.NOT_AVAILABLE


class StillRunning(CliError):  # noqa: N818 - as above
    """The time is up or the user has left; the job goes on."""

    exit_code = ExitCode.STILL_RUNNING


@dataclass(frozen=True, slots=True)
class Failure:
    """An error as it is shown: text for people and, with --json, one object."""

    exit_code: ExitCode
    message: str
    reason: str = ""
    remedy: str = ""
    details: tuple[str, ...] = ()
    """Further lines, one a violation or a place."""
    fields: dict[str, Any] = field(default_factory=dict)
    """What the JSON object carries besides."""
    told: bool = False
    """Whether the command's own JSON object carries it already."""

    def lines(self) -> list[str]:
        """Lines for stderr."""
        tag = f" [{self.reason}]" if self.reason else ""
        return [f"error: {self.message}{tag}", *(f"  {line}" for line in self.details), *self._remedy()]

    def document(self) -> dict[str, Any]:
        """The JSON object: {"error": {...}}."""
        known = {"exit_code": int(self.exit_code), "reason": self.reason, "message": self.message}
        return {"error": {**known, **({"remedy": self.remedy} if self.remedy else {}), **self.fields}}

    def _remedy(self) -> list[str]:
        return [f"  {self.remedy}"] if self.remedy else []


def of_cli_error(error: CliError) -> Failure:
    """A CLI error as it is shown."""
    problems = error.problems if isinstance(error, BadInput) else ()
    details = tuple(str(problem) for problem in problems)
    listed = [
        {
            "file": problem.place.file,
            "line": problem.place.line,
            "column": problem.place.column,
            "field": problem.field_path,
            "description": problem.message,
        }
        for problem in problems
    ]
    fields = {"problems": listed} if listed else {}
    remedy = error.remedy or column_flags(error.message)
    return Failure(error.exit_code, error.message, error.reason, remedy, details, fields, error.told)


_MAPPING = re.compile(r"columns \{([^{}]+: [^{}]+)\}")
_COLUMN = re.compile(r'(\w+): (?:"((?:[^"\\]|\\.)*)"|([^,"]+))(?:, |$)')


def column_flags(message: str) -> str:
    """What a message about rows offers, as flags: mappings, or to say the format; "" where it offers neither."""
    offers = ["--file-format csv", "--file-format text"] if "reading.file_format" in message else []
    for mapping in _MAPPING.findall(message):
        named = [
            (part, json.loads(f'"{quoted}"') if quoted else plain) for part, quoted, plain in _COLUMN.findall(mapping)
        ]
        if named and not any(name == "…" for _, name in named):
            offers.append(" ".join(f"--column {shlex.quote(f'{part}={name}')}" for part, name in named))
    return f"with `finetree data check`: {', or '.join(offers)}" if offers else ""


def of_service_error(error: "FinetreeError") -> Failure:
    """An SDK exception as it is shown."""
    details = tuple(str(item) for item in error.violations if str(item) not in error.message)
    fields: dict[str, Any] = {"code": error.code}
    if error.violations:
        fields["problems"] = [{"field": item.field, "description": item.description} for item in error.violations]
    if error.request_id:
        fields["request_id"] = error.request_id
    if error.metadata:
        fields["metadata"] = dict(error.metadata)
    message = " ".join(error.message.split()) or error.code
    return Failure(_exit_code(error), message, error.reason or error.code, _remedy(error), details, fields)


_CODES: dict[str, ExitCode] = {
    "UNAVAILABLE": ExitCode.NOT_AVAILABLE,
    "DEADLINE_EXCEEDED": ExitCode.NOT_AVAILABLE,
    "UNIMPLEMENTED": ExitCode.NOT_AVAILABLE,
    "UNAUTHENTICATED": ExitCode.NOT_AVAILABLE,
    "RESOURCE_EXHAUSTED": ExitCode.NOT_AVAILABLE,
    "ABORTED": ExitCode.NOT_AVAILABLE,
    "CANCELLED": ExitCode.NOT_AVAILABLE,
    "INTERNAL": ExitCode.INTERNAL,
    "UNKNOWN": ExitCode.INTERNAL,
    "DATA_LOSS": ExitCode.INTERNAL,
}
"""Exit code of a status code; every other one is the caller's to mend."""

_REASONS: dict[str, ExitCode] = {
    "REVISION_UNAVAILABLE": ExitCode.NOT_AVAILABLE,
    "NO_SUCH_DEVICE": ExitCode.NOT_AVAILABLE,
    "DATASET_TOO_LARGE": ExitCode.USAGE,
    "PLAN_DRIFT": ExitCode.GATE_FAILED,
}
"""Exit code of a reason, where the status code alone would mislead."""


def _exit_code(error: "FinetreeError") -> ExitCode:
    from finetree import errors

    if isinstance(error, errors.JobFailed):
        return ExitCode.JOB_FAILED
    if isinstance(error, errors.FinetreeTimeout) and not isinstance(error, errors.DeadlineExceeded):
        return ExitCode.STILL_RUNNING
    return _REASONS.get(error.reason, _CODES.get(error.code, ExitCode.USAGE))


_REMEDIES: dict[str, str] = {
    "UNAVAILABLE": "start the suite with `finetree up`, or give its address with --address",
    "DEADLINE_EXCEEDED": "the service is too slow or does not answer; see whether it runs, then try again",
    "UNAUTHENTICATED": "set FINETREE_TOKEN to a valid token",
    "INTERNAL": "this is our fault: the service's log says more under the id above",
    "MODEL_NOT_FOUND": "`finetree models list --catalogue` lists names; a hub id (org/name) does as well",
    "ACCELERATOR_NOT_FOUND": "`finetree gpus` lists what there is",
    "DATASET_NOT_FOUND": "`finetree datasets list` lists what there is",
    "MODEL_NOT_PREPARED": "`finetree models pull` fetches it, and so does `finetree train` without --check",
    "JOB_NOT_FOUND": "`finetree jobs list` lists what there is",
    "REQUEST_ID_REUSED": "the request id belongs to another job; leave --request-id out",
}


def _remedy(error: "FinetreeError") -> str:
    known = _REMEDIES.get(error.reason) or _REMEDIES.get(error.code, "") or column_flags(error.message)
    # A service that already names the way out must not be answered by a second one.
    known = "" if known and known.split("`")[1:2] and known.split("`")[1] in error.message else known
    if error.code in ("INTERNAL", "UNKNOWN") and error.request_id:
        known = f"{known or _REMEDIES['INTERNAL']} (request {error.request_id})"
    return known
