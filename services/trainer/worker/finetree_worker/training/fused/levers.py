# SPDX-License-Identifier: Apache-2.0
"""Which of the faster ways a process may take; all of them, unless a comparison turns some off."""

import enum
from collections.abc import Collection, Iterator
from contextlib import contextmanager


class Lever(enum.StrEnum):
    """A faster way to compute a part of the step. Its value stands in checkpoints: see `in_force`."""

    ATTENTION = "attention"
    """Causal attention by blocks on a CPU: `fused.causal_attention`."""
    LORA = "lora"
    """LoRA layers that read one input in one forward and backward pass: `methods.lora_groups`."""
    LOSS = "loss"
    """Cross entropy's gradient taken in the forward pass, block by block: `fused.cross_entropy`."""
    NORM = "norm"
    """RMSNorm's backward pass by hand: `fused.rms_norm`."""


_on: frozenset[Lever] = frozenset(Lever)


def is_on(lever: Lever) -> bool:
    """Return whether a way may be taken."""
    return lever in _on


@contextmanager
def only(levers: Collection[Lever]) -> Iterator[None]:
    """Allow these ways alone inside the block, in the whole process. For comparisons: jobs never turn one off."""
    global _on  # noqa: PLW0603 - a process trains one model at a time, and attention is called by transformers
    before, _on = _on, frozenset(levers)
    try:
        yield
    finally:
        _on = before


def in_force(device_type: str) -> str:
    """Return the ways that decide the rounding of a step on a device, as one text: two runs of one text round alike."""
    return " ".join(sorted(_VERSIONS.get(lever, lever) for lever in _on if device_type in _ROUNDS[lever]))


_ROUNDS: dict[Lever, tuple[str, ...]] = {
    Lever.ATTENTION: ("cpu",),
    Lever.LORA: ("cpu", "cuda"),
    Lever.LOSS: ("cpu", "cuda"),
    Lever.NORM: ("cpu", "cuda"),
}
"""Devices on which a way rounds otherwise than the plain one."""

_VERSIONS = {Lever.LORA: "lora-2", Lever.LOSS: "loss-3", Lever.NORM: "norm-2"}
"""Names of ways that once rounded otherwise. LoRA: 4-bit bases took the plain way. Loss: in blocks of 96 targets, then
trained heads took the plain way. Norm: trained ones took the plain way."""
