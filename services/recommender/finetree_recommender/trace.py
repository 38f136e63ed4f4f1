# SPDX-License-Identifier: Apache-2.0
"""Records of a decision: steps of the trace, broken limits, cautions and reasons."""

from dataclasses import dataclass

from finetree_recommender.method import Method


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a decision."""

    stage: str
    rule_id: str
    outcome: str
    source: str
    """Reference to a source of the pack ("playbook L264")."""
    inputs_read: tuple[str, ...] = ()
    """Inputs that were read, as "name=value"."""
    overruled_rule_id: str = ""


@dataclass(frozen=True, slots=True)
class Violation:
    """A limit that a method would break, with the numbers."""

    code: str
    message: str
    rule_id: str
    hard: bool = False
    """Whether the method would not work at all."""
    value: float = 0.0
    """Expected seconds or USD of a run that exceeds a limit; 0 where no number was compared."""


@dataclass(frozen=True, slots=True)
class Caution:
    """Caution on a recommendation."""

    code: str
    message: str
    rule_id: str
    redirect: Method | None = None
    """Method to consider instead."""
    rented: str = ""
    """Accelerator that is offered; empty for none."""


@dataclass(frozen=True, slots=True)
class Reason:
    """Reason of a method's standing."""

    code: str
    message: str
    rule_id: str
