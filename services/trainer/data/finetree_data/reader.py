# SPDX-License-Identifier: Apache-2.0
"""Rows of a file, one after another: what it is written in and what its rows hold is found on the way."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from finetree_data import jsons, tables
from finetree_data.columns import Mapping, mapping_for
from finetree_data.content import HEAD_BYTES, PARQUET, Content, opened, require_text
from finetree_data.faults import DatasetError, RowError
from finetree_data.jsons import Record
from finetree_data.layouts import to_row
from finetree_data.reading import FileFormat, Layout, Reading
from finetree_data.rows import Row

LISTED_FAULTS = 32
"""Bad rows that are told one by one; the rest are counted."""

ParquetReader = Callable[[Path], Iterable[Record]]
"""Reads a Parquet file, which takes a library that not everybody who reads rows has."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A row that is wrong: reason, place and problem."""

    number: int
    field: str
    problem: str
    reason: str


@dataclass(slots=True)
class RowFile:
    """A file being read; what was found of it is known once the first row came.

    `skipped` counts the bad rows that were left out, `faults` are the first LISTED_FAULTS of them.
    """

    path: Path
    reading: Reading = field(default_factory=Reading)
    parquet: ParquetReader | None = None
    file_format: FileFormat | None = None
    packing: str = ""
    layout: Layout | None = None
    skipped: int = 0
    faults: list[Fault] = field(default_factory=list)
    content: Content | None = None

    @property
    def fraction(self) -> float:
        """How much of the file was read, 0 to 1."""
        return self.content.fraction if self.content is not None else 0.0

    def rows(self) -> Iterator[Row]:
        """The sound rows.

        Raises DatasetError: at the first bad row, or at one more than may be skipped; for a file that cannot be read;
        EMPTY_DATASET where no row is left.
        """
        some = False
        for entry in self.entries():
            if isinstance(entry, Row):
                some = True
                yield entry
            else:
                self.skip(entry)
        if not some:
            raise empty(self.skipped)

    def skip(self, fault: Fault) -> None:
        """Leave a row out. Raises DatasetError where none may be, or no more."""
        if not self.reading.skip_bad_rows:
            raise _refused(fault)
        self.skipped += 1
        if len(self.faults) < LISTED_FAULTS:
            self.faults.append(fault)
        if 0 < self.reading.skip_limit < self.skipped:
            raise DatasetError(
                "TOO_MANY_BAD_ROWS",
                f"More than {self.reading.skip_limit} rows are bad. {describe(fault)}",
                remedy="Correct the rows, or raise skip_limit.",
                row=fault.number,
                field=fault.field,
            )

    def entries(self) -> Iterator[Row | Fault]:
        """Every row, sound or not. Raises DatasetError for a file that cannot be read."""
        mapping: Mapping | None = None
        for number, record in self._records():
            try:
                if isinstance(record, RowError):
                    raise record
                mapping = mapping or mapping_for(record, self.reading.layout, self.reading.columns)
                row = to_row(number, record, mapping)
            except RowError as fault:
                yield Fault(number, fault.field, fault.problem, fault.reason)
            else:
                self.layout = mapping.layout
                yield row

    def _records(self) -> Iterator[Record]:
        with opened(self.path) as content:
            self.content, self.packing, head = content, content.packing, content.head()
            self.file_format = self.reading.file_format or detect(head, self.path.suffixes)
            if self.file_format is FileFormat.PARQUET:
                yield from self._parquet(head)
                return
            require_text(head)
            yield from _READERS[self.file_format](content, head)

    def _parquet(self, head: bytes) -> Iterator[Record]:
        if self.packing or not head.startswith(PARQUET):
            what = f"packed with {self.packing}" if self.packing else "no Parquet file: it does not begin with PAR1"
            raise DatasetError("DATASET_UNREADABLE", f"The file is {what}.", remedy="Send the Parquet file as it is.")
        if self.parquet is None:
            raise DatasetError("UNSUPPORTED_FILE", "Parquet is not read here.", remedy="Write JSONL.")
        yield from self.parquet(self.path)


def _delimited(content: Content, head: bytes) -> Iterator[Record]:
    text = head.decode("utf-8-sig", "replace")
    return tables.table(content, tables.delimiter_of(text) or ",")


_READERS: dict[FileFormat, Callable[[Content, bytes], Iterator[Record]]] = {
    FileFormat.JSONL: lambda content, _: jsons.json_lines(content),
    FileFormat.JSON: lambda content, _: jsons.json_document(content),
    FileFormat.CSV: _delimited,
    FileFormat.TSV: lambda content, _: tables.table(content, "\t"),
    FileFormat.TEXT: lambda content, _: tables.text_lines(content),
}

_BY_SUFFIX = {
    ".csv": FileFormat.CSV,
    ".tsv": FileFormat.TSV,
    ".tab": FileFormat.TSV,
    ".txt": FileFormat.TEXT,
    ".md": FileFormat.TEXT,
}


def detect(head: bytes, suffixes: Iterable[str] = ()) -> FileFormat:
    """What a file is written in, by its first bytes; but the name of tables and plain text counts first."""
    if head.startswith(PARQUET):
        return FileFormat.PARQUET
    named = next((_BY_SUFFIX[s.lower()] for s in reversed(list(suffixes)) if s.lower() in _BY_SUFFIX), None)
    if named is not None:
        return named
    text = head.decode("utf-8-sig", "replace").lstrip()
    if text[:1] in ("[", "{"):
        return _detect_json(text, whole=len(head) < HEAD_BYTES)
    return _detect_table(text)


def _detect_json(text: str, *, whole: bool) -> FileFormat:
    first, break_, rest = text.partition("\n")
    try:
        value = jsons.parse(first.encode("utf-8", "replace"))
    except RowError:
        # A line that is broken, or a document over several lines: that goes on with a string, a bracket or nothing.
        spread = bool(break_) and len(first) < 1000 and first.rstrip().endswith((",", "{", "[", ":"))
        return FileFormat.JSON if text[0] == "[" or spread else FileFormat.JSONL
    if isinstance(value, list):
        several = rest.lstrip()[:1] in ("[", "{")
        return FileFormat.JSONL if several else FileFormat.JSON
    if isinstance(value, dict) and (not break_ or (whole and not rest.strip())):
        listed = any(isinstance(value.get(key), list) and _has_rows(value[key]) for key in jsons.LISTS)
        return FileFormat.JSON if listed else FileFormat.JSONL
    return FileFormat.JSONL


def _has_rows(values: list[object]) -> bool:
    return bool(values) and isinstance(values[0], dict)


def _detect_table(text: str) -> FileFormat:
    """A table is a header of short names, cut by a delimiter, and lines below it.

    Plain text has to be called so: a broken JSON file must not pass for it.
    """
    header = text.partition("\n")[0].strip()
    delimiter = tables.delimiter_of(text)
    names = [name.strip().strip('"') for name in header.split(delimiter)] if delimiter else [header]
    is_header = all(name.isidentifier() or (name and len(name) <= 40 and name.count(" ") <= 2) for name in names)
    if not delimiter or not is_header or header.endswith((".", "!", "?")):
        return FileFormat.JSONL
    return FileFormat.TSV if delimiter == "\t" else FileFormat.CSV


def empty(skipped: int = 0) -> DatasetError:
    """The error for a file without a usable row."""
    what = f"no rows that can be used: all {skipped} are bad" if skipped else "no rows"
    example = '{"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}'
    return DatasetError("EMPTY_DATASET", f"The dataset has {what}.", remedy=f"Write one JSON object a line: {example}")


def _refused(fault: Fault) -> DatasetError:
    remedy = "Use one layout in a file." if fault.reason == "MIXED_FORMATS" else "Correct the row, or skip bad rows."
    return DatasetError(fault.reason, describe(fault), remedy=remedy, row=fault.number, field=fault.field)


def describe(fault: Fault) -> str:
    """The fault as a sentence that names its row and its field."""
    subject = f"Row {fault.number}, field {fault.field}" if fault.field else f"Row {fault.number}"
    text = f"{subject}: {fault.problem}"
    return text if text.endswith(("?", "!", ".")) else f"{text}."
