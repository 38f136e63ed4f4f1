# SPDX-License-Identifier: Apache-2.0
"""First stage: which methods the playbook lets this hardware run."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache, partial

from finetree_recommender.decision import fit
from finetree_recommender.estimator.values import FitState
from finetree_recommender.method import METHODS, Method
from finetree_recommender.policy.answers import CPU, UNKNOWN, Answers
from finetree_recommender.policy.pack import Pack
from finetree_recommender.policy.schema.basic_rules import Cited
from finetree_recommender.policy.schema.rules import MemoryClass
from finetree_recommender.trace import Step


@dataclass(slots=True, eq=False)
class Passage:
    """What the gate lets through."""

    feasible: tuple[Method, ...]
    """In the order of stars; empty where the playbook says upgrade."""
    upgrade: bool
    rule_id: str
    tell: Callable[[], Step] = field(repr=False, compare=False)
    """Makes the step of the trace: of the many verdicts that are asked for, few are told."""

    @property
    def step(self) -> Step:
        """What the trace says of it."""
        return self.tell()

    @property
    def steps(self) -> tuple[Step, ...]:
        """The steps of the trace."""
        return (self.tell(),)


def pass_gate(pack: Pack, answers: Answers, states: fit.States | None = None) -> Passage:
    """Apply the hardware gate to the answers; a pack that asks for physics takes the estimator's word instead."""
    physics = pack.rules.gate.physics
    if physics is not None and states is not None:
        return _by_physics(pack, answers.memory, states, physics)
    return _by_memory(pack, answers.memory)


@lru_cache(maxsize=1024)
def _by_memory(pack: Pack, memory: str) -> Passage:
    rules = pack.rules
    if memory == UNKNOWN:
        return _passage(pack, memory, rules.stars_order.methods, rules.gate.unknown, "memory unknown")
    if memory == CPU:
        return _passage(pack, memory, (), rules.gate.cpu, "no GPU")
    found = next(item for item in rules.gate.classes if item.key == memory)
    return _passage(pack, memory, _of_class(pack, found), found, memory_words(pack, memory))


def _of_class(pack: Pack, found: MemoryClass) -> tuple[Method, ...]:
    order = pack.rules.stars_order.methods
    return () if found.upgrade else tuple(m for m in order if pack.card(m).minimum_gpu_gb.value <= found.low)


@lru_cache(maxsize=4096)
def _by_physics(pack: Pack, memory: str, states: fit.States, rule: Cited) -> Passage:
    """Methods whose recipe fits; one that the estimator has no figure for is let through by its class."""
    state = dict(zip(METHODS, states, strict=True))
    found = next((item for item in pack.rules.gate.classes if item.key == memory), None)
    by_class = _of_class(pack, found) if found is not None else ()
    order = pack.rules.stars_order.methods
    fits = (FitState.FITS, FitState.TIGHT)
    allowed = tuple(m for m in order if state[m] in fits or (state[m] is FitState.UNKNOWN and m in by_class))
    outcome = f"fits by the estimate: {', '.join(allowed)}" if allowed else "nothing fits by the estimate: upgrade"
    return Passage(allowed, not allowed, rule.id, partial(_step, pack, memory, rule, outcome))


@lru_cache(maxsize=1024)
def memory_words(pack: Pack, key: str) -> str:
    """A memory class for people."""
    if key == CPU:
        return "a CPU alone"
    found = next((item for item in pack.rules.gate.classes if item.key == key), None)
    if found is None:
        return UNKNOWN
    if found.low == 0:
        return f"a GPU below {found.high:g} GB"
    return f"a GPU of {found.low:g} GB" + (" or more" if math.isinf(found.high) else "")


def _passage(pack: Pack, memory: str, allowed: tuple[Method, ...], rule: Cited | MemoryClass, words: str) -> Passage:
    outcome = (
        f"{words}: {', '.join(allowed)}" if allowed else f"{words}: {pack.rules.gate.speaker} says to upgrade the GPU"
    )
    return Passage(allowed, not allowed, rule.id, partial(_step, pack, memory, rule, outcome))


def _step(pack: Pack, memory: str, rule: Cited | MemoryClass, outcome: str) -> Step:
    return Step("hardware_gate", rule.id, outcome, pack.cited(rule.source), (f"memory={memory}",))
