# SPDX-License-Identifier: Apache-2.0
"""Which measures hold for a process, and why the others do not."""

import enum
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


class State(enum.StrEnum):
    """What became of a measure."""

    HOLDS = "holds"
    PARTIAL = "partial"
    UNAVAILABLE = "unavailable"
    OFF = "off"


NO_NEW_PRIVILEGES = "no_new_privileges"
CAPABILITIES = "capabilities"
LIMITS = "resource_limits"
NETWORK_NAMESPACE = "network_namespace"
FILES = "files"
JOB_FILES = "job_files"
SCOPE = "signals_and_abstract_sockets"
UNIX_SOCKETS = "unix_sockets"
SYSTEM_CALLS = "system_calls"
SOCKETS = "network_sockets"
USER = "own_user"

CORE = (NO_NEW_PRIVILEGES, CAPABILITIES, LIMITS, FILES, SYSTEM_CALLS, SOCKETS)
"""Measures without which a service that requires confinement does not start: each Linux from 5.13 on has them unless
somebody switched them off. The others depend on the kernel's age, or on who runs the service."""


@dataclass(frozen=True, slots=True)
class Measure:
    """One measure: its name, what became of it, and why it does not hold as a whole."""

    name: str
    state: State
    why: str = ""


def missing(measures: Iterable[Measure]) -> list[Measure]:
    """Return those of CORE that the system does not allow."""
    return [measure for measure in measures if measure.name in CORE and measure.state is State.UNAVAILABLE]


def summary(measures: Sequence[Measure]) -> str:
    """Say on one line what holds and what does not, with reasons."""
    holds = [measure.name for measure in measures if measure.state is State.HOLDS]
    others = [f"{m.name} {m.state} ({m.why})" for m in measures if m.state is not State.HOLDS]
    return "; ".join([f"confined: {', '.join(holds) or 'nothing holds'}", *others])


def to_text(measures: Sequence[Measure]) -> str:
    """Write a report as one line."""
    return json.dumps([[measure.name, measure.state, measure.why] for measure in measures])


def from_text(text: str) -> tuple[Measure, ...]:
    """Read a report. Raises ValueError, TypeError where the text is none."""
    return tuple(Measure(name, State(state), why) for name, state, why in json.loads(text))
