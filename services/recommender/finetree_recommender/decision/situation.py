# SPDX-License-Identifier: Apache-2.0
"""Everything that a verdict depends on, so that it can be asked for again with one thing changed."""

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

from finetree_recommender.decision import fit
from finetree_recommender.decision.fit import Broken, Burden, Ground, States
from finetree_recommender.decision.limits import Demands, all_breaches, burdens
from finetree_recommender.decision.pipeline import Decision, Outcome, decide, outcome, verdict, verdicts
from finetree_recommender.decision.stages import Leaning, Verdict, lean, read_states
from finetree_recommender.estimator.values import Evidence, FitState
from finetree_recommender.fan import MEMORY, Fan, abroad, fan, memories, places
from finetree_recommender.gist import gist
from finetree_recommender.method import METHODS
from finetree_recommender.policy.answers import UNKNOWN, Answers
from finetree_recommender.policy.pack import Pack
from finetree_recommender.request.hardware import class_lows
from finetree_recommender.request.inputs import Inputs

USABLE = 0.9
"""Share of a GPU's marketed GB that GPUs offer in GiB at least: a T4 of 16 GB offers 14.56 GiB."""


class Bound(NamedTuple):
    """What an estimate on one GPU says of a method on others; marketed GB."""

    needs: float = 0.0
    """A GPU of less does not hold it."""
    enough: float = math.inf
    """A GPU of this and more holds it."""


Reach = tuple[tuple[int, int], ...]
"""The bounds of each method as places among a pack's memory classes: of the first that is not too small, and of the
first that is enough."""


@dataclass(slots=True)
class Situation:
    """A question: the pack, what was answered, what is demanded, and what the estimator said. Not to be changed."""

    pack: Pack
    inputs: Inputs
    evidence: Evidence | None
    ground: Ground
    """What verdicts read of the figures."""
    gist: Answers
    """Answers that lead to the same verdicts as those that were given."""
    _abroad: Mapping[str, Verdict] | None = field(default=None, init=False, repr=False, compare=False)
    _broken: Broken | None = field(default=None, init=False, repr=False, compare=False)
    _fan: Fan | None = field(default=None, init=False, repr=False, compare=False)

    @classmethod
    def of(cls, pack: Pack, inputs: Inputs, evidence: Evidence | None) -> "Situation":
        """The situation of a request."""
        states = fit.states(evidence) if evidence is not None else None
        ground = Ground(states, burdens(pack, inputs.demands, evidence))
        return cls(pack, inputs, evidence, ground, gist(pack, inputs.answers))

    @property
    def broken(self) -> Broken:
        """What each method would break, in words."""
        if self._broken is None:
            self._broken = all_breaches(self.pack, self.demands, self.evidence, self.ground.burdens)
        return self._broken

    @property
    def answers(self) -> Answers:
        """The answers that were given."""
        return self.inputs.answers

    @property
    def demands(self) -> Demands:
        """What the run must keep to."""
        return self.inputs.demands

    def outcome(self) -> Outcome:
        """What the decision comes to; few gists exist, so that it is mostly known."""
        return outcome(self.pack, self.gist, self.ground)

    def decide(self) -> Decision:
        """The decision, with everything that led to it."""
        return decide(self.pack, self.answers, self.evidence, self.broken, self.ground)

    def verdict(self, answers: Answers | None = None, demands: Demands | None = None) -> Verdict:
        """The verdict, with other answers than the `gist`, or other demands, on the same hardware."""
        return verdict(self.pack, answers if answers is not None else self.gist, self._ground(demands))

    def turner(self, name: str) -> Callable[[str, Demands], Verdict]:
        """Gives the verdict with another answer of an input that is not the memory, and other demands."""
        ours, known = self.fan, places(self.pack, memory_known=self.gist.memory != UNKNOWN)

        def turned(value: str, demands: Demands) -> Verdict:
            leaning = ours.after(known[name, value])
            return verdicts(self.pack, (leaning,), self._ground(demands))[0]

        return turned

    @property
    def fan(self) -> Fan:
        """What the rules lean to after each change of an answer on the same hardware."""
        if self._fan is None:
            self._fan = fan(self.pack, self.gist, read_states(self.pack, self.ground.states))
        return self._fan

    def turns(self) -> list[Verdict]:
        """The verdicts on the same hardware after each change of an answer, by its place in the `fan`."""
        ours = self.fan
        found = verdicts(self.pack, ours.leanings, self.ground)
        return [found[each] for each in ours.places]

    def elsewhere(self, memory: str) -> Verdict:
        """The verdict of the rules on other hardware, of which estimates say no more than what is carried over."""
        return self.abroad()[memory]

    def abroad(self) -> Mapping[str, Verdict]:
        """The verdicts `elsewhere`, by every memory."""
        if self._abroad is None:
            heavy, known = self._away(), dict[str, Verdict]()
            for states, words in _alike(self.pack, _reach(self.pack, self.inputs, self.evidence)):
                found = verdicts(self.pack, self._leanings(words, states), Ground(states, heavy))
                known.update(zip(words, found, strict=True))
            self._abroad = known
        return self._abroad

    def _away(self) -> tuple[Burden, ...]:
        """How much each method would break on other hardware, of which no estimate is at hand."""
        return burdens(self.pack, self.demands.elsewhere(priced=self.evidence is not None), None)

    def _leanings(self, words: tuple[str, ...], states: States | None) -> Iterator[Leaning]:
        """What the rules lean to on other memories, where this is known of what fits."""
        read = read_states(self.pack, states)
        if read is not None:
            return (lean(self.pack, self.gist.changed(MEMORY, memory), read) for memory in words)
        known = abroad(self.pack, self.gist)
        return (known[memory] for memory in words)

    def _ground(self, demands: Demands | None) -> Ground:
        if demands is None or demands is self.demands:
            return self.ground
        return Ground(self.ground.states, burdens(self.pack, demands, self.evidence))


def _reach(pack: Pack, inputs: Inputs, evidence: Evidence | None) -> Reach:
    """How far what is carried over of each method reaches, in the order of `Method`; empty where this is no GPU.

    What fits here fits where there is more memory, or as much as its recipe takes; what needs more at its smallest than
    a GPU has does not fit there. A method that fits here may be made smaller still, and is left to the rules below.
    """
    now = inputs.marketed_gb
    if evidence is None or now is None:
        return ()
    lows = class_lows(pack)
    bounds = [_bound(fit.best(evidence, method), now) for method in METHODS]
    return tuple([(bisect_left(lows, needs), bisect_left(lows, enough)) for needs, enough in bounds])


@lru_cache(maxsize=4096)
def _alike(pack: Pack, reach: Reach) -> tuple[tuple[States | None, tuple[str, ...]], ...]:
    """Memories by what this GPU's estimates say of them; None where they say nothing."""
    found: dict[States | None, list[str]] = {}
    places = {item.key: place for place, item in enumerate(pack.rules.gate.classes) if item.low}
    for memory in memories(pack):
        states = tuple([_state(places[memory], *ends) for ends in reach]) if memory in places else ()
        said = any(state is not FitState.UNKNOWN for state in states)
        found.setdefault(states if said else None, []).append(memory)
    return tuple((states, tuple(words)) for states, words in found.items())


def _state(place: int, needs: int, enough: int) -> FitState:
    """Whether a method fits a GPU of a class."""
    if place < needs:
        return FitState.DOES_NOT_FIT
    return FitState.FITS if place >= enough else FitState.UNKNOWN


def _bound(best: fit.Best, now: float) -> Bound:
    if best.priced is None or best.state is FitState.UNKNOWN:
        return Bound()
    peak = best.priced.device_bytes
    if best.state is FitState.DOES_NOT_FIT:
        return Bound(needs=peak.expected / fit.GIB)
    return Bound(enough=min(now, peak.high / fit.GIB / USABLE))
