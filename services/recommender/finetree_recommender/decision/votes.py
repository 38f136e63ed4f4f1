# SPDX-License-Identifier: Apache-2.0
"""The five questions: one vote for each method that an answer names, counted among the feasible ones."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from finetree_recommender.method import Method, listed
from finetree_recommender.rule_pack.answers import UNKNOWN, Answers
from finetree_recommender.rule_pack.pack import Pack
from finetree_recommender.rule_pack.schema.rules import Option, Question
from finetree_recommender.trace import Step


@dataclass(frozen=True, slots=True)
class Ballot:
    """Counted votes."""

    votes: Mapping[Method, Mapping[str, int]]
    """Votes of every method by question id; a question that did not name it is left out."""
    feasible: tuple[Method, ...]
    leaders: tuple[Method, ...]
    """Feasible methods with the most votes, by stars."""
    unanswered: int
    """Number of questions whose answer is unknown."""
    asked: int
    """Number of questions of the pack."""
    answered: tuple[tuple[Question, Option], ...]
    """Answers that were counted."""

    def total(self, method: Method) -> int:
        """All votes of a method, at most one for each question."""
        return len(self.votes[method])

    @property
    def steps(self) -> tuple[Step, ...]:
        """Steps of the trace."""
        return tuple(_steps(self.answered))


def count(pack: Pack, answers: Answers, feasible: tuple[Method, ...]) -> Ballot:
    """Count the votes of every known answer."""
    questions = pack.rules.questions
    given = [(question, answers.get(question.input)) for question in questions]
    answered = tuple(
        (question, option)
        for question, answer in given
        if (option := pack.options.get((question.id, answer))) is not None
    )
    votes: dict[Method, dict[str, int]] = {method: {} for method in Method}
    for question, option in answered:
        for method in option.votes:
            votes[method][question.id] = 1
    most = max((len(votes[method]) for method in feasible), default=0)
    return Ballot(
        votes=votes,
        feasible=feasible,
        leaders=tuple(method for method in feasible if len(votes[method]) == most),
        unanswered=sum(answer == UNKNOWN for _, answer in given),
        asked=len(questions),
        answered=answered,
    )


def _steps(answered: tuple[tuple[Question, Option], ...]) -> Iterator[Step]:
    for question, option in answered:
        if not any(item.votes for item in question.options):
            continue  # a pack that does not vote has nothing to say of it
        outcome = f"a vote for {listed(option.votes)}" if option.votes else "no preference"
        if option.upgrade:
            outcome = "for an upgrade of the GPU, and for no method"
        yield Step("votes", option.id, outcome, option.source, (f"{question.input}={option.value}",))
