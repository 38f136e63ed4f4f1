# SPDX-License-Identifier: Apache-2.0
"""Inputs of a verdict, which can be asked for again with one of them changed."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from finetree_recommender.decision.fit import GIB, Constraints, Violations
from finetree_recommender.decision.limits import seconds_of, usd_of, violations
from finetree_recommender.decision.pipeline import Decision, Verdict, constrained, decide, verdict_of
from finetree_recommender.decision.stages import Choice, choose
from finetree_recommender.estimator.values import NO_PEAKS, Best, Estimate, Evidence, FitState, States
from finetree_recommender.method import Method
from finetree_recommender.request.inputs import Inputs
from finetree_recommender.request.limits import Limits
from finetree_recommender.rule_pack.answers import Answers
from finetree_recommender.rule_pack.pack import Pack

USABLE = 0.9
"""Smallest share of its marketed GB that a GPU has available in GiB: a T4 of 16 GB has 14.56 GiB."""


@dataclass(frozen=True)
class Situation:
    """Pack, inputs and estimates of a decision."""

    pack: Pack
    inputs: Inputs
    evidence: Evidence | None

    @property
    def answers(self) -> Answers:
        """Answers of the request."""
        return self.inputs.answers

    @cached_property
    def limits(self) -> Limits:
        """Limits of the run; without rows where the pack's own figures by rows are not of this model."""
        return self.inputs.limits if self.inputs.own_figures else replace(self.inputs.limits, examples=None)

    def estimate(self, method: Method) -> Estimate | None:
        """Estimate of a method's best recipe; None where there is none."""
        return self.evidence.best[method].estimate if self.evidence is not None else None

    def seconds(self, method: Method) -> float | None:
        """Expected seconds of a run; None where unknown."""
        return seconds_of(self.pack, self.evidence, method, examples=self.limits.examples)

    def usd(self, method: Method) -> float | None:
        """Expected cost of a run in USD; None where unknown."""
        return usd_of(self.pack, self.evidence, method, examples=self.limits.examples)

    @cached_property
    def violations(self) -> Violations:
        """Limits that each method would break."""
        return violations(self.pack, self.limits, self.evidence)

    @cached_property
    def decision(self) -> Decision:
        """Decision, with everything that led to it."""
        return decide(self.pack, self.answers, self.evidence, constraints=constrained(self.evidence, self.violations))

    def verdict(self, answers: Answers | None = None, limits: Limits | None = None) -> Verdict:
        """Return the verdict with other answers or limits, on the same hardware."""
        broken = violations(self.pack, limits, self.evidence) if limits is not None else self.violations
        return verdict_of(self.pack, self._choice(answers or self.answers), constrained(self.evidence, broken))

    def elsewhere(self, memory: str, gb: float | None = None) -> Verdict:
        """Return the verdict on a GPU of another memory class, with estimates only where they are certain.

        `gb` is the GPU's memory in GB as marketed; the least of the class without it.
        """
        states = self._states_elsewhere(memory, gb)
        key = memory, tuple(states.values()) if states is not None else None
        found = self._verdicts_elsewhere.get(key)
        if found is None:
            choice = choose(self.pack, self.answers.changed("memory", memory), states)
            found = verdict_of(self.pack, choice, Constraints(states, violations=self._violations_elsewhere))
            self._verdicts_elsewhere[key] = found
        return found

    @cached_property
    def memory_edges(self) -> tuple[float, ...]:
        """GB at which the verdict's method, LoRA or QLoRA fits or has room, by the estimates; none without them."""
        if self.evidence is None:
            return ()
        methods = {Method.LORA, Method.QLORA, self.decision.method or Method.LORA}
        peaks = [best.estimate.device_bytes for m in methods if (best := self.evidence.best[m]).estimate is not None]
        return tuple(edge / GIB for peak in peaks for edge in (peak.expected, peak.high / USABLE))

    def _choice(self, answers: Answers) -> Choice:
        """Choice of the rules on this hardware, found once for the same answers: limits do not change it."""
        found = self._choices.get(answers)
        if found is None:
            states, peaks = (None, NO_PEAKS) if self.evidence is None else (self.evidence.states, self.evidence.peaks)
            found = self._choices[answers] = choose(self.pack, answers, states, peaks)
        return found

    @cached_property
    def _choices(self) -> dict[Answers, Choice]:
        """Choices so far, by the answers."""
        return {}

    @cached_property
    def _verdicts_elsewhere(self) -> dict[tuple[str, tuple[FitState, ...] | None], Verdict]:
        """Verdicts on other GPUs so far, by the memory class and by what fits there."""
        return {}

    @cached_property
    def _violations_elsewhere(self) -> Violations:
        return violations(self.pack, self.limits.elsewhere(estimate=self.evidence is not None), None)

    def _states_elsewhere(self, memory: str, gb: float | None) -> States | None:
        """Fits on a GPU of another size that follow from estimates on this one; None where none does."""
        here, evidence = self.inputs.marketed_gb, self.evidence
        low = next((item.low for item in self.pack.rules.gate.classes if item.key == memory), 0.0)
        there = low if gb is None else gb
        if evidence is None or here is None or not there:
            return None
        found: Mapping[Method, FitState] = {
            method: _fit_elsewhere(best, here, there) for method, best in evidence.best.items()
        }
        return found if any(state is not FitState.UNKNOWN for state in found.values()) else None


def _fit_elsewhere(best: Best, here: float, there: float) -> FitState:
    """Fit of a method on a GPU of so many marketed GB, by its estimate on another GPU.

    What fits here fits where there is more memory, or as much as its recipe takes; what needs more at its smallest than
    a GPU has does not fit there, nor does what fits only tightly here where there is less. A method that fits here, and
    may be made smaller still, is left to the rules below.
    """
    if best.estimate is None or best.state is FitState.UNKNOWN:
        return FitState.UNKNOWN
    expected, high = best.estimate.device_bytes.expected / GIB, best.estimate.device_bytes.high / GIB
    if there >= high / USABLE or (best.state is FitState.FITS and there >= here):
        return FitState.FITS
    if best.state is FitState.TIGHT:
        return FitState.TIGHT if there >= here else FitState.DOES_NOT_FIT
    if best.state is FitState.DOES_NOT_FIT:
        return FitState.TIGHT if there >= expected else FitState.DOES_NOT_FIT
    return FitState.DOES_NOT_FIT if best.smallest and there < expected else FitState.UNKNOWN
