# SPDX-License-Identifier: Apache-2.0
"""The five questions: one vote for each method that an answer names, counted among the feasible ones."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from finetree_recommender.method import METHODS, Method
from finetree_recommender.policy.answers import UNKNOWN, Answers, unread
from finetree_recommender.policy.pack import Pack
from finetree_recommender.policy.schema.rules import Option, Question
from finetree_recommender.trace import Step


@dataclass(slots=True, eq=False)
class Ballot:
    """The count; compared and hashed by identity, as a key of what is kept for it."""

    votes: Mapping[Method, Mapping[str, int]]
    """For every method, votes by question id; a question that did not name it is left out."""
    feasible: tuple[Method, ...]
    leaders: tuple[Method, ...]
    """Feasible methods with the most votes, in the order of stars."""
    unanswered: int
    """Questions whose answer is unknown."""
    asked: int
    """Questions that the pack has."""
    pack: Pack = field(repr=False)
    answers: Answers = field(repr=False)
    """What was counted."""

    def total(self, method: Method) -> int:
        """All votes of a method: each question gives it one, or none."""
        return len(self.votes[method])

    @property
    def steps(self) -> tuple[Step, ...]:
        """The steps of the trace; made when they are read, for few of the many counts are told."""
        return tuple(_steps(self.pack, self.answers))


def count(pack: Pack, answers: Answers, feasible: tuple[Method, ...]) -> Ballot:
    """Count the votes of every answer that is known."""
    return _count(pack, answers.without(_unread(pack)), feasible)


@lru_cache(maxsize=8192)
def _count(pack: Pack, answers: Answers, feasible: tuple[Method, ...]) -> Ballot:
    """The count, which is that of all answers that differ in no question."""
    votes: dict[Method, dict[str, int]] = {method: {} for method in METHODS}
    unanswered = 0
    for question, options in _questions(pack):
        answer = answers.get(question.input)
        unanswered += answer == UNKNOWN
        option = options.get(answer)
        for method in option.votes if option is not None else ():
            votes[method][question.id] = 1
    most = max((len(votes[method]) for method in feasible), default=0)
    leaders = tuple(method for method in feasible if len(votes[method]) == most)
    return Ballot(votes, feasible, leaders, unanswered, len(pack.rules.questions), pack, answers)


@lru_cache(maxsize=64)
def _unread(pack: Pack) -> tuple[str, ...]:
    """Inputs that no question asks for."""
    read = {question.input for question in pack.rules.questions}
    return unread(read)


@lru_cache(maxsize=64)
def _questions(pack: Pack) -> tuple[tuple[Question, Mapping[str, Option]], ...]:
    """Each question with its options by their answers."""
    return tuple((item, {option.value: option for option in item.options}) for item in pack.rules.questions)


def _steps(pack: Pack, answers: Answers) -> Iterator[Step]:
    for question, options in _questions(pack):
        option = options.get(answers.get(question.input))
        if option is None or not any(item.votes for item in question.options):
            continue  # a pack that does not vote has nothing to say of it
        outcome = f"a vote for {', '.join(option.votes)}" if option.votes else "no preference"
        if option.upgrade:
            outcome = "for an upgrade of the GPU, and for no method"
        yield Step("votes", option.id, outcome, pack.cited(option.source), answers.read(question.input))
