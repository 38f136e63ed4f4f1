# SPDX-License-Identifier: Apache-2.0
"""Rows as people read them: turns by their roles, in spans that are learned or not. No chat template is applied."""

import json
from collections.abc import Iterator

from finetree_api.trainer.v1 import dataset_pb2
from finetree_api.types.v1 import training_data_pb2, training_pb2

from finetree_data.row_sizes import learned_turns
from finetree_data.rows.row import Message, Row

SPAN_CHARACTERS = 2000
"""Longest text of a span in characters; the middle of a longer one is left out."""
SPANS = 64
"""Number of spans of a row that are kept."""


def preview_row(
    row: Row, split: training_data_pb2.Split.ValueType, loss_tokens: training_pb2.LossTokens.ValueType
) -> dataset_pb2.PreviewRow:
    """Return a row with its spans; token counts are unset."""
    shown = dataset_pb2.PreviewRow(split=split, row=row.number)
    for text, learned in _merged(row, loss_tokens):
        if len(shown.spans) == SPANS:
            shown.shortened = True
            break
        if len(text) > SPAN_CHARACTERS:
            shown.shortened = True
        shown.spans.add(text=_abridged(text), trained=learned)
    return shown


def _abridged(text: str) -> str:
    half = SPAN_CHARACTERS // 2
    return text if len(text) <= SPAN_CHARACTERS else f"{text[:half]} … {text[-half:]}"


def _merged(row: Row, loss_tokens: training_pb2.LossTokens.ValueType) -> Iterator[tuple[str, bool]]:
    """Yield the row's pieces of text, neighbors that are both learned or both not as one."""
    text, learned = "", False
    for piece, is_learned in _pieces(row, loss_tokens):
        if text and is_learned != learned:
            yield text, learned
            text = ""
        text, learned = text + piece, is_learned
    if text:
        yield text, learned


def _pieces(row: Row, loss_tokens: training_pb2.LossTokens.ValueType) -> Iterator[tuple[str, bool]]:
    if not row.messages:
        yield row.text, True
        return
    everything = loss_tokens == training_pb2.LOSS_TOKENS_ALL
    learned = learned_turns(row, loss_tokens)
    if row.tools:
        names = (str(tool.get("function", tool).get("name", "?")) for tool in row.tools)
        yield f"functions: {', '.join(names)}\n", everything
    for index, message in enumerate(row.messages):
        end = "\n" if index + 1 < len(row.messages) else ""
        yield f"{message.role}: ", everything
        yield _said(message) + end, index in learned


def _said(message: Message) -> str:
    calls = (json.dumps(call["function"], ensure_ascii=False) for call in message.tool_calls)
    return "\n".join(filter(None, (message.content, *calls)))
