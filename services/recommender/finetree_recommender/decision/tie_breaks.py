# SPDX-License-Identifier: Apache-2.0
"""Order of tied methods, by the priorities and by the experience."""

from dataclasses import dataclass

from finetree_recommender.method import Method, listed
from finetree_recommender.rule_pack.answers import Answers
from finetree_recommender.rule_pack.pack import Pack
from finetree_recommender.rule_pack.schema.limits import TieBreak
from finetree_recommender.trace import Step


@dataclass(frozen=True, slots=True)
class Narrowed:
    """Remaining tied methods, and the rules that were applied."""

    methods: tuple[Method, ...]
    cuts: tuple[tuple[TieBreak, tuple[Method, ...]], ...]
    """Rules that were applied, each with the methods that it left."""

    @property
    def steps(self) -> tuple[Step, ...]:
        """Steps of the trace."""
        return tuple(
            Step(
                "priorities",
                rule.id,
                f"{rule.value.lower()} puts {listed(left)} first",
                rule.source,
                (f"{rule.input}={rule.value}",),
            )
            for rule, left in self.cuts
        )


def applying(pack: Pack, answers: Answers) -> tuple[TieBreak, ...]:
    """Rules that apply: priorities in their order, then those of other answers."""
    rules = pack.rules.tie_breaks
    by_word = {rule.value: rule for rule in rules if rule.input == "priorities"}
    first = [by_word[word] for word in answers.priorities if word in by_word]
    return (*first, *(r for r in rules if r.input != "priorities" and answers.get(r.input) == r.value))


def narrow(rules: tuple[TieBreak, ...], tied: tuple[Method, ...]) -> Narrowed:
    """Keep the first tier of each rule that applies, one rule after the other."""
    cuts: list[tuple[TieBreak, tuple[Method, ...]]] = []
    for rule in rules:
        if len(tied) == 1:
            break
        best = min(rule.rank(method) for method in tied)
        tied = tuple(method for method in tied if rule.rank(method) == best)
        cuts.append((rule, tied))
    return Narrowed(tied, tuple(cuts))
