# SPDX-License-Identifier: Apache-2.0
"""First stage: methods that are feasible on this hardware."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from finetree_recommender.estimator.values import NO_PEAKS, FitState, Peaks, States
from finetree_recommender.formatting import gpu
from finetree_recommender.method import Method, listed
from finetree_recommender.rule_pack.answers import CPU, UNKNOWN, Answers, matches
from finetree_recommender.rule_pack.pack import Pack
from finetree_recommender.rule_pack.schema.basic import Cited
from finetree_recommender.rule_pack.schema.rules import MemoryClass, TightRule
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
    yielding: tuple[TightRule, ...] = ()
    """Rules of the feasible methods that fit only tightly and yield to another one."""

    @property
    def open(self) -> tuple[Method, ...]:
        """Feasible methods that yield to no other one: those among which the rules choose."""
        if not self.yielding:
            return self.feasible
        yielding = {rule.method for rule in self.yielding}
        return tuple(method for method in self.feasible if method not in yielding)

    @property
    def upgrade(self) -> bool:
        """Whether the pack says to upgrade the GPU."""
        return not self.feasible

    @property
    def steps(self) -> tuple[Step, ...]:
        """Steps of the trace."""
        rule = self.rule
        return (
            Step("hardware_gate", rule.id, self.outcome, rule.source, (f"memory={self.memory}",)),
            *(
                Step("hardware_gate", each.id, f"{each.method} fits only tightly, and yields to {each.to}", each.source)
                for each in self.yielding
            ),
        )


def pass_gate(pack: Pack, answers: Answers, states: States | None = None, peaks: Peaks = NO_PEAKS) -> Passage:
    """Apply the hardware gate; with `physics` in the pack the estimator's `states` decide where there are some.

    `peaks` are the upper ends of the methods' peaks, which say to which of them a method that fits tightly yields.
    """
    physics, memory = pack.rules.gate.physics, answers.memory
    if physics is not None and states is not None:
        passage = _by_estimate(pack, memory, states, rule=physics)
        yielding = tuple(_yielding(pack, answers, states, peaks=peaks))
        return replace(passage, yielding=yielding) if yielding else passage
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


def _yielding(pack: Pack, answers: Answers, states: States, *, peaks: Peaks) -> Iterator[TightRule]:
    """Rules of methods that fit only tightly, where the method that they yield to fits, and with more room.

    Two that both fit tightly are compared by the upper ends of their peaks, which are the same on every GPU: with more
    memory the choice between them stays until the larger one fits (docs/decisions/0021).
    """
    for rule in pack.rules.tight:
        if states[rule.method] is not FitState.TIGHT or (rule.unless and matches(rule.unless, answers)):
            continue
        if any(_has_more_room(other, rule.method, states, peaks=peaks) for other in _successors(pack, rule)):
            yield rule


def _successors(pack: Pack, rule: TightRule) -> Iterator[Method]:
    """Methods that a method yields to, one after the other."""
    found: TightRule | None = rule
    while found is not None:
        yield (to := found.to)
        found = next((each for each in pack.rules.tight if each.method is to), None)


def _has_more_room(one: Method, other: Method, states: States, *, peaks: Peaks) -> bool:
    """Whether a method fits with room, or as tightly as another one and with a lower peak."""
    if states[one] is FitState.TIGHT:
        return one in peaks and other in peaks and peaks[one] < peaks[other]
    return states[one] is FitState.FITS


def _passage(pack: Pack, memory: str, allowed: tuple[Method, ...], *, rule: Cited | MemoryClass) -> Passage:
    words = {UNKNOWN: "memory unknown", CPU: "no GPU"}.get(memory) or memory_words(pack, memory)
    says = listed(allowed) if allowed else f"{pack.rules.gate.speaker} says to upgrade the GPU"
    return Passage(allowed, rule, memory, f"{words}: {says}")
