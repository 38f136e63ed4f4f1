# SPDX-License-Identifier: Apache-2.0
"""Findings about the rows of a file, and which of them stop training."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any, Self

from finetree_data.options import Reading

UNREAD_COLUMNS = "UNREAD_COLUMNS"
LISTS_AS_TEXT = "LISTS_AS_TEXT"
TRANSCRIPTS_AS_TEXT = "TRANSCRIPTS_AS_TEXT"
TOOL_RESULTS_WITHOUT_CALLS = "TOOL_RESULTS_WITHOUT_CALLS"
RATED_ANSWERS = "RATED_ANSWERS"


class Severity(IntEnum):
    """What a finding means: a note, probably wrong, or training is refused unless it is accepted."""

    NOTE = 1
    WARNING = 2
    ERROR = 3


@dataclass(frozen=True, slots=True)
class UnreadColumn:
    """A column of which nothing is read, over all rows; lengths are in characters, `share` is of the rows, 0 to 1."""

    name: str
    severity: Severity
    kind: str
    rows: int
    share: float
    mean: int
    longest: int
    example: str


@dataclass(frozen=True, slots=True)
class Finding:
    """Something about `rows` rows of a file; `mappings` would read them in another way, parts by column name."""

    code: str
    severity: Severity
    message: str
    rows: int = 0
    columns: tuple[UnreadColumn, ...] = ()
    mappings: tuple[dict[str, str], ...] = ()
    accepted: bool = False

    @property
    def stops(self) -> bool:
        """Whether a job that trains is refused for it."""
        return self.severity is Severity.ERROR and not self.accepted

    @classmethod
    def from_json(cls, kept: dict[str, Any]) -> Self:
        """Build a finding from the JSON of its fields."""
        columns = tuple(UnreadColumn(**{**c, "severity": Severity(c["severity"])}) for c in kept["columns"])
        rest = {"severity": Severity(kept["severity"]), "columns": columns, "mappings": tuple(kept["mappings"])}
        return cls(**{**kept, **rest})


def settled(findings: Iterable[Finding], reading: Reading) -> tuple[Finding, ...]:
    """Return the findings as a reading leaves them: columns that it ignores are notes, codes that it accepts stand."""
    return tuple(_settle(finding, reading) for finding in findings)


def _settle(finding: Finding, reading: Reading) -> Finding:
    accepted = finding.code in reading.accepted_findings
    ignored = set(reading.ignored_columns)
    if not any(column.name in ignored for column in finding.columns):
        return replace(finding, accepted=accepted)
    columns = sorted(
        (replace(c, severity=Severity.NOTE) if c.name in ignored else c for c in finding.columns),
        key=lambda column: -column.severity,
    )
    return replace(finding, columns=tuple(columns), severity=columns[0].severity, accepted=accepted)
