# SPDX-License-Identifier: Apache-2.0
"""Packs that extend another pack: their rules replace the rules of the base, and the rest is inherited.

    id: house-rules
    extends: playbook-1
    remove: [dont.full.quick]        # rules of the base, by id
    replace: [use_cases]             # sections of which nothing is inherited
    gate: {tolerance: {id: gate.tolerance, value: 0.02, source: "house: purchasing"}}

A rule (whatever has an `id`, a `source` or a `knob`) is replaced as a whole, so that no number goes on under another's
source. Lists of rules are merged by id, recipe tables by what they set and for whom, cards by method; new entries come
first, for lists are read from the top. Brackets are put in order of their lower ends.
"""

from collections.abc import Callable, Iterator
from typing import Any

from finetree_recommender.rule_pack.yaml import PackError

DIRECTIVES = ("extends", "remove", "replace")
"""Keys about inheritance, which are not part of the merged rules."""
OWN = ("id", "date", "title")
"""Keys that are never inherited."""

Raw = dict[str, Any]
_TABLE_KEYS = ("knob", "methods", "profiles", "input", "factor")


def merged(raw: Raw, base: Raw) -> Raw:
    """Merge the rules of a pack into those of its base.

    Raises:
        PackError: `remove` or `replace` names what the base does not have.
    """
    inherited = _without({key: value for key, value in base.items() if key not in OWN}, _words(raw, "remove"))
    for path in _words(raw, "replace"):
        inherited = _emptied(inherited, path.split("."), path)
    own = {key: value for key, value in raw.items() if key not in DIRECTIVES}
    return _mapping(own, inherited)


def _words(raw: Raw, key: str) -> list[str]:
    words = raw.get(key, [])
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise PackError(f"{key}: expected a list of names, found {words!r}")
    return words


def _without(base: Raw, ids: list[str]) -> Raw:
    known = set(_ids(base))
    for rule_id in ids:
        if rule_id not in known:
            raise PackError(f"rule {rule_id}: `remove` names it and the base has no such rule")
    pruned: Raw = {key: _pruned(value, set(ids)) for key, value in base.items()}
    return pruned


def _ids(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        if "id" in value:
            yield str(value["id"])
        for item in value.values():
            yield from _ids(item)
    elif isinstance(value, list):
        for item in value:
            yield from _ids(item)


def _pruned(value: Any, ids: set[str]) -> Any:
    """Remove the rules of these ids from a value, and tables that have no rows left."""
    if isinstance(value, dict):
        return {key: _pruned(item, ids) for key, item in value.items()}
    if not isinstance(value, list):
        return value
    kept = [item for item in value if not (isinstance(item, dict) and item.get("id") in ids)]
    rest = [_pruned(item, ids) for item in kept]
    return [item for item in rest if not (isinstance(item, dict) and item.get("rows") == [])]


def _emptied(base: Raw, parts: list[str], path: str) -> Raw:
    head, *rest = parts
    if head not in base or (rest and not isinstance(base[head], dict)):
        raise PackError(f"`replace` names {path!r} and the base has no such section")
    kept = {key: value for key, value in base.items() if key != head}
    return kept | ({head: _emptied(base[head], rest, path)} if rest else {})


def _mapping(own: Raw, base: Raw) -> Raw:
    result = dict(base)
    for key, value in own.items():
        result[key] = _value(value, base[key]) if key in base else value
    return result


def _value(own: Any, base: Any) -> Any:
    if isinstance(own, dict) and isinstance(base, dict) and not _is_rule(own) and not _is_rule(base):
        return _mapping(own, base)
    if isinstance(own, list) and isinstance(base, list):
        key_of = _key_of([*own, *base])
        return own if key_of is None else _list(own, base, key_of)
    return own


def _is_rule(value: Raw) -> bool:
    return any(key in value for key in ("id", "source", "knob"))


def _key_of(entries: list[Any]) -> Callable[[Raw], object] | None:
    """Keys that identify the entries of a list; None where they are no rules."""
    if not entries or not all(isinstance(item, dict) for item in entries):
        return None
    if all("id" in item for item in entries):
        return lambda item: repr(item["id"])
    if all("knob" in item for item in entries):
        return lambda item: repr([item.get(key) for key in _TABLE_KEYS])
    for key in ("method", "prefix", "name"):
        if all(key in item for item in entries):
            return lambda item, key=key: repr(item[key])  # type: ignore[misc]  # the key is bound now, not later
    return None


def _list(own: list[Raw], base: list[Raw], key_of: Callable[[Raw], object]) -> list[Raw]:
    ours = {key_of(item): item for item in own}
    if len(ours) < len(own):
        keys = [key_of(item) for item in own]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise PackError(f"{twice} is given twice in one list; keep one of them")
    theirs = {key_of(item) for item in base}
    new = [item for item in own if key_of(item) not in theirs]
    kept = [_value(ours[key_of(item)], item) if key_of(item) in ours else item for item in base]
    both = [*new, *kept]
    if all(isinstance(item.get("low"), int | float) for item in both):
        return sorted(both, key=lambda item: float(item["low"]))
    return both
