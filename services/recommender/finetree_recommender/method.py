# SPDX-License-Identifier: Apache-2.0
"""The five fine-tuning methods, and which of them this suite trains."""

from collections.abc import Iterable
from enum import StrEnum


class Method(StrEnum):
    """A fine-tuning method: its value is the name that packs use, its text the one that people read."""

    FULL = "FULL"
    LORA = "LORA"
    QLORA = "QLORA"
    PREFIX = "PREFIX"
    ADAPTER = "ADAPTER"

    # Most of a recommendation's tables are by method, and an enum's own hash calls back into Python.
    __hash__ = str.__hash__

    def __str__(self) -> str:
        return _NAMES[self]

    def __format__(self, form: str) -> str:
        return format(_NAMES[self], form)

    @property
    def field(self) -> str:
        """Name of the RunSpec field that selects the method."""
        return self.value.lower()

    @property
    def shares_base(self) -> bool:
        """Whether its results for several tasks share one base model: full fine-tuning makes a whole model a task."""
        return self is not Method.FULL

    @property
    def plural(self) -> bool:
        """Whether its name is a plural inside of a sentence: adapter layers fit, LoRA fits."""
        return self is Method.ADAPTER


_NAMES = {
    Method.FULL: "full fine-tuning",
    Method.LORA: "LoRA",
    Method.QLORA: "QLoRA",
    Method.PREFIX: "prefix tuning",
    Method.ADAPTER: "adapter layers",
}
"""Names of the methods inside of a sentence."""


def listed(methods: Iterable[str], last: str = ",") -> str:
    """Name methods in a row: "LoRA, QLoRA", and with `last` "or": "LoRA, QLoRA or prefix tuning"."""
    *rest, end = map(str, methods)
    joint = f"{last} " if last == "," else f" {last} "
    return joint.join(([", ".join(rest)] if rest else []) + [end])


def target(name: str) -> str:
    """Name what a node of a tree leads to: a method, or another node by its id."""
    return str(Method(name)) if name in list(Method) else name


TRAINABLE_HERE: frozenset[Method] = frozenset(Method)
"""Methods that this suite's trainer runs; a test compares them with the trainer's own list."""
