# SPDX-License-Identifier: Apache-2.0
"""Rows as training sees them, in spans of one fate: one of them for a report, some of them for a preview."""

from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path

import torch
from finetree_api.trainer.v1 import dataset_pb2, event_pb2
from google.protobuf import json_format
from transformers import PreTrainedTokenizerBase

from finetree_worker.tokenize.example import Example
from finetree_worker.tokenize.token_table import Split

FILE = "rows.jsonl"
"""The kept rows of all splits, a PreviewRow as proto JSON on each line, in the order of splits and rows."""
FIRST_ROWS = 200
"""Rows from the beginning of a split that are kept, whatever they are."""
FOUND_ROWS = 100
"""Rows of each finding that are kept: as many as a report lists."""
SPAN_CHARACTERS = 2000
"""Longest text of a span; the middle of a longer one is left out."""
SPANS = 64
"""Spans of a row that are kept."""
RENDERED_CHARACTERS = 4000
"""Longest rendered example of a report; the rest of a row adds nothing to what it shows."""
_CONTEXT = 8  # tokens before a span that decide how it is decoded: a leading space, half a character


def write(folder: Path, splits: Iterable[Split], tokenizer: PreTrainedTokenizerBase) -> None:
    """Write the rows that a preview shows into `folder`. Raises OSError."""
    with (folder / FILE).open("w", encoding="utf-8") as stream:
        for split in splits:
            for at in _chosen(split):
                row = preview_row(split, at, tokenizer)
                text = json_format.MessageToJson(row, preserving_proto_field_name=True, indent=None, ensure_ascii=False)
                stream.write(text + "\n")


def _chosen(split: Split) -> list[int]:
    """Places in the split: its first rows, and the first of each finding."""
    lengths, firsts = split.column("lengths"), split.column("firsts")
    findings = (lengths > split.limit, split.dropped, firsts < 1)
    first = range(min(FIRST_ROWS, len(lengths)))
    return sorted({*first, *(int(i) for found in findings for i in found.nonzero().squeeze(1)[:FOUND_ROWS])})


def preview_row(split: Split, at: int, tokenizer: PreTrainedTokenizerBase) -> dataset_pb2.PreviewRow:
    """One row of a split, whole, with what is learned of it and what is cut off."""
    index = int(split.index[at])
    whole = split.table.example(index, int(split.table.lengths[index]))
    kept, first = split.table.example(index, split.limit), int(split.table.firsts[index])
    row = dataset_pb2.PreviewRow(
        split=split.kind,
        row=whole.row,
        tokens=len(whole),
        target_tokens=kept.targets,
        truncated=len(whole) > split.limit,
        dropped=kept.targets == 0,
        no_target=first < 1,
    )
    for span in spans(whole, split.limit, tokenizer):
        if len(row.spans) == SPANS:
            row.shortened = True
            break
        if len(span.text) > SPAN_CHARACTERS:
            half = SPAN_CHARACTERS // 2
            span.text = f"{span.text[:half]} … {span.text[-half:]}"
            row.shortened = True
        row.spans.append(span)
    return row


def add_example(report: event_pb2.DatasetReport, split: Split, tokenizer: PreTrainedTokenizerBase) -> None:
    """Add to a split's report its first row that is kept, as the model sees it."""
    if not len(split.kept):
        return
    example, left = split.kept[0], RENDERED_CHARACTERS
    report.example_row = example.row
    report.rendered_example = _decode(tokenizer, example.tokens.tolist())[:RENDERED_CHARACTERS]
    for span in spans(example, len(example), tokenizer):
        if left <= 0:
            break
        span.text = span.text[:left]
        left -= len(span.text)
        report.example_spans.append(span)


def spans(example: Example, limit: int, tokenizer: PreTrainedTokenizerBase) -> Iterator[dataset_pb2.TextSpan]:
    """A row's text in stretches of tokens that are learned or not, and cut off or not. `limit` is in tokens."""
    tokens = example.tokens.tolist()
    learned = example.is_target.clone()
    # Nothing stands before the first token that could predict it; nothing behind the limit is read at all.
    learned[:1] = False
    learned[limit:] = False
    cut = torch.arange(len(tokens)) >= limit
    fates = torch.stack([learned, cut])
    changes = (fates[:, 1:] != fates[:, :-1]).any(dim=0).nonzero().squeeze(1) + 1
    borders = [0, *changes.tolist(), len(tokens)]
    for start, end in pairwise(borders):
        if start == end:
            continue
        before = tokens[max(0, start - _CONTEXT) : start]
        text = _decode(tokenizer, before + tokens[start:end])[len(_decode(tokenizer, before)) :]
        yield dataset_pb2.TextSpan(text=text, trained=bool(learned[start]), tokens=end - start, cut=bool(cut[start]))


def _decode(tokenizer: PreTrainedTokenizerBase, tokens: list[int]) -> str:
    text = tokenizer.decode(tokens, clean_up_tokenization_spaces=False)
    return text if isinstance(text, str) else ""
