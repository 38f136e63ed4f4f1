# SPDX-License-Identifier: Apache-2.0
"""Dataset reports and rows as text: target tokens stand out, in color or by a mark."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import click
from finetree_api.trainer.v1 import dataset_pb2, event_pb2
from finetree_api.types.v1 import check_pb2, training_data_pb2

from finetree_cli.output import Output, as_dict, plain
from finetree_cli.render import units

BAR = 30
"""Width in columns of the longest bar of a histogram."""
SHORTEST_BOUND = 32
"""Tokens of the rows in the histogram's first bar; each further one has rows of up to twice as many."""
SHOWN_NUMBERS = 10
"""Largest number of row numbers in a line; --json has all that the report lists."""
_MARKS = {"target": "+ ", "truncated": "x ", "context": "| "}


@dataclass(frozen=True, slots=True)
class Found:
    """A finding: how many of how many rows have it, the first row numbers, and whether that exceeds a threshold."""

    name: str
    split: str
    count: int
    rows: int
    numbers: tuple[int, ...]
    failed: bool
    message: str = ""
    """What is wrong and what to do, of a finding about how rows are read."""


def findings(reports: Iterable[event_pb2.DatasetReport], allowed: Mapping[str, float]) -> list[Found]:
    """List the findings by split. `allowed` has shares from 0 to 1 by name; others never fail."""
    found = []
    for report in reports:
        groups = [
            ("skipped", report.skipped),
            ("truncated", report.truncated),
            ("no-target", report.without_target),
            ("duplicates", report.duplicates),
        ]
        if report.split == training_data_pb2.SPLIT_EVALUATION:
            # The training split's report has the same rows.
            groups += [("leak", report.leaked), ("prompt-leak", report.leaked_prompts)]
        for name, group in groups:
            limit = allowed.get(name)
            # The split's number of rows excludes the skipped ones.
            rows = report.rows + (group.count if name == "skipped" else 0)
            failed = limit is not None and group.count > limit * rows
            found.append(Found(name, split(report.split), group.count, rows, tuple(group.rows), failed))
        found += [_of_reading(one, report, allowed) for one in report.findings]
    return found


def _of_reading(
    one: training_data_pb2.DataFinding, report: event_pb2.DatasetReport, allowed: Mapping[str, float]
) -> Found:
    """Convert a finding about how rows are read: an error fails by default, a warning where that is asked for."""
    limit = allowed.get("error", 0.0) if one.severity == check_pb2.SEVERITY_ERROR else None
    limit = allowed.get("warning", limit) if one.severity >= check_pb2.SEVERITY_WARNING else None
    failed = limit is not None and not one.accepted and one.rows > limit * report.rows
    return Found(one.code, split(report.split), one.rows, report.rows, (), failed, one.message)


def document(
    dataset: str, job: str, reports: Sequence[event_pb2.DatasetReport], found: Sequence[Found]
) -> dict[str, Any]:
    """Build the JSON object of a report."""
    return {
        "dataset": dataset,
        "job": job,
        "reports": [as_dict(report) for report in reports],
        "findings": [asdict(one) for one in found],
        "verdict": "fail" if any(one.failed for one in found) else "pass",
    }


def show(
    out: Output,
    reports: Sequence[event_pb2.DatasetReport],
    found: Sequence[Found],
    rows: Sequence[dataset_pb2.PreviewRow] = (),
) -> None:
    """Print a report: how rows are read, in `rows`, then their lengths and what becomes of them."""
    for report in reports[:1]:
        _show_first(out, report, rows)
        out.text()
    columns = ["Split", "Format", ">Rows", ">Kept", ">Tokens", ">Targets", ">p50", ">p90", ">p95", ">p99", ">Longest"]
    out.table(columns, [_numbers(report) for report in reports])
    groups = [one for one in found if not one.message]
    for one in groups:
        if one.count:
            out.text(_line(one))
    for report in reports:
        for bad in report.bad_rows:
            out.text(plain(f"{split(report.split)} row {bad.row}{', ' * bool(bad.field)}{bad.field}: {bad.problem}"))
    if not any(one.count for one in groups):
        out.text("No row is skipped, truncated, without a target, or duplicated.")
    for report in reports[:1]:
        _show_lengths(out, report)
        _show_reading(out, report)


def _show_first(out: Output, report: event_pb2.DatasetReport, rows: Sequence[dataset_pb2.PreviewRow]) -> None:
    """Print what is asked, what is learned and what is left out: the questions that come before all numbers."""
    for remark in report.remarks:
        out.text(plain(remark.message))
    tokens, ends = report.profile.total_tokens, report.special_tokens.rows_that_learn_to_end
    if tokens:
        learned = f"Learned: {report.target_tokens / tokens:.0%} of the tokens"
        cut = f"; {report.truncated.count} are cut at {report.sequence_length} tokens" if report.truncated.count else ""
        ends_too = (
            f"; {ends} of {report.rows} rows learn to end" if rendered(report) else " (estimated from characters)"
        )
        out.text(f"{learned}{ends_too}{cut}.")
    for one in report.findings:
        if one.severity >= check_pb2.SEVERITY_WARNING:  # the remarks name the columns of notes
            _show_finding(out, one)
    shown = [(row.row, row.spans) for row in rows] or [(report.example_row, report.example_spans)]
    for number, row_spans in shown:
        out.text()
        how = "as the model sees it" if rendered(report) else "by its roles, without the model's chat template"
        out.text(f"Row {number} {how}; {_legend()}:")
        out.styled(marked(row_spans))


def rendered(report: event_pb2.DatasetReport) -> bool:
    """Tell whether the rows were rendered and counted for a model, and not estimated from their characters."""
    return report.HasField("special_tokens")


_SEVERITIES = {
    check_pb2.SEVERITY_ERROR: "error",
    check_pb2.SEVERITY_WARNING: "warning",
    check_pb2.SEVERITY_INFO: "note",
}


def _show_finding(out: Output, one: training_data_pb2.DataFinding) -> None:
    accepted = " (accepted)" if one.accepted else ""
    out.text(plain(f"{_SEVERITIES.get(one.severity, 'note')}{accepted} {one.code}: {one.message}"))
    for column in one.columns:
        if column.severity >= check_pb2.SEVERITY_WARNING:
            size = f"{column.mean_characters} characters on average, {column.longest_characters} at most"
            out.text(plain(f"  {column.name}: {column.kind} in {column.share:.0%} of the rows, {size}"))
            out.text(plain(f"    {column.example}"))
    notes = [f"{column.name} ({column.kind})" for column in one.columns if column.severity == check_pb2.SEVERITY_INFO]
    if notes and len(notes) < len(one.columns):
        out.text(plain(f"  Also left out: {', '.join(notes[:SHOWN_NUMBERS])}{', …' * (len(notes) > SHOWN_NUMBERS)}"))


def _numbers(report: event_pb2.DatasetReport) -> tuple[str, ...]:
    ranks = report.percentiles
    counts = (report.rows, report.profile.examples, report.profile.total_tokens, report.target_tokens)
    lengths = (ranks.p50, ranks.p90, ranks.p95, ranks.p99, report.longest_row_tokens)
    return (
        split(report.split),
        units.word(training_data_pb2.RowFormat, report.row_format),
        *map(str, counts),
        *map(str, lengths),
    )


_WORDS = {
    "skipped": "skipped: malformed, empty, or marked to have no loss",
    "truncated": "truncated to the sequence length",
    "no-target": "skipped: no target tokens after truncation",
    "duplicates": "duplicates of an earlier row",
    "leak": "also in the training data",
    "prompt-leak": "with a prompt that is in the training data",
}


def _line(one: Found) -> str:
    listed = ", ".join(map(str, one.numbers[:SHOWN_NUMBERS])) + (", …" if one.count > SHOWN_NUMBERS else "")
    share = f"{one.count / one.rows:.1%}" if one.rows else ""
    return f"{one.split}: {one.count} of {one.rows} rows ({share}) {_WORDS[one.name]}: {listed}"


def _show_lengths(out: Output, report: event_pb2.DatasetReport) -> None:
    counts: dict[int, int] = {}
    for bucket in report.profile.token_lengths:
        bound = max(SHORTEST_BOUND, 1 << (bucket.upper_bound - 1).bit_length())
        counts[bound] = counts.get(bound, 0) + bucket.count
    most = max(counts.values(), default=0)
    if not most:
        return
    out.text()
    out.text("Rows by tokens:" if rendered(report) else "Rows by tokens, estimated from characters and messages:")
    for bound, count in counts.items():
        bar = "#" * -(-count * BAR // most)
        out.text(f"  up to {bound:>7} {count:>9} {bar}".rstrip())
    if report.sequence_length:
        out.text(f"Sequence length: {report.sequence_length}")
    if report.suggested_sequence_length:
        text = f"Suggested sequence length: {report.suggested_sequence_length}"
        out.text(f"{text} (keeps 99 % of the rows whole)")


def _show_reading(out: Output, report: event_pb2.DatasetReport) -> None:
    special, rows = report.special_tokens, report.rows
    if not rendered(report):
        out.text("Chat template, BOS and EOS tokens: a check by a trainer (`finetree up`) applies those of the model.")
        return
    template = (
        "the tokenizer's"
        if report.template_source == event_pb2.TEMPLATE_SOURCE_TOKENIZER
        else "none; the parts of a row are joined"
    )
    out.text(f"Chat template: {template}")
    bos = repr(special.bos_token) if special.bos_token else "none"
    odd = f"; {special.rows_without_one_bos} rows do not begin with exactly one" if special.rows_without_one_bos else ""
    out.text(f"BOS token: {bos}{odd}")
    shared = ", also the padding token" if special.pad_is_eos else ""
    out.text(f"EOS token: {special.eos_token!r}{shared}; a target in {special.rows_that_learn_to_end} of {rows} rows")


def split(number: int) -> str:
    """Format a split."""
    return units.word(training_data_pb2.Split, number)


def show_row(out: Output, row: dataset_pb2.PreviewRow) -> None:
    """Print a row of a preview."""
    facts = [f"{row.tokens} tokens", f"{row.target_tokens} targets"]
    facts += [word for word, holds in (("truncated", row.truncated), ("skipped", row.dropped)) if holds]
    facts += ["no target tokens"] * row.no_target + ["abridged here"] * row.shortened
    out.text(f"{split(row.split)} row {row.row}: {', '.join(facts)}")
    out.styled(marked(row.spans))
    out.text()


def _legend() -> str:
    return "targets in green" if sys.stdout.isatty() else "+ target, | context, x truncated"


def marked(spans: Iterable[dataset_pb2.TextSpan]) -> str:
    """Format the text of spans: in color on a terminal, else with a mark before each line."""
    if sys.stdout.isatty():
        return "".join(click.style(plain(span.text), **_style(span)) for span in spans)
    lines = []
    for span in spans:
        mark = _MARKS["truncated" if span.cut else "target" if span.trained else "context"]
        lines += [mark + line for line in plain(span.text).removesuffix("\n").split("\n")]
    return "\n".join(lines)


def _style(span: dataset_pb2.TextSpan) -> dict[str, Any]:
    if span.cut:
        return {"strikethrough": True, "dim": True}
    return {"fg": "green", "bold": True} if span.trained else {}
