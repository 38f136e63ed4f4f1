# SPDX-License-Identifier: Apache-2.0
"""From rows to tokens, with a mark on every token that is learned."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from finetree_worker.errors import DataError
from finetree_worker.formats import CONVERSATIONS, Format, Message, Row
from finetree_worker.packing import Example
from finetree_worker.plan import LossOn
from finetree_worker.tool_text import TEMPLATE_FAULTS, for_template

BATCH_ROWS = 512
"""Rows that the tokenizer gets at once; between two batches a task looks whether it was cancelled."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """A row as the text that the model reads, and the spans of it (characters, half open) that it learns."""

    row: int
    text: str
    spans: tuple[tuple[int, int], ...]


def tokenize(
    rows: Sequence[Row],
    shape: Format,
    tokenizer: PreTrainedTokenizerBase,
    loss_on: LossOn,
    on_rows: Callable[[int], None],
) -> list[Example]:
    """Tokenise all rows, whole. `on_rows(n)` is called after each batch with the number of rows done so far.

    Chat and prompt/completion rows go through the tokenizer's chat template; without a template, a prompt and its
    completion are joined as they are. Every completion ends in the template's end-of-turn token or, where it has
    none, in the end-of-sequence token, and that token is learned, whatever the padding token is. A tokenizer that
    begins texts with a BOS token gives each row exactly one.
    """
    examples: list[Example] = []
    for start in range(0, len(rows), BATCH_ROWS):
        batch = [render(row, shape, tokenizer, loss_on) for row in rows[start : start + BATCH_ROWS]]
        encoded = tokenizer([r.text for r in batch], add_special_tokens=False, return_offsets_mapping=True)
        for rendered, tokens, offsets in zip(batch, encoded["input_ids"], encoded["offset_mapping"], strict=True):
            examples.append(_example(rendered, tokens, offsets, tokenizer))
        on_rows(min(start + BATCH_ROWS, len(rows)))
    return examples


def _example(
    rendered: Rendered, tokens: list[int], offsets: list[tuple[int, int]], tokenizer: PreTrainedTokenizerBase
) -> Example:
    ids = torch.tensor(tokens, dtype=torch.int32)
    ends = torch.tensor([end for _, end in offsets], dtype=torch.int64)
    starts = torch.tensor([start for start, _ in offsets], dtype=torch.int64)
    learned = torch.zeros(len(tokens), dtype=torch.bool)
    for first, last in rendered.spans:
        # A token that straddles the beginning of a span carries the span's first characters: it is learned.
        learned |= (ends > first) & (starts < last) & (ends > starts)
    ends_row = bool(rendered.spans) and rendered.spans[-1][1] == len(rendered.text.rstrip())
    if ends_row and tokens and tokens[-1] not in ending_ids(tokenizer) and not _ends_turn(tokens, learned, tokenizer):
        ids = torch.cat([ids, torch.tensor([tokenizer.eos_token_id], dtype=torch.int32)])
        learned = torch.cat([learned, torch.tensor([True])])
    bos = leading_bos(tokenizer)
    if bos is not None and (not tokens or tokens[0] != bos):
        ids = torch.cat([torch.tensor([bos], dtype=torch.int32), ids])
        learned = torch.cat([torch.tensor([False]), learned])
    return Example(rendered.row, ids, learned)


def _ends_turn(tokens: list[int], learned: torch.Tensor, tokenizer: PreTrainedTokenizerBase) -> bool:
    last = int(learned.nonzero()[-1]) if learned.any() else -1
    return last >= 0 and tokens[last] in ending_ids(tokenizer)


def ending_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Tokens that end a turn or a sequence: the end token and every special one but the BOS token."""
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    return (special | set(tokenizer.all_special_ids)) - {tokenizer.bos_token_id} | {tokenizer.eos_token_id}


def leading_bos(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The BOS token that the tokenizer itself puts before a text; None where it puts none."""
    ids: list[int] = tokenizer("a", add_special_tokens=True)["input_ids"]
    return ids[0] if ids and ids[0] == tokenizer.bos_token_id else None


def render(row: Row, shape: Format, tokenizer: PreTrainedTokenizerBase, loss_on: LossOn) -> Rendered:
    """The text of a row and what is learned of it."""
    if shape is Format.TEXT:
        return Rendered(row.number, row.text, ((0, len(row.text)),))
    if tokenizer.chat_template is None:
        if shape in CONVERSATIONS or row.tools:
            raise DataError(
                "NO_CHAT_TEMPLATE",
                "The dataset is a chat, but the model has no chat template.",
                field="dataset",
                remedy="Train an instruct model, or use rows of prompt and completion, or of text.",
            )
        *asked, answer = (message.content for message in row.messages)
        prompt, completion = "\n\n".join(asked), answer
        text = prompt + completion
        return _whole_if_all(Rendered(row.number, text, ((len(prompt), len(text)),)), loss_on)
    return _whole_if_all(_render_chat(for_template(row, tokenizer), tokenizer, loss_on), loss_on)


def _whole_if_all(rendered: Rendered, loss_on: LossOn) -> Rendered:
    if loss_on is not LossOn.ALL:
        return rendered
    return Rendered(rendered.row, rendered.text, ((0, len(rendered.text.rstrip())),))


def _render_chat(row: Row, tokenizer: PreTrainedTokenizerBase, loss_on: LossOn) -> Rendered:
    text = template(tokenizer, row.messages, row.number, tools=row.tools)
    _require_tools(row, text)
    if loss_on is LossOn.ALL:
        # Where answers stand in it does not matter then, and not every template shows it.
        return Rendered(row.number, text, ())
    turns = [i for i, message in enumerate(row.messages) if message.role == "assistant" and message.learned]
    if loss_on is LossOn.LAST_COMPLETION:
        turns = turns[-1:]
    spans = tuple(_span(row, i, text, tokenizer) for i in turns)
    return Rendered(row.number, text, spans)


def _span(row: Row, turn: int, text: str, tokenizer: PreTrainedTokenizerBase) -> tuple[int, int]:
    """Where assistant turn `turn` stands in `text`: from behind its header to its end-of-turn token, inclusive."""
    before = template(tokenizer, row.messages[:turn], row.number, prompt=True, tools=row.tools) if turn else ""
    through = template(tokenizer, row.messages[: turn + 1], row.number, tools=row.tools)
    if text.startswith(before) and text.startswith(through) and through.startswith(before):
        return len(before), len(through.rstrip())
    # Templates that rewrite earlier turns once later ones follow (Qwen 3 drops their thoughts): the header still
    # stands, and the turn ends at the next end-of-sequence token.
    end = text.find(str(tokenizer.eos_token), len(before))
    if text.startswith(before) and end >= 0:
        return len(before), end + len(str(tokenizer.eos_token))
    raise DataError(
        "UNSUPPORTED_TEMPLATE",
        f"Row {row.number}: the model's chat template does not show where the answer in messages[{turn}] begins.",
        field=f"dataset[{row.number}].messages[{turn}]",
        remedy='Set loss_tokens to LOSS_TOKENS_ALL, or give rows of "text", which no template touches.',
        row=row.number,
    )


def _require_tools(row: Row, text: str) -> None:
    """Refuse a row whose functions or calls the template leaves out: half of it would be learned, unnoticed."""
    called = [call["function"]["name"] for message in row.messages for call in message.tool_calls]
    offered = [str(tool["function"].get("name", "")) for tool in row.tools if isinstance(tool.get("function"), dict)]
    lost = next((name for name in called + offered if name and name not in text), "")
    if lost:
        raise DataError(
            "TOOLS_NOT_RENDERED",
            f"Row {row.number}: the model's chat template leaves the function {lost[:60]!r} out.",
            field=f"dataset[{row.number}]." + ("tools" if lost in offered else "messages"),
            remedy="Use a model whose chat template knows tools, or write the calls into the messages' content.",
            row=row.number,
        )


def template(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    row: int,
    *,
    prompt: bool = False,
    tools: Sequence[dict[str, Any]] = (),
) -> str:
    """Messages through the chat template; with `prompt`, up to where the assistant begins to answer."""
    turns = [_turn(message) for message in messages]
    try:
        text = tokenizer.apply_chat_template(
            turns, tools=list(tools) or None, tokenize=False, add_generation_prompt=prompt
        )
    except TEMPLATE_FAULTS as error:
        raise DataError(
            "TEMPLATE_REFUSED_ROW",
            f"Row {row}: the model's chat template refuses these messages: {str(error)[:200] or type(error).__name__}",
            field=f"dataset[{row}].messages",
            remedy="Many templates want user and assistant in turns, and a system message only at the beginning.",
            row=row,
        ) from error
    return str(text)


def _turn(message: Message) -> dict[str, Any]:
    """A message as chat templates know it."""
    turn: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        turn["tool_calls"] = list(message.tool_calls)
    if message.tool_call_id:
        turn["tool_call_id"] = message.tool_call_id
    if message.name:
        turn["name"] = message.name
    return turn
