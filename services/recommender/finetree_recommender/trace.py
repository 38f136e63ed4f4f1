# SPDX-License-Identifier: Apache-2.0
"""The ordered record of what was decided, by which rule, from which inputs."""

from dataclasses import dataclass
from typing import NamedTuple

from finetree_recommender.method import Method


class Step(NamedTuple):
    """One step of a decision."""

    stage: str
    rule_id: str
    outcome: str
    provenance: bytes
    """As bytes of the wire: a step is a key of what is kept of it, and messages are none."""
    inputs_read: tuple[str, ...] = ()
    """Inputs as "name=value"."""
    overruled_rule_id: str = ""


class Caution(NamedTuple):
    """Something to beware of."""

    code: str
    message: str
    rule_id: str
    redirect: Method | None = None


@dataclass(frozen=True, slots=True)
class Breach:
    """A wish that a method would break, with the numbers; a hard one is a thing that does not work at all."""

    code: str
    message: str
    rule_id: str
    hard: bool


class Reason(NamedTuple):
    """Why a method stands where it stands."""

    code: str
    message: str
    rule_id: str
