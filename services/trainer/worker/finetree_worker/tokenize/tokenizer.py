# SPDX-License-Identifier: Apache-2.0
"""Tokenizing rows, with a mark on each token that is learned."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from finetree_worker.plan import LossOn
from finetree_worker.tokenize.chat_template import ChatTemplate
from finetree_worker.tokenize.encode import Encoded, Encoder
from finetree_worker.tokenize.render import Rendered, render
from finetree_worker.tokenize.rows import Row, RowFormat

BLOCK_ROWS, BLOCK_CHARACTERS = 512, 1 << 20
"""Most rows, or characters of them, that are tokenized at once: the tokenizer needs some hundred bytes for each token.

Between two blocks a task polls for a cancel."""


@dataclass(frozen=True, slots=True)
class TokenBlock:
    """Tokens of some rows, one row after another.

    tokens int32 and learned bool are (tokens,); lengths int64 (rows,): number of tokens of each row.
    """

    rows: Sequence[Row]
    tokens: NDArray[np.int32]
    learned: NDArray[np.bool_]
    lengths: NDArray[np.int64]


class RowTokenizer:
    """Tokenizes rows; the tokenizer may not be changed meanwhile.

    Chat and prompt/completion rows go through the tokenizer's chat template; without a template, a prompt and its
    completion are joined as they are. Every completion ends in the template's end-of-turn token or, where it has
    none, in the end-of-sequence token, and that token is learned, whatever the padding token is; so does a plain text.
    Without `append_eos` no end-of-sequence token is added. A tokenizer that begins texts with a BOS token gives each
    row exactly one.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, loss_on: LossOn, *, append_eos: bool = True) -> None:
        self.bos = leading_bos(tokenizer)
        self.endings = np.array(sorted(ending_ids(tokenizer) - {None}), np.int64)
        self.template = ChatTemplate(tokenizer)
        self._encoder = Encoder(tokenizer)
        self._loss_on, self._eos, self._append_eos = loss_on, tokenizer.eos_token_id, append_eos

    def block(self, rows: Sequence[Row], row_format: RowFormat) -> TokenBlock:
        """Tokenize rows, at least one, without truncation. Raises DataError."""
        rendered = [render(row, row_format, template=self.template, loss_on=self._loss_on) for row in rows]
        texts = [each.text for each in rendered]
        encoded = self._encoder.encode(texts)
        learned = learned_tokens(rendered, encoded)
        return self._with_ends(rows, rendered, encoded=encoded, learned=learned)

    def _with_ends(
        self, rows: Sequence[Row], rendered: Sequence[Rendered], *, encoded: Encoded, learned: NDArray[np.bool_]
    ) -> TokenBlock:
        """Add a BOS token before, and an EOS token after, the rows that lack one."""
        tokens, lengths = encoded.ids, encoded.lengths
        ends = lengths.cumsum()
        starts, filled = ends - lengths, lengths > 0
        open_ended = np.fromiter(map(_ends_in_answer, rendered), np.bool_, len(rendered)) & filled
        open_ended[filled] &= ~np.isin(tokens[ends[filled] - 1], self.endings)
        open_ended &= ~self.learns_to_end(tokens, learned, lengths)
        open_ended &= self._append_eos
        headless = np.zeros_like(filled)
        if self.bos is not None:
            headless = ~filled
            headless[filled] = tokens[starts[filled]] != self.bos
        which = np.stack((headless, open_ended), 1)
        if which.any():
            places, ending = np.stack((starts, ends), 1)[which], np.nonzero(which)[1] == 1
            added = [self._eos if ends_row else self.bos for ends_row in ending]
            tokens = np.insert(tokens, places, np.array(added, np.int32))
            learned = np.insert(learned, places, ending)
        return TokenBlock(rows, tokens, learned, lengths + headless + open_ended)

    def learns_to_end(
        self, tokens: NDArray[np.int32], learned: NDArray[np.bool_], lengths: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        """Return whether the last learned token of a row ends a turn or a sequence, bool (rows,)."""
        where = learned.nonzero()[0]
        ends = lengths.cumsum()
        before = np.searchsorted(where, ends)  # learned tokens up to the end of each row
        has = before > np.searchsorted(where, ends - lengths)
        found = np.zeros(len(lengths), np.bool_)
        found[has] = np.isin(tokens[where[before[has] - 1]], self.endings)
        return found


def blocks(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """Yield the rows in blocks that end with the row that reaches BLOCK_ROWS or BLOCK_CHARACTERS."""
    block: list[Row] = []
    size = 0
    for row in rows:
        block.append(row)
        size += _characters(row)
        if len(block) == BLOCK_ROWS or size >= BLOCK_CHARACTERS:
            yield block
            block, size = [], 0
    if block:
        yield block


def _characters(row: Row) -> int:
    """Return about how many characters a row has as text."""
    size = len(row.text) + sum(len(message.content) for message in row.messages)
    if row.tools:
        size += len(str(row.tools))
    return size + sum(len(str(message.tool_calls)) for message in row.messages if message.tool_calls)


def learned_tokens(rendered: Sequence[Rendered], encoded: Encoded) -> NDArray[np.bool_]:
    """Return whether each token has a character of a learned span.

    A token across the beginning of a span has the span's first characters, so it is learned.
    """
    starts, ends = encoded.starts, encoded.ends
    learned = np.zeros(len(starts), np.bool_)
    in_order = bool((starts[1:] >= starts[:-1]).all() and (ends[1:] >= ends[:-1]).all())
    spans = _spans(rendered)
    if in_order:
        lows = np.searchsorted(ends, spans[:, 0], side="right").tolist()
        highs = np.searchsorted(starts, spans[:, 1], side="left").tolist()
        for low, high in zip(lows, highs, strict=True):
            learned[low:high] = True
    else:
        for first, last in spans.tolist():
            learned |= (ends > first) & (starts < last)
    return learned & (ends > starts)


def _spans(rendered: Sequence[Rendered]) -> NDArray[np.int64]:
    """Return all learned spans, counted from the beginning of the first text, int64 (spans, 2)."""
    base = 0
    spans = []
    for each in rendered:
        spans += [(base + first, base + last) for first, last in each.spans]
        base += len(each.text)
    return np.array(spans, np.int64).reshape(-1, 2)


def _ends_in_answer(rendered: Rendered) -> bool:
    """Return whether the last learned span ends the text, but for white space that it has or that follows it."""
    return bool(rendered.spans) and rendered.spans[-1][1] >= len(rendered.text.rstrip())


def ending_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Return the tokens that end a turn or a sequence: the EOS token and every special one but the BOS token."""
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    return (special | set(tokenizer.all_special_ids)) - {tokenizer.bos_token_id} | {tokenizer.eos_token_id}


def leading_bos(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Return the BOS token that the tokenizer adds before a text; None where it adds none."""
    ids: list[int] = tokenizer("a", add_special_tokens=True)["input_ids"]
    return ids[0] if ids and ids[0] == tokenizer.bos_token_id else None
