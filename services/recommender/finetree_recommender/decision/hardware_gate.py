# SPDX-License-Identifier: Apache-2.0
"""First stage: methods that are feasible on this hardware."""

import math
from dataclasses import dataclass

from finetree_recommender.estimator.values import FitState, States
from finetree_recommender.formatting import gpu
from finetree_recommender.method import Method, listed
from finetree_recommender.rule_pack.answers import CPU, UNKNOWN, Answers
from finetree_recommender.rule_pack.pack import Pack
from finetree_recommender.rule_pack.schema.basic import Cited
from finetree_recommender.rule_pack.schema.rules import MemoryClass
from finetree_recommender.trace import Step


@dataclass(frozen=True, slots=True)
class Passage:
    """Feasible methods."""

    feasible: tuple[Method, ...]
    """Ordered by stars; empty where the pack says to upgrade."""
    rule: Cited | MemoryClass
    memory: str
    """Memory answer that was read."""
    outcome: str

    @property
    def upgrade(self) -> bool:
        """Whether the pack says to upgrade the GPU."""
        return not self.feasible

    @property
    def steps(self) -> tuple[Step, ...]:
        """Step of the trace."""
        rule = self.rule
        return (Step("hardware_gate", rule.id, self.outcome, rule.source, (f"memory={self.memory}",)),)


def pass_gate(pack: Pack, answers: Answers, states: States | None = None) -> Passage:
    """Apply the hardware gate; with `physics` in the pack the estimator's `states` decide where there are some."""
    physics, memory = pack.rules.gate.physics, answers.memory
    if physics is not None and states is not None:
        return _by_estimate(pack, memory, states, rule=physics)
    gate = pack.rules.gate
    if memory == UNKNOWN:
        return _passage(pack, memory, pack.rules.stars_order.methods, rule=gate.unknown)
    if memory == CPU:
        return _passage(pack, memory, (), rule=gate.cpu)
    found = next(item for item in gate.classes if item.key == memory)
    return _passage(pack, memory, _of_class(pack, found), rule=found)


def memory_words(pack: Pack, key: str) -> str:
    """Describe a memory class in words."""
    if key == CPU:
        return "only a CPU"
    found = next((item for item in pack.rules.gate.classes if item.key == key), None)
    if found is None:
        return UNKNOWN
    if found.low == 0:
        return f"a GPU below {found.high:g} GB"
    return f"{gpu(found.low)} or larger" if math.isinf(found.high) else gpu(found.low)


def _of_class(pack: Pack, found: MemoryClass) -> tuple[Method, ...]:
    order = pack.rules.stars_order.methods
    return () if found.upgrade else tuple(m for m in order if pack.card(m).minimum_gpu_gb.value <= found.low)


def _by_estimate(pack: Pack, memory: str, states: States, *, rule: Cited) -> Passage:
    """Methods whose recipe fits; without an estimate of a method its memory class decides."""
    found = next((item for item in pack.rules.gate.classes if item.key == memory), None)
    by_class = _of_class(pack, found) if found is not None else ()
    order = pack.rules.stars_order.methods
    allowed = tuple(m for m in order if states[m].trains or (states[m] is FitState.UNKNOWN and m in by_class))
    outcome = f"fits by the estimate: {listed(allowed)}" if allowed else "no method fits by the estimate: upgrade"
    return Passage(allowed, rule, memory, outcome)


def _passage(pack: Pack, memory: str, allowed: tuple[Method, ...], *, rule: Cited | MemoryClass) -> Passage:
    words = {UNKNOWN: "memory unknown", CPU: "no GPU"}.get(memory) or memory_words(pack, memory)
    says = listed(allowed) if allowed else f"{pack.rules.gate.speaker} says to upgrade the GPU"
    return Passage(allowed, rule, memory, f"{words}: {says}")
