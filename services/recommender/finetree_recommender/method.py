# SPDX-License-Identifier: Apache-2.0
"""The five fine-tuning methods, and which of them this suite trains."""

from enum import StrEnum


class Method(StrEnum):
    """A fine-tuning method; the values are the names that packs use."""

    FULL = "FULL"
    LORA = "LORA"
    QLORA = "QLORA"
    PREFIX = "PREFIX"
    ADAPTER = "ADAPTER"

    @property
    def field(self) -> str:
        """Name of the RunSpec field that selects the method."""
        return self.value.lower()


TRAINABLE_HERE: frozenset[Method] = frozenset(Method)
"""Methods that this suite's trainer runs; a test compares them with the trainer's own list."""
