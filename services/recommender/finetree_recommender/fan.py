# SPDX-License-Identifier: Apache-2.0
"""What the rules before the fit lean to after each single change of an answer.

It follows from the gist of the answers alone (and of which methods fit, where the pack asks so), so that it is kept for
the next request with the same gist, whatever its figures are.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

from finetree_recommender.decision.fit import States
from finetree_recommender.decision.stages import Leaning, lean
from finetree_recommender.gist import alike
from finetree_recommender.policy.answers import UNKNOWN, Answers, vocabulary
from finetree_recommender.policy.pack import Pack

TURNED = ("budget", "quality", "time", "tasks", "use_case", "experience")
"""Inputs whose answers are changed on the same hardware, in the order of the questions."""
MEMORY = "memory"
"""Input that is the hardware; another one is elsewhere."""
SCALES = (MEMORY, "budget", "quality", "time", "tasks", "experience")
"""Inputs whose answers have an order, so that only the next one is one step away."""


class Turn(NamedTuple):
    """Another answer of an input."""

    value: str
    near: bool
    """Whether it is the next answer of a scale, or the input has none."""
    place: int
    """Where a fan has what it leads to; 0 for other hardware."""


class Fan(NamedTuple):
    """What all changes lead to; some 400 bytes."""

    leanings: tuple[Leaning, ...]
    """Each once."""
    places: tuple[int, ...]
    """Which of them each change leads to, in the order of `places`."""

    def after(self, place: int) -> Leaning:
        """What a change leads to."""
        return self.leanings[self.places[place]]


@lru_cache(maxsize=8192)
def fan(pack: Pack, gist: Answers, states: States | None) -> Fan:
    """What changes of a gist lead to; `states` are those that the pack reads."""
    firsts: dict[int, tuple[str, str]] = {}
    for change, place in places(pack, memory_known=gist.memory != UNKNOWN).items():
        firsts.setdefault(place, change)
    found = [lean(pack, gist.changed(*change), states) for change in firsts.values()]
    order = {leaning: place for place, leaning in enumerate(dict.fromkeys(found))}
    return Fan(tuple(order), tuple([order[each] for each in found]))


@lru_cache(maxsize=8192)
def abroad(pack: Pack, gist: Answers) -> Mapping[str, Leaning]:
    """What the rules lean to on other hardware, by its memory, where no figure is read."""
    return {value: lean(pack, gist.changed(MEMORY, value), None) for value in memories(pack)}


@lru_cache(maxsize=64)
def memories(pack: Pack) -> tuple[str, ...]:
    """Every answer of the memory."""
    return vocabulary(pack.rules)[MEMORY]


@lru_cache(maxsize=128)
def places(pack: Pack, *, memory_known: bool) -> Mapping[tuple[str, str], int]:
    """Place of every answer of the inputs that are changed; answers that no rule tells apart have one."""
    words, same, found = vocabulary(pack.rules), alike(pack, memory_known=memory_known), dict[tuple[str, str], int]()
    for name in TURNED:
        for value in (UNKNOWN, *words[name]):
            first = same[name][value]
            found[name, value] = found[name, first] if first != value else len(set(found.values()))
    return found


@lru_cache(maxsize=1024)
def turns(pack: Pack, name: str, now: str, *, memory_known: bool) -> tuple[Turn, ...]:
    """Other answers of an input, nearest first; from "unknown" in the scale's own order."""
    scale = vocabulary(pack.rules)[name]
    start, free = scale.index(now) if now != UNKNOWN else 0, now == UNKNOWN or name not in SCALES
    away = {value: abs(place - start) for place, value in enumerate(scale) if value != now}
    known = places(pack, memory_known=memory_known)
    nearest = sorted(away.items(), key=lambda each: each[1])
    return tuple(Turn(value, free or far == 1, known.get((name, value), 0)) for value, far in nearest)
