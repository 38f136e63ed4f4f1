# SPDX-License-Identifier: Apache-2.0
"""A case's settings in the words of other estimators, for `peer_calls.py`. It imports nothing of this project."""

from typing import Any

Case = dict[str, Any]
Answer = dict[str, Any]
GIB = 2**30
MANY_ROWS = 1_000_000
"""Rows of the run whose hours are asked for, so that a peer's rounding of hours does not show."""
KERNELS = {"flash": "flash_attention_2", "sdpa": "sdpa", "eager": "eager"}
"""Attention kernels by transformers' names."""
QUANTIZED_BITS = {"nf4": "4bit", "nf4-dq": "4bit", "gptq_int4": "4bit", "int8": "8bit"}
"""Formats of a quantized base where a peer knows no more than their bits."""
_ATTENTION = frozenset({"q_proj", "k_proj", "v_proj", "o_proj"})


class CannotSayError(Exception):
    """The peer has no input for something that the case depends on."""


def only(case: Case, methods: tuple[str, ...], *, several: bool = False) -> None:
    """Refuse other methods, several devices where they cannot be told, and what no peer has an input for.

    Raises CannotSayError.
    """
    if case["devices"] > 1 and not several:
        raise CannotSayError("several devices")
    if case["method"] not in methods:
        raise CannotSayError(f"the method {case['method']}")
    if case["variant"] == "dora":
        raise CannotSayError("DoRA")
    if case["in_backward"]:
        raise CannotSayError("updates in the backward pass")


def recomputes(case: Case) -> bool:
    """Whether layers are checkpointed; none but Unsloth's own can be told that inputs wait on the host."""
    if case["checkpointing"] == "offloaded":
        raise CannotSayError("checkpoints on the host")
    return bool(case["checkpointing"] == "full")


def told(words: dict[str, str], value: str, what: str) -> str:
    """The peer's word. Raises CannotSayError where it has none."""
    if value not in words:
        raise CannotSayError(f"{what} {value}")
    return words[value]


def preset(case: Case, presets: dict[str, str]) -> str:
    """The peer's name for the LoRA targets. Keys have values' shape, so that q+k costs what q+v does."""
    mlp = {"gate_proj", "up_proj", "down_proj"} if case["gated"] else {"up_proj", "down_proj"}
    known = {
        frozenset({"q_proj", "v_proj"}): "q,v",
        frozenset({"q_proj", "k_proj"}): "q,v",
        _ATTENTION: "attention",
        _ATTENTION | mlp: "all-linear",
        frozenset(): "q,v",
    }
    found = known.get(frozenset(case["targets"]))
    if found is None:
        raise CannotSayError("LoRA on these modules")
    return presets[found]
