# SPDX-License-Identifier: Apache-2.0
"""Search for the smallest sets of changes after which a run fits, the least harmful first.

Each change is parsed once to find the fields of `Run` that it replaces. Sets of changes are then tried on the `Run`,
which is about ten times cheaper than parsing a changed request. The results are parsed again, so that a remedy equals
the estimate of the changed spec.
"""

import heapq
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

from finetree_runtime.errors import DomainError

from finetree_estimator.cost import Cost
from finetree_estimator.estimate import Prediction, fit_of
from finetree_estimator.evidence.corrections import UNCORRECTED, Correction
from finetree_estimator.intervals import Interval
from finetree_estimator.memory.fit import Verdict
from finetree_estimator.run import Run
from finetree_estimator.spec.parse import ParsedRequest, parse_request, with_spec
from finetree_estimator.spec.resolve import Knowledge
from finetree_estimator.whatif.changes import MAJOR, Change, applicable, apply_patches
from finetree_estimator.whatif.quantities import duration, money

MAX_REMEDIES = 4
"""Most remedies in an answer."""
TRIES = 32
"""Most sets of changes that are tried by harm; after that, sets are found by removing changes from the largest."""

Changes = tuple[Change, ...]
Test = Callable[[Changes], bool]


@dataclass(frozen=True, slots=True)
class Remedy:
    """Changes to be made together, and the device peak in bytes, the seconds and the cost after them."""

    changes: Changes
    peak: Interval
    verdict: Verdict
    total_seconds: Interval | None = None
    """None where the number of rows is unknown."""
    cost: Cost | None = None

    @property
    def summary(self) -> str:
        """One line of text: the changes, the peak, the verdict, time and cost."""
        changes = ", ".join(change.summary for change in self.changes)
        parts = [f"about {self.peak.expected / 1024**3:.1f} GiB, {self.verdict.value}"]
        if self.total_seconds is not None:
            parts.append(duration(self.total_seconds.expected))
        if self.cost is not None and self.cost.amount is not None:
            parts.append(money(self.cost.amount.expected, self.cost.currency))
        return f"{changes}: {', '.join(parts)}"


def search(
    parsed: ParsedRequest,
    knowledge: Knowledge,
    correction: Correction = UNCORRECTED,
    *,
    limit_bytes: int = 0,
) -> list[Remedy]:
    """Find minimal sets of changes after which the run fits, the least harmful first; empty where it fits already.

    With `limit_bytes` the upper end of the device peak must also be within that limit.
    """
    peaks, fit = fit_of(parsed.run, correction)
    if _inside(peaks.device, fit.verdict, limit_bytes) or not (parsed.run.device.usable_bytes or limit_bytes):
        return []
    effects = _effects(parsed, knowledge)

    def fits(changes: Changes) -> bool:
        merged = {name: value for change in changes for name, value in effects[change].items()}
        peaks, fit = fit_of(replace(parsed.run, **merged), correction)
        return _inside(peaks.device, fit.verdict, limit_bytes)

    found: list[Remedy] = []
    for changes in _candidates(list(effects), fits):
        remedy = _remedy(parsed, knowledge, changes, correction=correction)
        if remedy is not None and _inside(remedy.peak, remedy.verdict, limit_bytes):
            found.append(remedy)
    return found


def furthest(parsed: ParsedRequest, knowledge: Knowledge, correction: Correction = UNCORRECTED) -> Remedy | None:
    """Combine the changes that lower the device peak most; None where there are none.

    Shows how near a limit can be reached where `search` finds nothing.
    """
    changes = list(_effects(parsed, knowledge))
    minor = [change for change in changes if change.group not in MAJOR]
    sets = [(*_strongest(minor, major), *major) for major in _majors(changes)]
    tried = [_remedy(parsed, knowledge, chosen, correction=correction) for chosen in sets if chosen]
    return min((remedy for remedy in tried if remedy is not None), key=lambda item: item.peak.high, default=None)


def _inside(peak: Interval, verdict: Verdict, limit_bytes: int) -> bool:
    if not limit_bytes:
        return verdict is Verdict.FITS
    return verdict in (Verdict.FITS, Verdict.UNSPECIFIED) and peak.high <= limit_bytes


def _effects(parsed: ParsedRequest, knowledge: Knowledge) -> dict[Change, dict[str, Any]]:
    """Fields of the run that each applicable change replaces; changes that conflict with the spec are left out."""
    effects: dict[Change, dict[str, Any]] = {}
    for change in applicable(parsed):
        try:
            run = _changed(parsed, knowledge, (change,)).run
        except DomainError:
            continue
        if differing := _difference(parsed.run, run):
            effects[change] = differing
    return effects


def _difference(before: Run, after: Run) -> dict[str, Any]:
    pairs = ((item.name, getattr(before, item.name), getattr(after, item.name)) for item in fields(Run) if item.init)
    return {name: new for name, old, new in pairs if new != old}


def _remedy(parsed: ParsedRequest, knowledge: Knowledge, changes: Changes, *, correction: Correction) -> Remedy | None:
    """Estimate the changed spec; None where the changes conflict."""
    try:
        after = _changed(parsed, knowledge, changes)
    except DomainError:
        return None
    found = Prediction(after.run, correction).estimate(explained=False)
    seconds = found.duration.total if found.duration is not None else None
    return Remedy(changes, found.memory.device, found.fit.verdict, seconds, found.price)


def _changed(parsed: ParsedRequest, knowledge: Knowledge, changes: Changes) -> ParsedRequest:
    """Apply changes to the resolved spec and parse it. Raises DomainError where they conflict."""
    patches = (patch for change in changes for patch in change.patches)
    return parse_request(with_spec(parsed.request, apply_patches(parsed.spec, patches)), knowledge)


def _candidates(changes: list[Change], fits: Test) -> list[Changes]:
    """Find minimal sets of changes that fit, sorted by harm."""
    minor = sorted((change for change in changes if change.group not in MAJOR), key=lambda change: change.harm)
    hopeful = [major for major in _majors(changes) if fits((*major, *_strongest(minor, major)))]
    found: list[Changes] = []
    for chosen in itertools.islice(_by_harm(hopeful, minor, found), TRIES):
        if fits(chosen):
            found.append(chosen)
        if len(found) == MAX_REMEDIES:
            break
    for major in hopeful:
        if len(found) == MAX_REMEDIES:
            break
        # Skips a choice of method and devices that saves at least as much as one that was found.
        if not any(_goes_as_far(major, _major_of(other)) for other in found):
            found.append(_lightened((*major, *_strongest(minor, major)), minor, fits))
    return sorted(found, key=_harm)


def _major_of(changes: Changes) -> Changes:
    return tuple(change for change in changes if change.group in MAJOR)


def _majors(changes: Iterable[Change]) -> list[Changes]:
    """All combinations of changes of the major groups, sorted by harm; the first is empty."""
    groups: dict[str, list[Changes]] = {group: [()] for group in MAJOR}
    for change in changes:
        if change.group in MAJOR:
            groups[change.group].append((change,))
    choices = [tuple(itertools.chain(*choice)) for choice in itertools.product(*groups.values())]
    return sorted(choices, key=_harm)


def _strongest(minor: list[Change], major: Changes) -> Changes:
    """Select the change of the highest level in each group, changes with exclusions first."""
    chosen: list[Change] = []
    for change in sorted(minor, key=lambda change: (-len(change.excludes), -change.level)):
        if change.goes_with((*major, *chosen)):
            chosen.append(change)
    return tuple(chosen)


def _by_harm(majors: list[Changes], minor: list[Change], found: list[Changes]) -> Iterator[Changes]:
    """Generate sets of one major choice and any minor changes, sorted by harm.

    Leaves out sets that do at least as much in every group as one in `found`.
    """
    order = itertools.count()
    waiting: list[tuple[int, int, Changes, tuple[int, ...]]] = []

    def put(major: Changes, picked: tuple[int, ...]) -> None:
        if not picked or picked[-1] < len(minor):
            harm = _harm(major) + sum(minor[index].harm for index in picked)
            heapq.heappush(waiting, (harm, next(order), major, picked))

    for major in majors:
        put(major, ())
    while waiting:
        _, _, major, picked = heapq.heappop(waiting)
        chosen = (*major, *(minor[index] for index in picked))
        if picked:
            put(major, (*picked[:-1], picked[-1] + 1))
        sound = not picked or minor[picked[-1]].goes_with(chosen[:-1])
        if not sound or any(_goes_as_far(chosen, other) for other in found):
            continue
        if chosen:
            yield chosen
        if not any(_goes_as_far(chosen, other) for other in found):
            put(major, (*picked, picked[-1] + 1 if picked else 0))


def _goes_as_far(changes: Changes, other: Changes) -> bool:
    """Whether `changes` have at least the levels of `other` in every group."""
    levels = {change.group: change.level for change in changes}
    return all(levels.get(change.group, 0) >= change.level for change in other)


def _lightened(changes: Changes, minor: list[Change], fits: Test) -> Changes:
    """Remove the changes that a fitting set does not need, and weaken the others as far as it still fits."""
    for change in sorted(changes, key=lambda change: -change.harm):
        rest = tuple(other for other in changes if other is not change)
        if fits(rest):
            changes = rest
            continue
        for weaker in minor:
            if weaker.group == change.group and weaker.level < change.level and fits((*rest, weaker)):
                changes = (*rest, weaker)
                break
    return changes


def _harm(changes: Changes) -> int:
    return sum(change.harm for change in changes)
