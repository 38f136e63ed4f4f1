# SPDX-License-Identifier: Apache-2.0
"""The report on a dataset: lengths, and rows that are truncated, skipped, repeated, or in both splits."""

from collections.abc import Iterator, Sequence

import torch
from finetree_api.trainer.v1 import event_pb2
from finetree_api.types.v1 import check_pb2, training_data_pb2
from finetree_api.types.v1.training_data_pb2 import Split as SplitKind
from finetree_data.report.build import LISTED_ROWS, Progress, RowsReport, Use, add_reading, read_rows
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from finetree_worker.plan import UNLIMITED
from finetree_worker.tokenize.rows import Reading, RowSource, data_errors
from finetree_worker.tokenize.token_table import LEARNS_TO_END, ODD_BEGINNING, Split
from finetree_worker.tokenize.tokenizer import leading_bos

BUCKETS = (32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072)
"""Upper bounds of the token-length histogram; longer rows extend it by doubling."""
FEW_LEARN_TO_END = 0.9
"""Share of the rows below which a report warns that few of them learn to end."""
LENGTH_MULTIPLE = 32
"""A suggested sequence length is a multiple of this, unless the longest row is shorter."""
PERCENTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "max": 1.0}
"""Percentiles of the length that are reported, as shares of the rows."""


def split_report(
    split: Split, tokenizer: PreTrainedTokenizerBase, *, reading: Reading, from_cache: bool
) -> event_pb2.DatasetReport:
    """Report on one split, which is not empty."""
    lengths, dropped = split.column("lengths"), split.dropped
    tokens, targets = int(split.kept.lengths.sum()), split.kept_targets()
    ranks = percentiles(lengths)
    report = event_pb2.DatasetReport(
        profile=training_data_pb2.DatasetProfile(
            examples=len(split.kept),
            total_tokens=tokens or None,
            target_fraction=targets / tokens if tokens else None,
            exact=True,
            token_lengths=histogram(lengths.tolist()),
        ),
        rows=len(lengths),
        truncated=_group(split.column("rows")[lengths > split.limit]),
        without_target=_group(split.column("rows")[dropped]),
        duplicates=_group(_repeats(split)),
        leaked=event_pb2.RowGroup(),
        leaked_prompts=event_pb2.RowGroup(),
        target_tokens=targets,
        longest_row_tokens=ranks.max,
        percentiles=ranks,
        suggested_sequence_length=min(-(-ranks.p99 // LENGTH_MULTIPLE) * LENGTH_MULTIPLE, ranks.max),
        split=split.kind,
        sequence_length=split.limit if split.limit < UNLIMITED else 0,
        special_tokens=_special(split, tokenizer),
        tokens_from_cache=from_cache,
    )
    has_template = tokenizer.chat_template is not None
    report.template_source = event_pb2.TEMPLATE_SOURCE_TOKENIZER if has_template else event_pb2.TEMPLATE_SOURCE_NONE
    read = split.table.read
    add_reading(report, read, reading, bad_rows=read.bad_rows)
    report.remarks.extend(_endings(report))
    return report


def _endings(report: event_pb2.DatasetReport) -> Iterator[check_pb2.Remark]:
    """Warn where few rows learn to end: a model that is trained on them does not stop."""
    ending, rows = report.special_tokens.rows_that_learn_to_end, report.rows
    if ending >= FEW_LEARN_TO_END * rows:
        return
    cut = report.truncated.count
    why = f"{cut} are cut at {report.sequence_length} tokens" if cut else "no end-of-sequence token is learned"
    text = f"{ending} of {rows} rows learn to end; {why}: the trained model may not stop."
    field = "training.sequence_length" if cut else "training.append_eos"
    yield check_pb2.Remark(code="FEW_ROWS_LEARN_TO_END", message=text, field_path=field)


def rows_report(
    source: RowSource, kind: SplitKind.ValueType, *, train: RowsReport | None, use: Use, on_progress: Progress
) -> RowsReport:
    """Read and check all rows, and report on them without a tokenizer, held-out ones against those of `train`.

    Raises DataError as `rows_of` does; `on_progress` may raise to stop.
    """
    file = source.open()
    with data_errors(file, source.place):
        return read_rows(file, kind, use=use, train=train, on_progress=on_progress)


def add_leaks(report: event_pb2.DatasetReport, train: Split, held: Split) -> None:
    """Add to a report the held-out rows that are training rows too, whole or by their prompt."""
    numbers, prompts = held.column("rows"), held.column("prompts")
    whole = torch.isin(held.column("contents"), train.column("contents"))
    asked = torch.isin(prompts, train.column("prompts")) & (prompts != 0) | whole
    report.leaked.CopyFrom(_group(numbers[whole]))
    report.leaked_prompts.CopyFrom(_group(numbers[asked]))


def _repeats(split: Split) -> Tensor:
    """Return the numbers of rows whose content is that of an earlier row."""
    contents = split.column("contents")
    order = torch.argsort(contents, stable=True)
    same = contents[order[1:]] == contents[order[:-1]]
    return split.column("rows")[order[1:][same]].sort().values


def _group(numbers: Tensor) -> event_pb2.RowGroup:
    return event_pb2.RowGroup(count=len(numbers), rows=numbers[:LISTED_ROWS].tolist())


def percentiles(lengths: Tensor) -> event_pb2.TokenPercentiles:
    """Return percentiles of lengths by nearest rank: the shortest length that a share of the rows does not exceed."""
    ordered = lengths.sort().values
    # Whole thousandths: 0.95 * 20 is 19.000000000000004 and would give the next rank.
    ranks = {name: -(-round(share * 1000) * len(ordered) // 1000) for name, share in PERCENTILES.items()}
    return event_pb2.TokenPercentiles(**{name: int(ordered[rank - 1]) for name, rank in ranks.items()})


def histogram(lengths: Sequence[int]) -> list[training_data_pb2.TokenLengthBucket]:
    """Return the number of rows for each bound of `BUCKETS` up to the longest row."""
    bounds = list(BUCKETS)
    while bounds[-1] < max(lengths):
        bounds.append(bounds[-1] * 2)
    buckets = torch.bucketize(torch.tensor(lengths), torch.tensor(bounds))
    counted = torch.bincount(buckets).tolist()
    return [training_data_pb2.TokenLengthBucket(upper_bound=b, count=n) for b, n in zip(bounds, counted, strict=False)]


def _special(split: Split, tokenizer: PreTrainedTokenizerBase) -> event_pb2.SpecialTokens:
    marks = split.column("marks")
    learn_to_end = (marks & LEARNS_TO_END != 0) & (split.column("lengths") <= split.limit)
    return event_pb2.SpecialTokens(
        bos_token=str(tokenizer.bos_token) if leading_bos(tokenizer) is not None else "",
        eos_token=str(tokenizer.eos_token),
        pad_token=str(tokenizer.pad_token or ""),
        pad_is_eos=tokenizer.pad_token_id == tokenizer.eos_token_id,
        rows_without_one_bos=int((marks & ODD_BEGINNING != 0).sum()),
        rows_that_learn_to_end=int(learn_to_end.sum()),
    )
