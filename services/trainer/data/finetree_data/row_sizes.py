# SPDX-License-Identifier: Apache-2.0
"""Sizes of rows in tokens without a tokenizer: estimated from their characters."""

from collections import Counter

from finetree_api.types.v1 import training_data_pb2

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
        self._buckets: Counter[int] = Counter()

    def add(self, row: Row) -> None:
        """Count a row."""
        tokens, targets = estimated_tokens(row)
        self.rows += 1
        self.tokens += tokens
        self.targets += targets
        shift = max(0, tokens.bit_length() - 4)
        self._buckets[-(-tokens >> shift) << shift] += 1

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


def estimated_tokens(row: Row) -> tuple[int, int]:
    """Return the estimated tokens of a row, and those of them that are learned."""
    if not row.messages:
        return _tokens(len(row.text)), _tokens(len(row.text))
    total = target = 0
    for message in row.messages:
        calls = sum(len(str(call["function"])) for call in message.tool_calls)
        tokens = _tokens(len(message.content) + calls)
        total += tokens + TOKENS_PER_MESSAGE
        target += tokens if message.role == "assistant" and message.learned else 0
    return total + sum(len(str(tool)) for tool in row.tools) // int(CHARACTERS_PER_TOKEN), target


def _tokens(characters: int) -> int:
    return max(1, round(characters / CHARACTERS_PER_TOKEN))
