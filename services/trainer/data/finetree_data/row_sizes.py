# SPDX-License-Identifier: Apache-2.0
"""Sizes of rows in tokens without a tokenizer: estimated from their texts, and what a chat template adds."""

from collections import Counter
from collections.abc import Container
from dataclasses import dataclass
from typing import Any

from finetree_api.types.v1 import training_data_pb2, training_pb2

from finetree_data.options import RowFormat
from finetree_data.rows.row import Row
from finetree_data.token_estimates import (
    END_OF_TEXT,
    END_OF_TURN,
    MESSAGE,
    NO_SYSTEM_MESSAGE,
    NOTHING,
    TokenRange,
    template_tokens,
    text_tokens,
    tokens_of_bytes,
)


@dataclass(frozen=True, slots=True)
class RowTokens:
    """Estimated tokens of a row."""

    all: TokenRange
    learned: float
    """Expected tokens that count in the loss."""

    @property
    def expected(self) -> int:
        """Expected tokens, as a whole number."""
        return round(self.all.expected)


class RowSizes:
    """Estimated token lengths of a file's rows.

    They are kept as a histogram whose bounds are at most an eighth apart: at most 256 of them up to 2^30.
    """

    def __init__(self) -> None:
        self.rows = 0
        self.tokens = NOTHING
        self.targets = 0
        self.longest = 0
        self._buckets: Counter[int] = Counter()

    def add(self, row: RowTokens) -> None:
        """Count a row."""
        tokens = row.expected
        self.rows += 1
        self.tokens += row.all
        self.targets += round(row.learned)
        self.longest = max(self.longest, tokens)
        shift = max(0, tokens.bit_length() - 4)
        self._buckets[-(-tokens >> shift) << shift] += 1

    def percentile(self, share: float) -> int:
        """Return the tokens that a share of the rows, 0 to 1, does not exceed: a bucket's bound by nearest rank."""
        # Whole thousandths: 0.95 * 20 is 19.000000000000004 and would give the next rank.
        rank, seen = -(-round(share * 1000) * self.rows // 1000), 0
        for bound, count in sorted(self._buckets.items()):
            seen += count
            if seen >= rank:
                return min(bound, self.longest)
        return self.longest

    def profile(self, share: float = 1.0) -> training_data_pb2.DatasetProfile:
        """Return the profile of a file of which this share was counted, 0 to 1. At least one row was."""
        lengths = [
            training_data_pb2.TokenLengthBucket(upper_bound=bound, count=round(count / share))
            for bound, count in sorted(self._buckets.items())
        ]
        return training_data_pb2.DatasetProfile(
            examples=round(self.rows / share),
            token_lengths=lengths,
            target_fraction=min(1.0, self.targets / self.tokens.expected),
            **totals(self.tokens.times(1 / share)),
        )


def totals(tokens: TokenRange) -> dict[str, Any]:
    """Return the fields of a profile that say how many tokens there are, by an estimate."""
    low, expected, high = (max(1, round(end)) for end in (tokens.low, tokens.expected, tokens.high))
    counted = training_data_pb2.TokenCountRange(low=low, high=high)
    return {"total_tokens": expected, "total_tokens_range": counted, "exact": False}


def learned_turns(row: Row, loss_tokens: training_pb2.LossTokens.ValueType) -> Container[int]:
    """Return the indexes of the messages that count in the loss."""
    if loss_tokens == training_pb2.LOSS_TOKENS_ALL:
        return range(len(row.messages))
    learned = [i for i, message in enumerate(row.messages) if message.role == "assistant" and message.learned]
    return learned[-1:] if loss_tokens == training_pb2.LOSS_TOKENS_LAST_COMPLETION else learned


def estimated_tokens(
    row: Row, loss_tokens: training_pb2.LossTokens.ValueType = training_pb2.LOSS_TOKENS_COMPLETIONS
) -> RowTokens:
    """Return the estimated tokens of a row as it is trained, a chat as a template renders it."""
    added = template_tokens(row.messages, tools=bool(row.tools))
    if not row.messages:
        tokens = text_tokens(row.text) + added
        return RowTokens(tokens, tokens.expected)
    learned = learned_turns(row, loss_tokens)
    tokens, target = text_tokens("".join(map(str, row.tools))) + added, 0.0
    for index, message in enumerate(row.messages):
        calls = "".join(str(call["function"]) for call in message.tool_calls)
        content = text_tokens(message.content + calls)
        tokens += content
        target += content.expected + END_OF_TURN if index in learned else 0
    # A loss on all tokens is one on the template's too.
    return RowTokens(tokens, tokens.expected if loss_tokens == training_pb2.LOSS_TOKENS_ALL else target)


def unread_tokens(row_format: RowFormat, rows: int, size: int) -> TokenRange:
    """Return the estimated tokens of rows of which only the bytes of all together are known, taken for ASCII.

    Chats are taken to be a question and an answer each; the characters of their roles make up for some of more turns.
    """
    added = END_OF_TEXT if row_format is RowFormat.TEXT else MESSAGE.times(2) + NO_SYSTEM_MESSAGE
    return tokens_of_bytes(size) + added.times(rows)
