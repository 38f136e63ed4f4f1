# SPDX-License-Identifier: Apache-2.0
"""One tokenized row."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Example:
    """One tokenized row. `tokens` int32 (length,); `is_target` bool (length,): whether the token is learned.

    `row` is the line of the file, counted from 1; it names the row in reports and in its dropout masks.
    """

    row: int
    tokens: Tensor
    is_target: Tensor

    def __len__(self) -> int:
        return int(self.tokens.shape[0])

    @property
    def targets(self) -> int:
        """Number of its learned tokens; no token comes before the first one that could predict it."""
        return int(self.is_target[1:].sum())
