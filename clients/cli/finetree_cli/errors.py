# SPDX-License-Identifier: Apache-2.0
"""Errors as exit codes and one clear line.

CliError
├── BadInput       2: a file, a flag or a value is wrong
├── GateFailed     3: a check failed
├── JobFailed      4: the job ended without success
├── NotAvailable   5: a service, a package or a revision is not available
└── StillRunning   6: timed out or detached; the job still runs
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
    from finetree.errors import Violation


class ExitCode(IntEnum):
    """Exit codes of every command. 1 is never used: a Python crash is 1 and must not look like a verdict."""

    OK = 0
    USAGE = 2
    GATE_FAILED = 3
    JOB_FAILED = 4
    NOT_AVAILABLE = 5
    STILL_RUNNING = 6
    INTERNAL = 70
    INTERRUPTED = 130


EXIT_CODES = (
    "Exit codes: 0 ok; 2 usage or bad input; 3 check failed; 4 job failed; 5 service or revision not available; "
    "6 timed out or detached, job still running; 70 internal error; 130 interrupted."
)
"""Last paragraph of every help text."""


@dataclass(frozen=True, slots=True)
class Position:
    """A position in a file."""

    file: str
    line: int
    """From 1."""
    column: int
    """From 1."""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True, slots=True)
class FileProblem:
    """A mistake in a file and its position."""

    position: Position
    field_path: str
    """Proto path of the value; empty for the file itself."""
    message: str

    def __str__(self) -> str:
        subject = f"{self.field_path}: " if self.field_path else ""
        return f"{self.position}: {subject}{self.message}"


class CliError(Exception):
    """An error that the user can act on."""

    exit_code: ClassVar[ExitCode] = ExitCode.INTERNAL

    def __init__(self, message: str, *, remedy: str = "", reason: str = "", reported: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy
        self.reason = reason
        self.reported = reported
        """Whether the command's own JSON object carries the error already."""


class BadInput(CliError):  # noqa: N818 - the tree above reads better without a suffix
    """A file, a flag or a value is wrong; `problems` are mistakes in a file."""

    exit_code = ExitCode.USAGE

    def __init__(
        self, message: str, *, remedy: str = "", reason: str = "INVALID_REQUEST", problems: Sequence[FileProblem] = ()
    ) -> None:
        super().__init__(message, remedy=remedy, reason=reason)
        self.problems = tuple(problems)


class GateFailed(CliError):  # noqa: N818 - as above
    """A check failed."""

    exit_code = ExitCode.GATE_FAILED


class JobFailed(CliError):  # noqa: N818 - as above
    """A job ended without success."""

    exit_code = ExitCode.JOB_FAILED


class NotAvailable(CliError):  # noqa: N818 - as above
    """A service, a package or a revision is not available."""

    exit_code = ExitCode.NOT_AVAILABLE


class StillRunning(CliError):  # noqa: N818 - as above
    """Timed out or detached; the job still runs."""

    exit_code = ExitCode.STILL_RUNNING


@dataclass(frozen=True, slots=True)
class Failure:
    """What is printed of an error: text for people and, with --json, one object."""

    exit_code: ExitCode
    message: str
    reason: str = ""
    remedy: str = ""
    details: tuple[str, ...] = ()
    """Further lines, one for each violation or position."""
    fields: dict[str, Any] = field(default_factory=dict)
    """Further fields of the JSON object."""
    reported: bool = False
    """Whether the command's own JSON object carries the error already."""

    def lines(self) -> list[str]:
        """Return the lines for stderr."""
        tag = f" [{self.reason}]" if self.reason else ""
        return [f"error: {self.message}{tag}", *(f"  {line}" for line in self.details), *self._remedy()]

    def document(self) -> dict[str, Any]:
        """Return the JSON object: {"error": {...}}."""
        known = {"exit_code": int(self.exit_code), "reason": self.reason, "message": self.message}
        return {"error": {**known, **({"remedy": self.remedy} if self.remedy else {}), **self.fields}}

    def _remedy(self) -> list[str]:
        return [f"  {self.remedy}"] if self.remedy else []


def of_cli_error(error: CliError) -> Failure:
    """Convert an error of the command line to what is printed."""
    problems = error.problems if isinstance(error, BadInput) else ()
    details = tuple(str(problem) for problem in problems)
    listed = [
        {
            "file": problem.position.file,
            "line": problem.position.line,
            "column": problem.position.column,
            "field": problem.field_path,
            "description": problem.message,
        }
        for problem in problems
    ]
    fields = {"problems": listed} if listed else {}
    remedy = error.remedy or column_flags(error.message)
    return Failure(error.exit_code, error.message, error.reason, remedy, details, fields, error.reported)


_MAPPING = re.compile(r"columns \{([^{}]+: [^{}]+)\}")
_COLUMN = re.compile(r'(\w+): (?:"((?:[^"\\]|\\.)*)"|([^,"]+))(?:, |$)')


def column_flags(message: str) -> str:
    """Convert the column mappings or formats that a message about rows suggests to flags; "" without any."""
    offers = ["--file-format csv", "--file-format text"] if "reading.file_format" in message else []
    for mapping in _MAPPING.findall(message):
        named = [
            (part, json.loads(f'"{quoted}"') if quoted else plain) for part, quoted, plain in _COLUMN.findall(mapping)
        ]
        if named and not any(name == "…" for _, name in named):
            offers.append(" ".join(f"--column {shlex.quote(f'{part}={name}')}" for part, name in named))
    return f"with `finetree data check`: {', or '.join(offers)}" if offers else ""


def of_service_error(error: "FinetreeError") -> Failure:
    """Convert an exception of the SDK to what is printed."""
    details = tuple(str(item) for item in error.violations if not _is_said(item, error.message))
    fields: dict[str, Any] = {"code": error.code}
    if error.violations:
        fields["problems"] = [{"field": item.field, "description": item.description} for item in error.violations]
    if error.request_id:
        fields["request_id"] = error.request_id
    if error.metadata:
        fields["metadata"] = dict(error.metadata)
    message = " ".join(error.message.split()) or error.code
    return Failure(_exit_code(error), message, error.reason or error.code, _remedy(error), details, fields)


def _is_said(violation: "Violation", message: str) -> bool:
    """Tell whether a message has a violation already; one of rows names them in words of its own."""
    of_rows = violation.field.partition("[")[0] == "rows"
    return str(violation) in message or (of_rows and violation.description.rstrip(".") in message)


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
"""Exit code by status code; any other status code is a mistake in the input (2)."""

_REASONS: dict[str, ExitCode] = {
    "REVISION_UNAVAILABLE": ExitCode.NOT_AVAILABLE,
    "NO_SUCH_DEVICE": ExitCode.NOT_AVAILABLE,
    "DATASET_TOO_LARGE": ExitCode.USAGE,
    "PLAN_DRIFT": ExitCode.GATE_FAILED,
    "SWEEP_TOO_EXPENSIVE": ExitCode.GATE_FAILED,
    "NOT_SERVED": ExitCode.GATE_FAILED,
    "PUSH_NOT_INSTALLED": ExitCode.NOT_AVAILABLE,
    "PUSH_FILE_UNREADABLE": ExitCode.NOT_AVAILABLE,
}
"""Exit code by reason, where the status code alone would mislead."""


def _exit_code(error: "FinetreeError") -> ExitCode:
    from finetree import errors

    if isinstance(error, errors.JobFailed):
        return ExitCode.JOB_FAILED
    if isinstance(error, errors.FinetreeTimeout) and not isinstance(error, errors.DeadlineExceeded):
        return ExitCode.STILL_RUNNING
    if error.reason == "PUSH_REFUSED" and not isinstance(error, errors.InvalidArgument):
        return ExitCode.NOT_AVAILABLE  # whatever the hub's reason is
    return _REASONS.get(error.reason, _CODES.get(error.code, ExitCode.USAGE))


_REMEDIES: dict[str, str] = {
    "UNAVAILABLE": "start the suite with `finetree up`, or give its address with --address",
    "DEADLINE_EXCEEDED": "the service does not answer in time; check that it runs, then try again",
    "UNAUTHENTICATED": "`finetree login` keeps a token; FINETREE_TOKEN gives one for a single call",
    "INTERNAL": "this is a bug in finetree; the service's log has details under the id above",
    "MODEL_NOT_FOUND": "`finetree models list --catalog` lists the known names; a hub id (org/name) works too",
    "ACCELERATOR_NOT_FOUND": "`finetree gpus` lists the known names",
    "DATASET_NOT_FOUND": "`finetree datasets list` lists the datasets",
    "MODEL_NOT_PREPARED": "`finetree models pull` fetches it, and so does `finetree train` without --check",
    "WORKER_LOST": "it is loaded again if it can be; `finetree jobs list --task serve` shows its state",
    "NOT_SERVING": "`finetree jobs list --task serve` lists the jobs that do",
    "LEASE_EXPIRED": "`finetree serve` begins another, with --lease for a longer one",
    "TARGET_NOT_LOADED": "`finetree targets load` loads it",
    "PATH_OUTSIDE_ROOTS": "a trainer reads paths under its roots alone: start it with "
    "FINETREE_TRAINER_MODEL_ROOTS=FOLDER (models and adapters) or FINETREE_TRAINER_DATA_ROOTS=FOLDER (data)",
    "RULE_PACK_NOT_FOUND": "`finetree packs list` lists the rule packs",
    "JOB_NOT_FOUND": "`finetree jobs list` lists the jobs",
    "LINKS_UNSUPPORTED": "`finetree jobs download JOB` gets the files without them",
    "FILE_NOT_IN_OBJECT_STORE": "`finetree jobs download JOB` gets the files without links, or try again in a moment",
    "PLAN_DRIFT": "`finetree train --check` shows the present plan",
    "PUSH_NOT_INSTALLED": "pip install 'finetree-cli[push]'",
    "PUSH_WOULD_PUBLISH": "add --public if everybody may read it, or name another repository",
    "REQUEST_ID_REUSED": "the request id belongs to another job; leave --request-id out",
}


_DATA_FINDINGS = ("UNREAD_COLUMNS", "LISTS_AS_TEXT", "TRANSCRIPTS_AS_TEXT")
"""Reasons for which training is refused unless they are accepted."""


_SAY_WHAT_TO_DO = ("ACCESS_UNAVAILABLE", "ISSUER_UNAVAILABLE", "PUSH_REFUSED", "SERVER_BROKEN")
"""Reasons whose messages need no remedy of the status code's."""


def finding_remedy(message: str, code: str) -> str:
    """Return what to do about a finding for which training is refused."""
    offers = column_flags(message)
    named = f"{offers}; in a job file they are dataset.reading.columns; " if offers else ""
    return f"{named}to go on as it is: --accept {code}"


def _remedy(error: "FinetreeError") -> str:
    if error.reason in _DATA_FINDINGS:
        return finding_remedy(error.message, error.reason)
    if error.reason == "PUSH_REFUSED" and error.code == "UNAUTHENTICATED":
        return "--token-env names the environment variable with the token"
    if " TLS" in error.message or error.reason in _SAY_WHAT_TO_DO:
        return ""  # the service is there, and the message says what to do
    known = _REMEDIES.get(error.reason) or _REMEDIES.get(error.code, "") or column_flags(error.message)
    # The service's own message names the command already.
    known = "" if known and known.split("`")[1:2] and known.split("`")[1] in error.message else known
    if error.code in ("INTERNAL", "UNKNOWN") and error.request_id:
        known = f"{known or _REMEDIES['INTERNAL']} (request {error.request_id})"
    return known
