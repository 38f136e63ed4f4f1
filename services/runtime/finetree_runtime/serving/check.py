# SPDX-License-Identifier: Apache-2.0
"""Evaluation of the rules: whether each server serves a result, in each range of its versions."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from finetree_api.types.v1 import serving_pb2

from finetree_runtime.serving.facts import Facts
from finetree_runtime.serving.rules import Rule, Server, Target, Version, known_families, load, parse_version

_SERVES, _SERVES_WITH = serving_pb2.SERVING_VERDICT_SERVES, serving_pb2.SERVING_VERDICT_SERVES_WITH
_NOT, _UNKNOWN = serving_pb2.SERVING_VERDICT_NOT, serving_pb2.SERVING_VERDICT_UNSPECIFIED


@dataclass(frozen=True, slots=True)
class Asked:
    """A server that is asked about; an empty version means all that the rules know."""

    target: Target
    version: str = ""


def check(facts: Facts, asked: Iterable[Asked] = ()) -> list[serving_pb2.ServingCheck]:
    """Return whether each server serves a result: one answer for each range of versions, newer ones first.

    Without `asked` it is about all servers. A version that is newer than all that were read is answered as the newest
    of them.
    """
    servers = load().servers
    wanted = tuple(asked) or tuple(Asked(target) for target in servers)
    return [each for item in wanted for each in _answers(servers[item.target], facts, item.version)]


def rules_date() -> str:
    """Return the date on which the rules were last compared with the servers' code, YYYY-MM-DD."""
    return load().date


def _answers(server: Server, facts: Facts, version: str) -> Iterator[serving_pb2.ServingCheck]:
    numbers = parse_version(version)
    if numbers is not None:
        yield _answer(server, facts, numbers, versions=version)
        return
    ranges: list[tuple[Version, Version | None, serving_pb2.ServingCheck]] = []
    starts = server.boundaries()
    for start, end in zip(starts, [*starts[1:], None], strict=True):
        found = _answer(server, facts, start)
        if ranges and ranges[-1][2] == found:
            ranges[-1] = (ranges[-1][0], end, found)
        else:
            ranges.append((start, end, found))
    for start, end, found in reversed(ranges):
        found.versions = _range(start, end)
        yield found


def _answer(server: Server, facts: Facts, version: Version, *, versions: str = "") -> serving_pb2.ServingCheck:
    answer = serving_pb2.ServingCheck(server=server.target, versions=versions, checked_versions=server.checked)
    if version < server.oldest:
        answer.message = f"This version is older than {server.checked[0]}, the oldest whose code was read."
        return answer
    covering = [rule for rule in server.rules if rule.covers(version)]
    matching = [(rule, rule.when.holds(facts)) for rule in covering]
    sure = [rule for rule, holds in matching if holds]
    open_ = [rule for rule, holds in matching if holds is None and rule.verdict in (_NOT, _UNKNOWN)]
    refusing = [rule for rule in sure if rule.verdict == _NOT]
    unread = [rule for rule in sure if rule.verdict == _UNKNOWN]
    said = refusing or unread or sure
    # What a server refuses is not served silently wrong, whatever else it would ignore.
    loud = [rule for rule in refusing if not rule.silent]
    if refusing:
        said = [*loud, *(rule for rule in refusing if rule.silent)]
    words = facts.words()
    answer.message = " ".join(_filled(rule.message, rule, facts, words=words) for rule in said)
    answer.rule_ids.extend(rule.id for rule in said)
    answer.source_url = said[0].source_url
    if refusing:
        answer.verdict, answer.silent, answer.remedy = (
            _NOT,
            not loud,
            _filled(said[0].remedy, said[0], facts, words=words),
        )
    elif not unread:
        answer.steps.extend(_steps(sure, open_, facts, words=words))
        answer.verdict = _SERVES_WITH if answer.steps else _SERVES
        answer.rule_ids.extend(rule.id for rule in open_)
    return answer


def _steps(sure: Sequence[Rule], open_: Sequence[Rule], facts: Facts, *, words: dict[str, str]) -> Iterator[str]:
    """Yield what must be done: what an unknown family leaves open, then the steps of the rules, "before" ones first."""
    for rule in open_:
        names = ", ".join(known_families(rule.when))
        yield f"the base must {'not be' if rule.when.family else 'be'} of one of these families: {names}"
    steps = [_filled(step, rule, facts, words=words) for rule in sure for step in rule.steps]
    yield from sorted(steps, key=lambda step: not step.startswith("before"))


def _filled(text: str, rule: Rule, facts: Facts, *, words: dict[str, str]) -> str:
    outside = ", ".join(sorted(facts.targets.difference(rule.when.targets_outside)))
    return text.format(**words, outside=outside)


def _range(start: Version, end: Version | None) -> str:
    parts = [f">={_text(start)}"] if any(start) else []
    parts += [f"<{_text(end)}"] if end is not None else []
    return ",".join(parts)


def _text(version: Version) -> str:
    numbers = list(version)
    while len(numbers) > 3 and not numbers[-1]:
        numbers.pop()
    return ".".join(map(str, numbers))
