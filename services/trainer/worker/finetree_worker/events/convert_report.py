# SPDX-License-Identifier: Apache-2.0
"""The report on a split's rows as the contract's message."""

from dataclasses import dataclass

from finetree_api.trainer.v1 import dataset_pb2, event_pb2
from finetree_api.types.v1 import training_data_pb2

from finetree_worker.events import types
from finetree_worker.plan_from_task import REPORT_LENGTH

ROW_NUMBERS = 100
"""Row numbers that a RowGroup lists at most (RowGroup.rows)."""
RENDERED_CHARACTERS = 4000
"""Longest rendered example; the rest of a row adds nothing to what it shows."""
_RANKS = ("p50", "p90", "p95", "p99", "max")


@dataclass(frozen=True, slots=True)
class SplitReport:
    """What became of one split's rows, with a row as the model sees it; its spans are of what is left of it."""

    report: types.DatasetReport
    split: str
    rendered_example: str = ""
    example_row: int = 0
    example_spans: tuple[dataset_pb2.TextSpan, ...] = ()


def to_message(split: SplitReport) -> event_pb2.DatasetReport:
    """The message."""
    event = split.report
    report = event_pb2.DatasetReport(
        profile=_profile(event),
        row_schema=event.format,
        truncated=_group(event.truncated_rows, event.truncated_row_numbers),
        without_target=_group(event.dropped_rows, event.dropped_row_numbers),
        duplicates=_group(event.duplicate_rows, event.duplicate_row_numbers),
        leaked=_group(event.leaked_rows, event.leaked_row_numbers),
        leaked_prompts=_group(event.leaked_prompts, event.leaked_prompt_numbers),
        target_tokens=event.target_tokens,
        longest_row_tokens=event.longest_row_tokens,
        percentiles=event_pb2.TokenPercentiles(**dict(zip(_RANKS, event.percentiles, strict=True))),
        suggested_sequence_length=event.suggested_sequence_length or _length_for_most(event),
        rendered_example=split.rendered_example[:RENDERED_CHARACTERS],
        example_row=split.example_row,
        example_spans=_shown(split.example_spans),
        split=split.split,
        rows=event.rows,
        sequence_length=event.sequence_length if event.sequence_length < REPORT_LENGTH else 0,
        template_source=event.template_source,
        tokens_from_cache=event.from_cache,
        file_format=event.file_format,
        bad_rows=[_bad_row(row) for row in event.bad_rows],
        notes=[note[:1000] for note in event.notes],
    )
    if event.skipped_rows:
        report.skipped.CopyFrom(_group(event.skipped_rows, tuple(row.row for row in event.bad_rows)))
    if event.special is not None:
        report.special_tokens.CopyFrom(_special(event.special))
    return report


def _profile(event: types.DatasetReport) -> training_data_pb2.DatasetProfile:
    return training_data_pb2.DatasetProfile(
        examples=event.train_rows,
        total_tokens=event.total_tokens,
        target_fraction=event.target_tokens / event.total_tokens if event.total_tokens else 0.0,
        exact=True,
        token_lengths=[training_data_pb2.TokenLengthBucket(upper_bound=b, count=n) for b, n in event.histogram],
    )


def _group(count: int, numbers: tuple[int, ...]) -> event_pb2.RowGroup:
    return event_pb2.RowGroup(count=count, rows=numbers[:ROW_NUMBERS])


def _bad_row(row: types.BadRow) -> event_pb2.BadRow:
    return event_pb2.BadRow(row=row.row, field=row.field[:200], problem=row.problem[:400], reason=row.reason)


def _special(special: types.SpecialTokens) -> event_pb2.SpecialTokens:
    return event_pb2.SpecialTokens(
        bos_token=special.bos,
        eos_token=special.eos,
        pad_token=special.pad,
        pad_is_eos=special.pad_is_eos,
        rows_without_one_bos=special.rows_without_one_bos,
        rows_that_learn_to_end=special.rows_that_learn_to_end,
    )


def _shown(spans: tuple[dataset_pb2.TextSpan, ...]) -> list[dataset_pb2.TextSpan]:
    """Spans until the longest rendered example is reached."""
    left, shown = RENDERED_CHARACTERS, []
    for span in spans:
        if left <= 0:
            break
        short = dataset_pb2.TextSpan()
        short.CopyFrom(span)
        short.text = span.text[:left]
        left -= len(short.text)
        shown.append(short)
    return shown


def _length_for_most(report: types.DatasetReport) -> int:
    """The shortest bound of the histogram that keeps 99 % of the rows whole."""
    rows, needed = 0, 0.99 * sum(count for _, count in report.histogram)
    for bound, count in report.histogram:
        rows += count
        if rows >= needed:
            return min(bound, report.longest_row_tokens)
    return report.longest_row_tokens
