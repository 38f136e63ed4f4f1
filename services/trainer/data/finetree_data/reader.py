# SPDX-License-Identifier: Apache-2.0
"""Reads the rows of a file one by one; its format and columns are detected on the way."""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from finetree_data.bad_rows import BadRow, BadRowPolicy, bad_row
from finetree_data.columns.detection import detect_row_format
from finetree_data.columns.mapping import columns_remark
from finetree_data.columns.resolve import OPTIONAL, find_mapping, present, require_column
from finetree_data.errors import DatasetError, MarkedRowError, RowError
from finetree_data.files import csv, json_document, json_lines, prose
from finetree_data.files.content import HEAD_BYTES, PARQUET, Content, open_content, require_text_file
from finetree_data.files.json_lines import Record
from finetree_data.files.parquet_footer import read_footer
from finetree_data.findings.finding import Finding
from finetree_data.findings.survey import Survey
from finetree_data.options import FileFormat, Reading, RowFormat
from finetree_data.remarks import Remark
from finetree_data.rows.convert import remarks_on, to_row
from finetree_data.rows.nested import Nesting, detect_nesting
from finetree_data.rows.row import Row
from finetree_data.rows.verdicts import Verdicts

ParquetReader = Callable[[Path], Iterable[Record]]
"""Reads the rows of a Parquet file; given by the worker, which alone has a library for it."""


@dataclass(slots=True)
class RowFile:
    """A file that is being read; what was detected is known from the first row on."""

    path: Path
    reading: Reading = field(default_factory=Reading)
    parquet: ParquetReader | None = None
    file_format: FileFormat | None = None
    compression: str = ""
    content: Content | None = None
    paragraphs: bool = False
    bad_rows: BadRowPolicy = field(init=False)
    _survey: Survey | None = None
    _verdicts: Verdicts | None = None
    _nesting: Nesting | None = None
    _parquet_share: float | None = None

    def __post_init__(self) -> None:
        self.bad_rows = BadRowPolicy(self.reading)

    @property
    def row_format(self) -> RowFormat | None:
        """The format of its rows."""
        return self._survey.mapping.row_format if self._survey is not None else None

    @property
    def skipped(self) -> int:
        """Number of rows that were skipped."""
        return self.bad_rows.count

    @property
    def skipped_rows(self) -> list[BadRow]:
        """The first rows that were skipped."""
        return self.bad_rows.listed

    @property
    def remarks(self) -> tuple[Remark, ...]:
        """How its rows are read: the columns that are used, and what was decided where a file leaves a choice."""
        if self._survey is None or self._verdicts is None:
            return ()
        survey, column = self._survey, self._verdicts.column if self._verdicts.known else ""
        verdict = {"verdict": column} if column else {}
        mapping = replace(survey.mapping, parts=survey.mapping.parts | verdict)
        unread = [name for name in survey.unread() if name != column]
        found = [columns_remark(mapping, survey.names, unread)]
        if self._nesting is not None:
            found.append(Remark("NESTED_ROWS", self._nesting.note))
        if self._verdicts.left_out:
            bad = f'{self._verdicts.left_out} rows whose "{column[:60]}" is false'
            text = f"{bad} are bad answers (as for KTO): they are skipped."
            found.append(Remark("BAD_ANSWERS_SKIPPED", text))
        if self.paragraphs:
            found.append(Remark("PARAGRAPHS_READ", "The lines are wrapped: each paragraph is a row."))
        return (*found, *mapping.remarks)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What was found in the rows that were read that may make a run learn the wrong thing, the gravest first."""
        return self._survey.findings(self.file_format) if self._survey is not None else ()

    @property
    def fraction(self) -> float:
        """Share of the file's bytes that were read, 0 to 1; of a Parquet file's rows."""
        if self._parquet_share is not None:
            return self._parquet_share
        return self.content.fraction if self.content is not None else 0.0

    def rows(self) -> Iterator[Row]:
        """Yield the valid rows.

        Raises DatasetError: at the first bad row, or at one more than may be skipped; for a file that cannot be read;
        EMPTY_DATASET where no row is left.
        """
        count = 0
        for entry in self.entries():
            if isinstance(entry, Row):
                count += 1
                yield entry
            else:
                self.bad_rows.skip(entry)
        self.bad_rows.finish(count)

    def entries(self) -> Iterator[Row | BadRow]:
        """Yield every row, valid or not. Raises DatasetError for a file that cannot be read."""
        for number, record in self._records():
            try:
                for value in self._plain(record):
                    yield self._entry(number, value)
            except RowError as error:
                yield bad_row(number, error)
        if self._survey is not None:
            for part in OPTIONAL:
                path = getattr(self.reading.columns, part)
                if path:
                    require_column(dict.fromkeys(self._survey.names), part, path)

    def _plain(self, record: dict[str, Any] | RowError) -> Iterable[dict[str, Any] | RowError]:
        """The rows of a record: more than one if they are nested in it. Raises RowError."""
        if isinstance(record, RowError):
            raise record
        if self._survey is None and self.reading.row_format is None:
            named = self.reading.columns.given().values()
            if not any(present(record, path) for path in named):
                self._nesting = detect_nesting(record)
        return (record,) if self._nesting is None else self._nesting.rows(record)

    def _entry(self, number: int, value: dict[str, Any] | RowError) -> Row | BadRow:
        try:
            if isinstance(value, RowError):
                raise value
            return self._row(number, value)
        except RowError as error:
            return bad_row(number, error)
        except RecursionError:
            return bad_row(number, RowError("", "is nested too deeply"))

    def _row(self, number: int, value: dict[str, Any]) -> Row:
        """Convert a row's object; the first valid one, or one that is marked as bad, decides how the file is read."""
        survey, verdicts = self._survey, self._verdicts
        if survey is None or verdicts is None:
            survey = Survey(find_mapping(value, self.reading.row_format, self.reading.columns))
            verdicts = Verdicts(survey.mapping, self.reading.ignored_columns)
        if not value.keys() <= survey.names:
            survey.meet(value)
            verdicts.meet(survey.names)
        if verdicts.column:
            try:
                verdicts.require_good(value, survey.mapping)
            except MarkedRowError:
                self._survey, self._verdicts = survey, verdicts
                raise
        row = to_row(number, value, survey.mapping)
        if self._survey is None:
            survey.mapping = replace(survey.mapping, remarks=remarks_on(value, survey.mapping))
        self._survey, self._verdicts = survey, verdicts
        survey.add(value, row, verdicts.column if verdicts.known else "")
        return row

    def _records(self) -> Iterator[Record]:
        with open_content(self.path) as content:
            self.content, self.compression, head = content, content.compression, content.head()
            suffixes = Path(self.reading.name).suffixes or self.path.suffixes
            self.file_format = self.reading.file_format or detect_format(head, suffixes)
            if self.file_format is FileFormat.PARQUET:
                yield from self._parquet(head)
                return
            require_text_file(head)
            width = prose.width_of(head.decode("utf-8-sig", "replace")) if self.file_format is FileFormat.TEXT else 0
            if width:
                self.paragraphs = True
                yield from prose.paragraphs(content, width)
                return
            yield from _READERS[self.file_format](content, head)

    def _parquet(self, head: bytes) -> Iterator[Record]:
        if self.compression or not head.startswith(PARQUET):
            what = (
                f"compressed with {self.compression}"
                if self.compression
                else "no Parquet file: it does not begin with PAR1"
            )
            raise DatasetError("DATASET_UNREADABLE", f"The file is {what}.", remedy="Send the Parquet file as it is.")
        if self.parquet is None:
            raise DatasetError("UNSUPPORTED_FILE", "Parquet is not read here.", remedy="Write JSONL.")
        rows = max(1, read_footer(self.path).rows)
        for number, record in self.parquet(self.path):
            self._parquet_share = min(1.0, number / rows)
            yield number, record


def _delimited(content: Content, head: bytes) -> Iterator[Record]:
    text = head.decode("utf-8-sig", "replace")
    return csv.table(content, csv.find_delimiter(text) or ",")


_READERS: dict[FileFormat, Callable[[Content, bytes], Iterator[Record]]] = {
    FileFormat.JSONL: lambda content, _: json_lines.json_lines(content),
    FileFormat.JSON: lambda content, _: json_document.json_document(content),
    FileFormat.CSV: _delimited,
    FileFormat.TSV: lambda content, _: csv.table(content, "\t"),
    FileFormat.TEXT: lambda content, _: prose.text_lines(content),
}

_BY_SUFFIX = {
    ".csv": FileFormat.CSV,
    ".tsv": FileFormat.TSV,
    ".tab": FileFormat.TSV,
    ".txt": FileFormat.TEXT,
    ".md": FileFormat.TEXT,
}


def detect_format(head: bytes, suffixes: Iterable[str] = ()) -> FileFormat:
    """Detect the format of a file by its first bytes; a suffix of a table or of plain text comes before them."""
    if head.startswith(PARQUET):
        return FileFormat.PARQUET
    named = next((_BY_SUFFIX[s.lower()] for s in reversed(list(suffixes)) if s.lower() in _BY_SUFFIX), None)
    text = head.decode("utf-8-sig", "replace").lstrip()
    if named is FileFormat.TEXT and _has_known_header(text):
        return _detect_table(text)
    if named is not None and not (named is FileFormat.TEXT and _begins_with_object(text)):
        return named
    if text[:1] in ("[", "{"):
        return _detect_json(text, whole=len(head) < HEAD_BYTES)
    return _detect_table(text)


_LIST_IN_OBJECT = re.compile(r'\{[^{}\[\]]*"(?:' + "|".join(json_lines.LISTS) + r')"\s*:\s*\[\s*\{')
"""The beginning of an object that holds a list of rows after single values."""


def _begins_with_object(text: str) -> bool:
    """Return whether the first line is a JSON object: JSON lines are not plain text, whatever the suffix says."""
    try:
        return isinstance(json_lines.parse(text.partition("\n")[0].encode("utf-8", "replace")), dict)
    except RowError:
        return False


def _has_known_header(text: str) -> bool:
    """Return whether the first line has the names of known columns: such a table is not plain text.

    Excel calls a table so that it saves as "Unicode Text".
    """
    delimiter = csv.find_delimiter(text)
    names = [name.strip() for name in text.partition("\n")[0].split(delimiter)] if delimiter else []
    return len(names) > 1 and detect_row_format(dict.fromkeys(names)) not in (None, RowFormat.TEXT)


def _detect_json(text: str, *, whole: bool) -> FileFormat:
    first, break_, rest = text.partition("\n")
    try:
        value = json_lines.parse(first.encode("utf-8", "replace"))
    except RowError:
        # A line that is broken, or a document over several lines: that goes on with a string, a bracket or nothing.
        spread = bool(break_) and len(first) < 1000 and first.rstrip().endswith((",", "{", "[", ":"))
        spread = spread or (not break_ and not whole and bool(_LIST_IN_OBJECT.match(text)))
        return FileFormat.JSON if text[0] == "[" or spread or json_lines.are_several(first) else FileFormat.JSONL
    if isinstance(value, list):
        # A list of messages alone is one row, not as many as it has messages.
        several = rest.lstrip()[:1] in ("[", "{") or json_lines.are_messages(value)
        return FileFormat.JSONL if several else FileFormat.JSON
    if isinstance(value, dict) and (not break_ or (whole and not rest.strip())):
        return FileFormat.JSON if json_lines.is_list_of_rows(value) else FileFormat.JSONL
    return FileFormat.JSONL


def _detect_table(text: str) -> FileFormat:
    """Detect a table by a header of short names with a delimiter between them.

    Plain text has to be called so: a broken JSON file must not pass for it.
    """
    header = text.partition("\n")[0].strip()
    delimiter = csv.find_delimiter(text)
    names = [name.strip().strip('"') for name in header.split(delimiter)] if delimiter else [header]
    is_header = all(name.isidentifier() or _may_be_name(name) for name in names)
    if not delimiter or not is_header or header.endswith((".", "!", "?")):
        return FileFormat.JSONL
    return FileFormat.TSV if delimiter == "\t" else FileFormat.CSV


def _may_be_name(name: str) -> bool:
    return bool(name) and len(name) <= 40 and name.count(" ") <= 2 and not set(name) & set("{}[]\ufffd")
