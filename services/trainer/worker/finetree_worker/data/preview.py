# SPDX-License-Identifier: Apache-2.0
"""Rows as training uses them, in spans of text that are learned or not, and cut off or not."""

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
"""Name of the file of kept rows: a PreviewRow as proto JSON on each line, in the order of splits and rows."""
FIRST_ROWS = 200
"""Number of a split's first rows, all of which are kept."""
FOUND_ROWS = 100
"""Number of rows of each finding that are kept: as many as a report lists."""
SPAN_CHARACTERS = 2000
"""Longest text of a span in characters; the middle of a longer one is left out."""
SPANS = 64
"""Number of spans of a row that are kept."""
RENDERED_CHARACTERS = 4000
"""Longest rendered example of a report in characters; the rest of the row is left out."""
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
    """Return indexes into the split: its first rows, and the first of each finding."""
    lengths, firsts = split.column("lengths"), split.column("firsts")
    findings = (lengths > split.limit, split.dropped, firsts < 1)
    first = range(min(FIRST_ROWS, len(lengths)))
    return sorted({*first, *(int(i) for found in findings for i in found.nonzero().squeeze(1)[:FOUND_ROWS])})


def preview_row(split: Split, at: int, tokenizer: PreTrainedTokenizerBase) -> dataset_pb2.PreviewRow:
    """Return a whole row of a split with its spans."""
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
    """Add the first row of a split that is not skipped to its report, as the model reads it."""
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
    """Yield a row's text in spans that are learned or not, and cut off or not. `limit` is in tokens."""
    tokens = example.tokens.tolist()
    learned = example.is_target.clone()
    # No token comes before the first one that could predict it; tokens after the limit are not read.
    learned[:1] = False
    learned[limit:] = False
    cut = torch.arange(len(tokens)) >= limit
    marks = torch.stack([learned, cut])
    changes = (marks[:, 1:] != marks[:, :-1]).any(dim=0).nonzero().squeeze(1) + 1
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
