# SPDX-License-Identifier: Apache-2.0
"""Reads all rows of a file and reports on them; lengths are estimated from characters."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from finetree_api.trainer.v1 import dataset_pb2, event_pb2
from finetree_api.types.v1 import check_pb2, training_data_pb2, training_pb2

from finetree_data import contract
from finetree_data.bad_rows import BadRow
from finetree_data.file_profile import columns_profile
from finetree_data.files.parquet_footer import Footer
from finetree_data.findings.finding import Finding, settled
from finetree_data.options import FileFormat, Reading, RowFormat
from finetree_data.reader import RowFile
from finetree_data.remarks import Remark
from finetree_data.report.keys import row_keys
from finetree_data.report.spans import preview_row
from finetree_data.row_sizes import RowSizes, estimated_tokens
from finetree_data.rows.row import Row

LISTED_ROWS = 100
"""Most row numbers that a report lists of a finding; its counts are of all rows."""
FIRST_ROWS = 3
"""Rows that are kept as people read them."""
PROGRESS_ROWS = 512
"""Rows between two calls about progress."""
RENDERED_CHARACTERS = 4000
"""Longest rendered example of a report in characters; the rest of the row is left out."""
Split = training_data_pb2.Split
LossTokens = training_pb2.LossTokens
Progress = Callable[[float, int], None]
"""Called with the share of the file's bytes that were read, 0 to 1, and the rows; may raise to stop."""


@dataclass(frozen=True, slots=True)
class Use:
    """What the rows are read for: cut to `sequence_length` tokens (0: not cut), with a loss on `loss_tokens`."""

    sequence_length: int = 0
    loss_tokens: LossTokens.ValueType = training_pb2.LOSS_TOKENS_COMPLETIONS


@dataclass(slots=True)
class RowsReport:
    """A report on the rows of a file, its first rows, and the hashes by which other rows are compared with them."""

    report: event_pb2.DatasetReport
    first_rows: list[dataset_pb2.PreviewRow] = field(default_factory=list)
    contents: set[int] = field(default_factory=set)
    prompts: set[int] = field(default_factory=set)


def read_rows(
    file: RowFile,
    split: Split.ValueType,
    *,
    use: Use | None = None,
    train: RowsReport | None = None,
    on_progress: Progress | None = None,
) -> RowsReport:
    """Read and check all rows of a file, and report on them without a tokenizer.

    Of held-out rows, those that are in `train` too are leaks. Memory: some 100 bytes a row. Raises DatasetError as
    `RowFile.rows` does.
    """
    use = use or Use()
    made, sizes = RowsReport(event_pb2.DatasetReport(split=split, sequence_length=use.sequence_length)), RowSizes()
    report = made.report
    groups = (report.truncated, report.without_target, report.duplicates, report.leaked, report.leaked_prompts)
    for group in groups:
        group.SetInParent()
    for row in file.rows():
        tokens = estimated_tokens(row, use.loss_tokens)
        sizes.add(tokens)
        if use.sequence_length and tokens.expected > use.sequence_length:
            _count(report.truncated, row)
        _compare(made, row, train)
        if len(made.first_rows) < FIRST_ROWS:
            made.first_rows.append(preview_row(row, split, use.loss_tokens))
        if on_progress is not None and sizes.rows % PROGRESS_ROWS == 0:
            on_progress(file.fraction, sizes.rows)
    report.profile.CopyFrom(sizes.profile())
    report.rows, report.target_tokens = sizes.rows, sizes.targets
    report.longest_row_tokens = sizes.longest
    for name, share in (("p50", 0.5), ("p90", 0.9), ("p95", 0.95), ("p99", 0.99), ("max", 1.0)):
        setattr(report.percentiles, name, sizes.percentile(share))
    _add_example(report, made.first_rows[0])
    add_reading(report, file, file.reading, bad_rows=file.skipped_rows)
    if on_progress is not None:
        on_progress(1.0, sizes.rows)
    return made


def _count(group: event_pb2.RowGroup, row: Row) -> None:
    group.count += 1
    if len(group.rows) < LISTED_ROWS:
        group.rows.append(row.number)


def _compare(made: RowsReport, row: Row, train: RowsReport | None) -> None:
    content, prompt = row_keys(row)
    if content in made.contents:
        _count(made.report.duplicates, row)
    made.contents.add(content)
    if prompt:
        made.prompts.add(prompt)
    if train is None:
        return
    leaked = content in train.contents
    if leaked:
        _count(made.report.leaked, row)
    if leaked or (prompt and prompt in train.prompts):
        _count(made.report.leaked_prompts, row)


def _add_example(report: event_pb2.DatasetReport, row: dataset_pb2.PreviewRow) -> None:
    report.example_row = row.row
    left = RENDERED_CHARACTERS
    for span in row.spans:
        if left <= 0:
            break
        report.example_spans.add(text=span.text[:left], trained=span.trained)
        left -= len(span.text)
    report.rendered_example = "".join(span.text for span in report.example_spans)


class ReadFile(Protocol):
    """What is known of a file that was read."""

    @property
    def row_format(self) -> RowFormat | None:
        """What its rows hold; None where none was read."""
        ...

    @property
    def file_format(self) -> FileFormat | None:
        """What it is written in; None where it was not opened."""
        ...

    @property
    def compression(self) -> str:
        """Empty, "gzip" or "zstd"."""
        ...

    @property
    def skipped(self) -> int:
        """Number of rows that were left out."""
        ...

    @property
    def remarks(self) -> Iterable[Remark]:
        """How it was read."""
        ...

    @property
    def findings(self) -> Iterable[Finding]:
        """What was found in its rows, before a reading settles it."""
        ...


def add_reading(
    report: event_pb2.DatasetReport, found: ReadFile, reading: Reading, *, bad_rows: Sequence[BadRow]
) -> None:
    """Add to a report how a file was read: its formats, bad rows, remarks, and findings as its reading leaves them."""
    if found.row_format is None or found.file_format is None:
        raise ValueError("no row was read yet")
    report.row_format = contract.row_format(found.row_format)
    report.file_format = contract.file_format(found.file_format)
    report.compression = contract.compression(found.compression)
    report.remarks.extend(remark_message(remark) for remark in found.remarks)
    report.findings.extend(contract.finding_message(one) for one in settled(found.findings, reading))
    if found.skipped:
        report.skipped.count = found.skipped
        report.skipped.rows.extend(bad.number for bad in bad_rows)
    for bad in bad_rows:
        report.bad_rows.add(row=bad.number, field=bad.field[:200], problem=bad.problem[:400], reason=bad.reason)


def remark_message(remark: Remark) -> check_pb2.Remark:
    """Return a remark on how a file was read as the contract's message."""
    return check_pb2.Remark(code=remark.code, message=remark.message[:1000], field_path="dataset")


def columns_report(footer: Footer, reading: Reading, split: Split.ValueType) -> event_pb2.DatasetReport:
    """Report on a Parquet file by its footer, where nothing is installed that reads its rows. Raises DatasetError."""
    row_format, profile = columns_profile(footer, reading)
    report = event_pb2.DatasetReport(
        profile=profile,
        rows=footer.rows,
        split=split,
        row_format=contract.row_format(row_format),
        file_format=contract.file_format(FileFormat.PARQUET),
        compression=contract.compression(""),
    )
    text = "Only the columns' names and the number of rows were read: install pyarrow to check the rows."
    report.remarks.append(remark_message(Remark("ROWS_NOT_READ", text)))
    return report
