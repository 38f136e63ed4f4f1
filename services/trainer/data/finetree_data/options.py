# SPDX-License-Identifier: Apache-2.0
"""How a file is to be read, as far as it is stated; the rest is detected in the content."""

from dataclasses import dataclass, field, fields
from enum import StrEnum


class FileFormat(StrEnum):
    """Container or text format of a file."""

    JSONL = "jsonl"
    JSON = "json"
    CSV = "csv"
    TSV = "tsv"
    PARQUET = "parquet"
    TEXT = "text"


class RowFormat(StrEnum):
    """What a row holds."""

    CHAT = "chat"
    PROMPT_COMPLETION = "prompt_completion"
    INSTRUCTION = "instruction"
    SHAREGPT = "sharegpt"
    TEXT = "text"


@dataclass(frozen=True, slots=True)
class Columns:
    """Names of a file's columns by what they hold; empty ones are looked for under the usual names.

    A name may lead into nested objects and lists: "answers.text.0".
    """

    messages: str = ""
    prompt: str = ""
    completion: str = ""
    instruction: str = ""
    input: str = ""
    output: str = ""
    conversations: str = ""
    text: str = ""
    system: str = ""
    tools: str = ""
    verdict: str = ""
    choices: str = ""

    def given(self) -> dict[str, str]:
        """Return the columns that are named, by what they hold."""
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name)}


@dataclass(frozen=True, slots=True)
class Reading:
    """How a file is to be read, and what it is called in errors.

    `skip_bad_rows` skips wrong rows, at most `skip_limit` of them (None: any number). `refuse_empty` refuses the
    file also for the few rows without an answer or a question that are otherwise skipped. `name` may tell the format
    by its suffix, where the path of the file does not. `accepted_findings` are codes of findings that may stand,
    `ignored_columns` may be left out: they change nothing of the rows, but that an ignored column is no verdict.
    """

    name: str = ""
    file_format: FileFormat | None = None
    row_format: RowFormat | None = None
    columns: Columns = field(default_factory=Columns)
    skip_bad_rows: bool = False
    skip_limit: int | None = None
    refuse_empty: bool = False
    accepted_findings: tuple[str, ...] = ()
    ignored_columns: tuple[str, ...] = ()
