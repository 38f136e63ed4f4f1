# SPDX-License-Identifier: Apache-2.0
"""Sizes of rows in tokens without a tokenizer: estimated from their characters."""

from collections import Counter
from collections.abc import Container

from finetree_api.types.v1 import training_data_pb2, training_pb2

from finetree_data.rows.row import Row

CHARACTERS_PER_TOKEN = 4.0
"""Characters of a token. A rule of thumb for English text (OpenAI, "What are tokens and how to count them?")."""
TOKENS_PER_MESSAGE = 5
"""Tokens that a chat template puts around a message (ChatML: two marks, role, two line breaks)."""


class RowSizes:
    """Estimated token lengths of a file's rows.

    They are kept as a histogram whose bounds are at most an eighth apart: at most 256 of them up to 2^30.
    """

    def __init__(self) -> None:
        self.rows = 0
        self.tokens = 0
        self.targets = 0
        self.longest = 0
        self._buckets: Counter[int] = Counter()

    def add(self, tokens: int, targets: int) -> None:
        """Count a row by its tokens, and those of them that are learned."""
        self.rows += 1
        self.tokens += tokens
        self.targets += targets
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
            total_tokens=round(self.tokens / share),
            target_fraction=self.targets / self.tokens,
            exact=False,
        )


def learned_turns(row: Row, loss_tokens: training_pb2.LossTokens.ValueType) -> Container[int]:
    """Return the indexes of the messages that count in the loss."""
    if loss_tokens == training_pb2.LOSS_TOKENS_ALL:
        return range(len(row.messages))
    learned = [i for i, message in enumerate(row.messages) if message.role == "assistant" and message.learned]
    return learned[-1:] if loss_tokens == training_pb2.LOSS_TOKENS_LAST_COMPLETION else learned


def estimated_tokens(
    row: Row, loss_tokens: training_pb2.LossTokens.ValueType = training_pb2.LOSS_TOKENS_COMPLETIONS
) -> tuple[int, int]:
    """Return the estimated tokens of a row, and those of them that are learned."""
    if not row.messages:
        return _tokens(len(row.text)), _tokens(len(row.text))
    learned = learned_turns(row, loss_tokens)
    total = target = 0
    for index, message in enumerate(row.messages):
        calls = sum(len(str(call["function"])) for call in message.tool_calls)
        tokens = _tokens(len(message.content) + calls)
        total += tokens + TOKENS_PER_MESSAGE
        target += tokens if index in learned else 0
    return total + sum(len(str(tool)) for tool in row.tools) // int(CHARACTERS_PER_TOKEN), target


def _tokens(characters: int) -> int:
    return max(1, round(characters / CHARACTERS_PER_TOKEN))
