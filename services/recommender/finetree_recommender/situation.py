# SPDX-License-Identifier: Apache-2.0
"""Everything that a verdict depends on, so that it can be asked for again with one thing changed."""

from dataclasses import dataclass

from finetree_recommender import fit
from finetree_recommender.answers import Answers
from finetree_recommender.demands import Demands, all_breaches, burdens
from finetree_recommender.estimates import Evidence, FitState
from finetree_recommender.fit import Broken, Ground, States
from finetree_recommender.inputs import Inputs
from finetree_recommender.methods import Method
from finetree_recommender.pack import Pack
from finetree_recommender.pipeline import Decision, Verdict, asked, decide, verdict


@dataclass(frozen=True, slots=True)
class Situation:
    """A question: the pack, what was answered, what is demanded, and what the estimator said."""

    pack: Pack
    inputs: Inputs
    evidence: Evidence | None
    broken: Broken
    """What each method would break."""
    ground: Ground
    """What verdicts read of the figures."""
    asked: Answers
    """The answers that some rule reads: where the others differ, the verdict does not."""
    away: Ground
    """The same on other hardware, of which no estimate is at hand."""
    misfits: tuple[float, ...] = ()
    """Bytes that each method needs, in the order of `Method`, where it does not fit this hardware; 0 for the others."""

    @classmethod
    def of(cls, pack: Pack, inputs: Inputs, evidence: Evidence | None) -> "Situation":
        """The situation of a request."""
        demands = inputs.demands
        broken = all_breaches(pack, demands, evidence)
        elsewhere = demands._replace(capability=None)
        if evidence is not None:
            # This hardware's hours and prices say nothing of another's; the pack's own are those of any.
            elsewhere = elsewhere._replace(deadline_seconds=None, run_usd=None)
        away = Ground(None, burdens(pack, elsewhere, None))
        ground, misfits = fit.ground(evidence, broken), _misfits(inputs, evidence)
        return cls(pack, inputs, evidence, broken, ground, asked(pack, inputs.answers), away, misfits)

    @property
    def answers(self) -> Answers:
        """The answers that were given."""
        return self.inputs.answers

    @property
    def demands(self) -> Demands:
        """What the run must keep to."""
        return self.inputs.demands

    def decide(self) -> Decision:
        """The decision, with everything that led to it."""
        return decide(self.pack, self.answers, self.evidence, self.broken)

    def verdict(self, answers: Answers | None = None, demands: Demands | None = None) -> Verdict:
        """The verdict, with other answers than `asked`, or other demands, on the same hardware."""
        ground = self.ground
        if demands is not None:
            ground = ground._replace(burdens=burdens(self.pack, demands, self.evidence))
        return verdict(self.pack, answers if answers is not None else self.asked, ground)

    def elsewhere(self, answers: Answers) -> Verdict:
        """The verdict of the rules on other hardware, of which no estimate is at hand but for what is too large."""
        states = self._too_large(answers.memory) if any(self.misfits) else None
        return verdict(self.pack, answers, self.away._replace(states=states) if states is not None else self.away)

    def _too_large(self, memory: str) -> States | None:
        """Which methods need more, at their smallest, than a GPU of a memory class has; None where none does."""
        item = next((item for item in self.pack.rules.gate.classes if item.key == memory), None)
        if item is None:
            return None
        room = item.low * fit.GIB
        large = [needs > room > 0 for needs in self.misfits]
        states = tuple(FitState.DOES_NOT_FIT if each else FitState.UNKNOWN for each in large)
        return states if any(large) else None


def _misfits(inputs: Inputs, evidence: Evidence | None) -> tuple[float, ...]:
    """What each method that does not fit needs at its smallest.

    A method that fits here may be made smaller still, and is left to the rules, as is what was not estimated.
    """
    if evidence is None or inputs.marketed_gb is None:
        return ()
    bests = (fit.best(evidence, method) for method in Method)
    return tuple(
        best.priced.device_bytes.expected if best.priced is not None and best.state is FitState.DOES_NOT_FIT else 0.0
        for best in bests
    )
