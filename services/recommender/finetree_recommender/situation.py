# SPDX-License-Identifier: Apache-2.0
"""Everything that a verdict depends on, so that it can be asked for again with one thing changed."""

import dataclasses
from collections.abc import Hashable
from dataclasses import dataclass, field

from finetree_recommender.answers import Answers
from finetree_recommender.demands import Demands, all_breaches
from finetree_recommender.estimates import Evidence
from finetree_recommender.fit import Broken
from finetree_recommender.inputs import Inputs
from finetree_recommender.pack import Pack
from finetree_recommender.pipeline import Decision, decide


@dataclass(frozen=True, slots=True)
class Situation:
    """A question: the pack, what was answered, what is demanded, and what the estimator said."""

    pack: Pack
    inputs: Inputs
    evidence: Evidence | None
    broken: Broken
    """What each method would break."""
    kept: dict[Hashable, Decision] = field(default_factory=dict, repr=False, compare=False)
    """Verdicts that were asked for before."""

    @classmethod
    def of(cls, pack: Pack, inputs: Inputs, evidence: Evidence | None) -> "Situation":
        """The situation of a request."""
        return cls(pack, inputs, evidence, all_breaches(pack, inputs.demands, evidence))

    @property
    def answers(self) -> Answers:
        """The answers that were given."""
        return self.inputs.answers

    @property
    def demands(self) -> Demands:
        """What the run must keep to."""
        return self.inputs.demands

    def decide(self, answers: Answers | None = None, demands: Demands | None = None) -> Decision:
        """The verdict, with other answers or other demands on the same hardware."""
        answers = answers if answers is not None else self.answers
        key = (answers, demands)
        found = self.kept.get(key)
        if found is None:
            broken = self.broken if demands is None else all_breaches(self.pack, demands, self.evidence)
            found = self.kept[key] = decide(self.pack, answers, self.evidence, broken)
        return found

    def elsewhere(self, answers: Answers) -> Decision:
        """The verdict of the rules on other hardware, of which no estimate is at hand."""
        found = self.kept.get(answers)
        if found is None:
            demands = dataclasses.replace(self.demands, capability=None)
            if self.evidence is not None:
                # This hardware's hours and prices say nothing of another's; the pack's own are those of any.
                demands = dataclasses.replace(demands, deadline_seconds=None, run_usd=None)
            found = decide(self.pack, answers, None, all_breaches(self.pack, demands, None))
            self.kept[answers] = found
        return found
