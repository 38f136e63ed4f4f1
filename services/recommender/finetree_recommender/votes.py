# SPDX-License-Identifier: Apache-2.0
"""The five questions: one vote for each method that an answer names, counted among the feasible ones."""

from collections.abc import Mapping
from dataclasses import dataclass

from finetree_recommender.answers import UNKNOWN, Answers
from finetree_recommender.methods import Method
from finetree_recommender.pack import Pack
from finetree_recommender.trace import Step


@dataclass(frozen=True, slots=True)
class Ballot:
    """The count."""

    votes: Mapping[Method, Mapping[str, int]]
    """For every method, votes by question id; a question that did not name it is left out."""
    feasible: tuple[Method, ...]
    steps: tuple[Step, ...]
    unanswered: int
    """Questions whose answer is unknown."""
    asked: int
    """Questions that the pack has."""

    def total(self, method: Method) -> int:
        """All votes of a method."""
        return sum(self.votes[method].values())

    @property
    def leaders(self) -> tuple[Method, ...]:
        """Feasible methods with the most votes, in the order of stars."""
        most = max((self.total(method) for method in self.feasible), default=0)
        return tuple(method for method in self.feasible if self.total(method) == most)


def count(pack: Pack, answers: Answers, feasible: tuple[Method, ...]) -> Ballot:
    """Count the votes of every answer that is known."""
    votes: dict[Method, dict[str, int]] = {method: {} for method in Method}
    steps: list[Step] = []
    for question in pack.rules.questions:
        answer = answers.get(question.input)
        option = next((item for item in question.options if item.value == answer), None)
        if option is None:
            continue
        for method in option.votes:
            votes[method][question.id] = 1
        if not any(item.votes for item in question.options):
            continue  # a pack that does not vote has nothing to say of it
        outcome = f"a vote for {', '.join(option.votes)}" if option.votes else "no preference"
        if option.upgrade:
            outcome = "for an upgrade of the GPU, and for no method"
        steps.append(Step("votes", option.id, outcome, pack.provenance(option.source), answers.read(question.input)))
    unanswered = sum(answers.get(question.input) == UNKNOWN for question in pack.rules.questions)
    return Ballot(votes, feasible, tuple(steps), unanswered, len(pack.rules.questions))
