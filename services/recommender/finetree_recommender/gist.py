# SPDX-License-Identifier: Apache-2.0
"""What the rules before the fit read of answers: those that no rule tells apart lead to the same verdicts.

Whatever kind of rule comes to read an answer has to be named here too.
"""

from collections.abc import Mapping
from functools import lru_cache

from finetree_recommender.policy.answers import NAMES, UNKNOWN, Answers, unread, vocabulary
from finetree_recommender.policy.pack import Pack


def asked(pack: Pack, answers: Answers) -> Answers:
    """The answers that some rule before the fit reads; the others are unknown."""
    return answers.without(_unread(pack))


def gist(pack: Pack, answers: Answers) -> Answers:
    """Answers that lead to the same verdicts, whatever is broken and fits: those that no rule tells apart are one."""
    memory, *words, priorities = answers
    of = alike(pack, memory_known=memory != UNKNOWN).values()
    # In one go, for it is made for each request and pack.
    return tuple.__new__(Answers, (memory, *[firsts[word] for firsts, word in zip(of, words, strict=True)], priorities))


@lru_cache(maxsize=128)
def alike(pack: Pack, *, memory_known: bool) -> Mapping[str, Mapping[str, str]]:
    """For each input but the memory, in their order, the first answer that is the same to every rule, by answer."""
    rules, words = pack.rules, vocabulary(pack.rules)
    whens = [rules.override.when, rules.override.unless, *(rule.when for rule in rules.upgrade)]
    whens += [node.when for node in rules.tree.nodes]
    if not memory_known:  # the only case in which these are read
        whens += [rule.when for rule in (rules.default_leaf, *rules.use_cases)]

    def read(name: str, value: str) -> tuple[object, ...]:
        """What the rules read of an answer."""
        options = (item for question in rules.questions if question.input == name for item in question.options)
        votes = tuple((item.id, item.votes) for item in options if item.value == value and item.votes)
        ties = tuple(rule.id for rule in rules.tie_breaks if rule.input == name and rule.value == value)
        return votes, ties, tuple(value in when[name] for when in whens if name in when)

    return {
        name: {
            value: next(first for first in (UNKNOWN, *words[name]) if read(name, first) == read(name, value))
            for value in (UNKNOWN, *words[name])
        }
        for name in NAMES[1:]
    }


@lru_cache(maxsize=64)
def _unread(pack: Pack) -> tuple[str, ...]:
    """Inputs that no rule of these stages reads."""
    rules = pack.rules
    whens = [rule.when for rule in (rules.override, rules.default_leaf, *rules.use_cases)]
    whens += [node.when for node in rules.tree.nodes] + [rule.when for rule in rules.upgrade] + [rules.override.unless]
    named = {name for when in whens for name in when}
    asked = {question.input for question in rules.questions} | {rule.input for rule in rules.tie_breaks}
    return unread({"memory"} | named | asked)
