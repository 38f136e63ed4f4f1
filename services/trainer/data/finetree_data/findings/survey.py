# SPDX-License-Identifier: Apache-2.0
"""Counts, over all rows of a file, what is not read of them and what is read as something that it may not be."""

from collections import Counter
from typing import Any

from finetree_data.columns.mapping import Mapping, columns_of, present_parts, quoted_mapping
from finetree_data.columns.resolve import with_later_columns
from finetree_data.columns.sections import form_of
from finetree_data.columns.speakers import speakers_of
from finetree_data.errors import encodable
from finetree_data.findings.finding import (
    LISTS_AS_TEXT,
    RATED_ANSWERS,
    TOOL_RESULTS_WITHOUT_CALLS,
    TRANSCRIPTS_AS_TEXT,
    UNREAD_COLUMNS,
    Finding,
    Severity,
    UnreadColumn,
)
from finetree_data.findings.mappings import mappings_for
from finetree_data.findings.unread import DISTINCT, Beside, UnreadValues
from finetree_data.options import FileFormat, RowFormat
from finetree_data.rows.row import Message, Row

COLUMNS = 512
"""Columns that are counted; a file with more has names for values."""
LISTED = 64
"""Columns of a finding that are listed."""
MOSTLY = 0.5
"""Share of the rows that a doubt about what is read must be true of."""
TRANSCRIPT_HEAD = 1_000
"""Characters of a plain text in which speakers are looked for."""

_CONVERSATIONS = "conversations"
_RATINGS = (
    *("rating", "score", "reward", "stars", "quality", "helpfulness", "vote", "votes", "upvotes", "feedback"),
    *("safe", "unsafe", "harmful", "toxic", "bad", "correctness"),
)
_CALLS = ("<tool_call", "<function", "functioncall", '"name"', "Action:", "```")
"""What a call of a tool looks like in the text of an answer."""


class Survey:
    """What was seen of the rows that were read so far: `mapping` reads them, `names` are all their columns."""

    def __init__(self, mapping: Mapping) -> None:
        self.mapping = mapping
        self.names: set[str] = set()
        self._read = columns_of(mapping)
        self._texts = tuple(path for path in mapping.main if "turns" not in mapping.parts)
        self._unread: dict[str, UnreadValues] = {}
        self._lists = dict.fromkeys(self._texts, 0)
        self.rows = 0
        self._prompts: set[int] = set()
        self._answers: set[int] = set()
        self._answer = mapping.parts.get("completion", "")
        self._transcripts: Counter[str] = Counter()
        self._results_alone = self._answered = 0

    def meet(self, value: dict[str, Any]) -> None:
        """Take up the columns of a row that none before it had: `mapping` may read some of them."""
        new = value.keys() - self.names
        if self.names:
            self.mapping = with_later_columns(self.mapping, new, self.names)
            self._read = columns_of(self.mapping)
        self.names |= new

    def add(self, value: dict[str, Any], row: Row, verdict: str = "") -> None:
        """Count a row and the object that it was made of, of which the column `verdict` is read too."""
        self.rows += 1
        for path in self._texts:
            text = value.get(path)
            if isinstance(text, str) and text[:1] == "[" and text[1:2] in ("'", '"') and text.rstrip()[-1:] == "]":
                self._lists[path] += 1
        if not row.messages:
            self._count_text(row.text)
        elif len(row.messages) > 1 and _has_result_alone(row.messages):
            self._results_alone += 1
        if self._answer:
            self._answered += len(row.messages[-1].content)
            if len(self._prompts) < DISTINCT and len(row.messages) > 1:
                self._prompts.add(hash(row.messages[-2].content))
                if len(self._answers) < DISTINCT:
                    self._answers.add(hash(row.messages[-1].content))
        if not value.keys() <= self._read:
            self._count_unread(value, row, verdict)

    def _count_text(self, text: str) -> None:
        if len(set(speakers_of(text[:TRANSCRIPT_HEAD]))) > 1:
            self._transcripts[_CONVERSATIONS] += 1
        elif form := form_of(text):
            self._transcripts[form] += 1

    def _count_unread(self, value: dict[str, Any], row: Row, verdict: str) -> None:
        texts = [text for path in self._texts if isinstance(text := value.get(path), str)]
        texts = texts or [message.content for message in row.messages]
        for name, item in value.items():
            if name in self._read or name == verdict:
                continue
            counted = self._unread.get(name)
            if counted is None:
                if len(self._unread) == COLUMNS:
                    continue
                counted = self._unread[name] = UnreadValues(name, late=self.rows > 1)
            counted.add(item, texts)

    def unread(self) -> list[str]:
        """Return the names of the columns that are not read, in the order of the file."""
        return list(self._unread)

    def findings(self, file_format: FileFormat | None) -> tuple[Finding, ...]:
        """Return what was found, the gravest first."""
        if not self.rows:
            return ()
        found = [
            self._unread_columns(),
            self._lists_as_text(),
            self._transcripts_as_text(file_format),
            self._results(),
            self._ratings(),
        ]
        return tuple(sorted((one for one in found if one is not None), key=lambda one: -one.severity))

    def _unread_columns(self) -> Finding | None:
        counted = [(self._summary(values), values) for values in self._unread.values() if values.rows]
        counted.sort(key=lambda one: (-one[0].severity, -one[0].rows))
        columns = [column for column, _ in counted[:LISTED]]
        if not columns:
            return None
        grave = [column for column in columns if column.severity > Severity.NOTE]
        severity = columns[0].severity
        texts = {
            column.name: values.listed or values.late or values.rows < self.rows
            for column, values in counted[:LISTED]
            if column.severity is Severity.ERROR and column.name == values.name and not values.nested
        }
        mappings = mappings_for(self.mapping, present_parts(self.mapping, self.names), texts)
        if severity is Severity.NOTE:
            message = f"Left out: {_names(columns)}."
        else:
            what = "; ".join(map(_described, grave[:4]))
            more = f"; and {len(grave) - 4} more" if len(grave) > 4 else ""
            message = f"Left out: {what}{more}.{_to_do(mappings)}"
        return Finding(
            UNREAD_COLUMNS,
            severity,
            message,
            rows=max(column.rows for column in grave or columns),
            columns=tuple(columns),
            mappings=mappings,
        )

    def _summary(self, values: UnreadValues) -> UnreadColumn:
        prompts = len(self._prompts)
        together = prompts < DISTINCT and prompts * 4 <= self.rows and len(self._answers) > prompts
        return values.summary(
            Beside(
                rows=self.rows,
                answers=self._answered / self.rows,
                whole=self.mapping.row_format in (RowFormat.TEXT, RowFormat.CHAT, RowFormat.SHAREGPT),
                prompts=prompts if together else 0,
            )
        )

    def _lists_as_text(self) -> Finding | None:
        path = max(self._lists, key=lambda path: self._lists[path], default="")
        count = self._lists.get(path, 0)
        if not count or count < MOSTLY * self.rows:
            return None
        named = {part: column for part, column in self.mapping.parts.items() if part in ("prompt", "completion")}
        mapping = {part: f"{column}.0" if column == path else column for part, column in named.items()}
        message = (
            f'"{path[:60]}" is a list written as text in {count} of {self.rows} rows.'
            f"{_to_do((mapping,) if mapping else ())}"
        )
        mappings = (mapping,) if mapping else ()
        return Finding(LISTS_AS_TEXT, Severity.ERROR, message, rows=count, mappings=mappings)

    def _transcripts_as_text(self, file_format: FileFormat | None) -> Finding | None:
        count = self._transcripts.total()
        if self.mapping.row_format is not RowFormat.TEXT or not count or count < MOSTLY * self.rows:
            return None
        kind = self._transcripts.most_common(1)[0][0]
        what = (
            "are conversations: what every speaker says is learned"
            if kind == _CONVERSATIONS
            else f'are questions and answers, "{kind}": the questions are learned too'
        )
        mapping = {"messages": self.mapping.parts["text"]}
        lines = file_format is FileFormat.TEXT
        message = f"{count} of {self.rows} texts {what}.{'' if lines else _to_do((mapping,))}"
        return Finding(
            TRANSCRIPTS_AS_TEXT,
            Severity.WARNING if lines else Severity.ERROR,
            message,
            rows=count,
            mappings=() if lines else (mapping,),
        )

    def _results(self) -> Finding | None:
        if not self._results_alone:
            return None
        text = f"{self._results_alone} of {self.rows} rows have the result of a tool that no call before it asked for."
        return Finding(TOOL_RESULTS_WITHOUT_CALLS, Severity.WARNING, text, rows=self._results_alone)

    def _ratings(self) -> Finding | None:
        if self.mapping.row_format is RowFormat.TEXT:
            return None
        for values in self._unread.values():
            last = values.name.lower().replace("-", "_").rpartition("_")[2]
            if last in _RATINGS and values.numbers == values.rows > 1 and values.lowest < values.highest:
                text = f'"{encodable(values.name[:60])}" rates the answers from {values.lowest:g} to {values.highest:g}'
                return Finding(
                    RATED_ANSWERS,
                    Severity.WARNING,
                    f"{text}: all are learned, whatever their rating. Drop the bad ones.",
                    rows=values.rows,
                )
        return None


def _has_result_alone(messages: tuple[Message, ...]) -> bool:
    answer: Message | None = None
    for message in messages:
        if message.role == "assistant":
            answer = message
        elif message.role != "tool":
            answer = None
        elif answer is None or not _may_call(answer):
            return True
    return False


def _may_call(answer: Message) -> bool:
    return bool(answer.tool_calls) or any(mark in answer.content for mark in _CALLS)


def _described(column: UnreadColumn) -> str:
    return f'{column.kind} in "{column.name[:60]}" ({column.share:.0%} of the rows)'


def _names(columns: list[UnreadColumn]) -> str:
    return ", ".join(column.name[:60] for column in columns[:12]) + ", …" * (len(columns) > 12)


def _to_do(mappings: tuple[dict[str, str], ...]) -> str:
    if not mappings:
        return " Put it into the columns that are read, or accept this."
    offers = ", or ".join(f"columns {quoted_mapping(mapping)}" for mapping in mappings)
    return f" Map {offers}, or accept this."
