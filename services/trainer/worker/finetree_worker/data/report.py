# SPDX-License-Identifier: Apache-2.0
"""What a dataset holds, counted: lengths, what is cut, left out, repeated, and known from training already."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from finetree_worker.events.types import DatasetReport, SpecialTokens
from finetree_worker.tokenize.token_table import LEARNS_TO_END, ODD_BEGINNING, Split
from finetree_worker.tokenize.tokenizer import leading_bos

LISTED_ROWS = 100
"""Row numbers that a report lists at most; its counts are of all rows."""
BUCKETS = (32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072)
"""Upper bounds of the token-length histogram; longer rows extend it by doubling."""
LENGTH_MULTIPLE = 32
"""A suggested sequence length is a multiple of this, unless the longest row is shorter."""
PERCENTILES = (0.5, 0.9, 0.95, 0.99, 1.0)


def split_report(split: Split, tokenizer: PreTrainedTokenizerBase, *, held: int, from_cache: bool) -> DatasetReport:
    """The report on one split, which is not empty; `held` rows are held out of training."""
    lengths, dropped, kept = split.column("lengths"), split.dropped, split.kept
    by_rank = percentiles(lengths)
    return DatasetReport(
        format=split.table.format.value,
        rows=len(lengths),
        train_rows=len(kept),
        eval_rows=held,
        duplicate_rows=len(repeats := _repeats(split)),
        duplicate_row_numbers=_listed(repeats),
        truncated_rows=int((lengths > split.limit).sum()),
        truncated_row_numbers=_listed(split.column("rows")[lengths > split.limit]),
        dropped_rows=int(dropped.sum()),
        dropped_row_numbers=_listed(split.column("rows")[dropped]),
        total_tokens=int(kept.lengths.sum()),
        target_tokens=split.kept_targets(),
        longest_row_tokens=by_rank[-1],
        sequence_length=split.limit,
        histogram=histogram(lengths.tolist()),
        percentiles=by_rank,
        suggested_sequence_length=min(-(-by_rank[3] // LENGTH_MULTIPLE) * LENGTH_MULTIPLE, by_rank[-1]),
        template_source="tokenizer" if tokenizer.chat_template is not None else "none",
        special=_special(split, tokenizer),
        from_cache=from_cache,
        skipped_rows=split.table.found.skipped,
        bad_rows=split.table.found.bad_rows,
        file_format=split.table.found.file_format,
        notes=split.table.found.notes,
    )


def with_leaks(report: DatasetReport, train: Split, held: Split) -> DatasetReport:
    """The report with the held-out rows that training shows too, whole or by their prompt."""
    numbers, prompts = held.column("rows"), held.column("prompts")
    whole = torch.isin(held.column("contents"), train.column("contents"))
    asked = torch.isin(prompts, train.column("prompts")) & (prompts != 0) | whole
    return replace(
        report,
        leaked_rows=int(whole.sum()),
        leaked_row_numbers=_listed(numbers[whole]),
        leaked_prompts=int(asked.sum()),
        leaked_prompt_numbers=_listed(numbers[asked]),
    )


def _repeats(split: Split) -> Tensor:
    """Numbers of the rows that say what an earlier row says."""
    contents = split.column("contents")
    order = torch.argsort(contents, stable=True)
    same = contents[order[1:]] == contents[order[:-1]]
    return split.column("rows")[order[1:][same]].sort().values


def _listed(numbers: Tensor) -> tuple[int, ...]:
    return tuple(numbers[:LISTED_ROWS].tolist())


def percentiles(lengths: Tensor) -> tuple[int, int, int, int, int]:
    """Lengths by nearest rank: the shortest that is at least as long as a share of `PERCENTILES` of the rows."""
    ordered = lengths.sort().values
    # Whole thousandths: 0.95 * 20 is 19.000000000000004 and would give the next rank.
    ranks = [-(-round(share * 1000) * len(ordered) // 1000) for share in PERCENTILES]
    p50, p90, p95, p99, longest = (int(ordered[rank - 1]) for rank in ranks)
    return p50, p90, p95, p99, longest


def histogram(lengths: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """(upper bound, rows) for each bound of `BUCKETS` up to the longest row."""
    bounds = list(BUCKETS)
    while bounds[-1] < max(lengths):
        bounds.append(bounds[-1] * 2)
    buckets = torch.bucketize(torch.tensor(lengths), torch.tensor(bounds))
    counted = torch.bincount(buckets).tolist()
    return tuple(zip(bounds, counted, strict=False))


def _special(split: Split, tokenizer: PreTrainedTokenizerBase) -> SpecialTokens:
    marks = split.column("marks")
    learn_to_end = (marks & LEARNS_TO_END != 0) & (split.column("lengths") <= split.limit)
    return SpecialTokens(
        bos=str(tokenizer.bos_token) if leading_bos(tokenizer) is not None else "",
        eos=str(tokenizer.eos_token),
        pad=str(tokenizer.pad_token or ""),
        pad_is_eos=tokenizer.pad_token_id == tokenizer.eos_token_id,
        rows_without_one_bos=int((marks & ODD_BEGINNING != 0).sum()),
        rows_that_learn_to_end=int(learn_to_end.sum()),
    )
