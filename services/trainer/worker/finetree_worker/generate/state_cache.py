# SPDX-License-Identifier: Apache-2.0
"""States of one layer that mixes tokens by a convolution or a recurrence, for several sequences.

A sequence has a slot, as in the cache of keys and values, and one state in it however long it is: what it had before
its newest tokens. A sequence that begins has none, whatever stood in its slot.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import pad


@dataclass(frozen=True, slots=True)
class Rows:
    """Slots [first, first + count) of `slots` that one pass reads and writes, and whether they begin with it."""

    first: int
    count: int
    slots: int
    begin: bool


@dataclass(slots=True)
class LayerStates:
    """The states of a layer by kind and number, each (slots, ...)."""

    held: dict[tuple[str, int], Tensor] = field(default_factory=dict)

    def get(self, kind: str, number: int, rows: Rows) -> Tensor | None:
        """Return the rows' state, a view of it (rows, ...); None where they begin."""
        state = self.held.get((kind, number))
        return None if rows.begin or state is None else state.narrow(0, rows.first, rows.count)

    def put(self, kind: str, number: int, rows: Rows, state: Tensor) -> Tensor:
        """Store the rows' state (rows, ...); return it."""
        held = self.held.get((kind, number))
        if held is None or held.shape[0] < rows.slots:
            grown = state.new_zeros(rows.slots, *state.shape[1:])
            if held is not None:
                grown[: held.shape[0]] = held
            self.held[kind, number] = held = grown
        held.narrow(0, rows.first, rows.count).copy_(state)
        return state

    def put_inputs(self, number: int, rows: Rows, inputs: Tensor, width: int) -> Tensor:
        """Store the last `width` inputs of a convolution, (rows, channels, tokens); return what it is to be run on.

        Those are the inputs with what the rows had before them; rows that begin have zeros to fill the width.
        """
        before = self.get("inputs", number, rows)
        if before is None:
            whole = pad(inputs, (max(0, width - inputs.shape[-1]), 0))
        else:
            whole = torch.cat([before, inputs], dim=-1)
        self.put("inputs", number, rows, whole[..., -width:])
        return whole

    def move(self, source: int, target: int) -> None:
        """Copy a slot's states to another slot."""
        for state in self.held.values():
            if source < state.shape[0]:
                state[target] = state[source]

    def wipe(self, slot: int) -> None:
        """Set a slot's states to zero."""
        for state in self.held.values():
            if slot < state.shape[0]:
                state[slot].zero_()

    @property
    def bytes(self) -> int:
        """Bytes of all states."""
        return sum(state.numel() * state.element_size() for state in self.held.values())
