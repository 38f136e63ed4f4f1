# SPDX-License-Identifier: Apache-2.0
"""The rules of rules.yaml as values, checked when they are read."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from importlib import resources
from typing import Any, TypeAlias

import yaml
from finetree_api.types.v1 import serving_pb2

from finetree_runtime.serving.facts import Facts, Form

Target: TypeAlias = serving_pb2.ServingTarget.ValueType
Verdict: TypeAlias = serving_pb2.ServingVerdict.ValueType
Version: TypeAlias = tuple[int, ...]
# Libyaml's loader, where the wheel has it, takes a tenth of the time.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
OLDEST: Version = (0, 0, 0, 0)
"""Below every version."""


class RulesError(ValueError):
    """Rules that cannot be used; the message names the rule."""


@dataclass(frozen=True, slots=True)
class When:
    """Conditions of a rule, all of which must hold; None asks nothing."""

    form: tuple[Form, ...]
    rank_above: int | None = None
    dora: bool | None = None
    rslora: bool | None = None
    experts: bool | None = None
    bias: bool | None = None
    saved: bool | None = None
    alpha_whole: bool | None = None
    plain_alpha_whole: bool | None = None
    targets_outside: tuple[str, ...] = ()
    """Holds where a module is adapted that is none of these."""
    any_target: tuple[str, ...] = ()
    """Holds where one of these is adapted."""
    without_target: tuple[str, ...] = ()
    """Holds where one of these is not adapted."""
    family: tuple[str, ...] = ()
    family_not: tuple[str, ...] = ()

    @property
    def is_general(self) -> bool:
        """Whether it asks for the form alone."""
        return all(getattr(self, item.name) in (None, ()) for item in fields(self) if item.name != "form")

    def holds(self, facts: Facts) -> bool | None:
        """Whether the conditions hold; None where only the family could tell, and it is unknown."""
        asked = (
            (self.rank_above, self.rank_above is not None and facts.rank > self.rank_above),
            (self.dora, facts.dora == self.dora),
            (self.rslora, facts.rslora == self.rslora),
            (self.experts, facts.experts == self.experts),
            (self.bias, facts.bias == self.bias),
            (self.saved, bool(facts.saved) == self.saved),
            (self.alpha_whole, facts.alpha.is_integer() == self.alpha_whole),
            (self.plain_alpha_whole, _is_whole(facts.plain_alpha) == self.plain_alpha_whole),
            (self.targets_outside or None, bool(facts.targets.difference(self.targets_outside))),
            (self.any_target or None, bool(facts.targets.intersection(self.any_target))),
            (self.without_target or None, not facts.targets.issuperset(self.without_target)),
        )
        if facts.form not in self.form or not all(met for wanted, met in asked if wanted is not None):
            return False
        if not (self.family or self.family_not):
            return True
        if not facts.family:
            return None
        return facts.family in self.family if self.family else facts.family not in self.family_not


@dataclass(frozen=True, slots=True)
class Rule:
    """What follows from a condition, and the file of the server's code in which it was read."""

    id: str
    when: When
    verdict: Verdict
    message: str
    source_url: str
    steps: tuple[str, ...] = ()
    remedy: str = ""
    silent: bool = False
    first: Version = OLDEST
    """Oldest version that it is about."""
    below: Version | None = None
    """First version that it is no longer about; None: it still is."""

    def covers(self, version: Version) -> bool:
        """Whether the rule is about a version."""
        return self.first <= version and (self.below is None or version < self.below)


@dataclass(frozen=True, slots=True)
class Server:
    """A server with its rules."""

    target: Target
    name: str
    checked: tuple[str, ...]
    """Versions whose code was read, oldest first; empty for this suite's own."""
    rules: tuple[Rule, ...]

    @property
    def oldest(self) -> Version:
        """Oldest version whose code was read; below all where its versions are no numbers."""
        return parse_version(self.checked[0]) or OLDEST if self.checked else OLDEST

    def boundaries(self) -> list[Version]:
        """Return the versions at which an answer may change, the oldest first."""
        found = {rule.first for rule in self.rules} | {rule.below for rule in self.rules if rule.below is not None}
        return sorted({self.oldest} | {version for version in found if version > self.oldest})


@dataclass(frozen=True, slots=True)
class Rules:
    """All servers, and when their code was last read."""

    date: str
    servers: Mapping[Target, Server] = field(default_factory=dict)


@cache
def load() -> Rules:
    """Read the rules that come with this package."""
    return parse(resources.files("finetree_runtime.serving").joinpath("rules.yaml").read_text(encoding="utf-8"))


def parse(text: str) -> Rules:
    """Read rules.

    Raises RulesError for an unknown key, server, form or verdict, a rule that says too little, and a form without a
    general rule.
    """
    raw = yaml.load(text, Loader=_LOADER)  # noqa: S506 - a safe loader, by either name
    servers = {server.target: server for server in map(_server, raw["servers"])}
    missing = set(serving_pb2.ServingTarget.values()) - {0} - servers.keys()
    if missing:
        raise RulesError(f"no rules for {', '.join(map(serving_pb2.ServingTarget.Name, sorted(missing)))}")
    return Rules(str(raw["date"]), {number: servers[number] for number in sorted(servers)})


def parse_version(text: str) -> Version | None:
    """Return the numbers of a version, four of them, "v0.33.0-rc2" like "0.33.0"; None where it is no version."""
    found = re.fullmatch(r"v?(\d{1,9}(?:\.\d{1,9}){0,3})(?:[.-]?(?:rc|post|dev)\d*)?", text)
    if found is None:
        return None
    numbers = [int(part) for part in found[1].split(".")]
    return (*numbers, *(0 for _ in range(4 - len(numbers))))


def _server(raw: Mapping[str, Any]) -> Server:
    name = f"SERVING_TARGET_{raw['target']}"
    if name not in serving_pb2.ServingTarget.keys():  # noqa: SIM118 - an enum wrapper is no mapping
        raise RulesError(f"there is no server {raw['target']!r}")
    rules = tuple(_rule(each, str(raw["code"])) for each in raw["rules"])
    server = Server(serving_pb2.ServingTarget.Value(name), str(raw["name"]), tuple(map(str, raw["checked"])), rules)
    for form in Form:
        for version in server.boundaries():
            general = [r for r in rules if form in r.when.form and r.when.is_general and r.covers(version)]
            if not general:
                raise RulesError(f"{raw['target']}: no general rule for {form}")
    return server


_KEYS = {"id", "when", "verdict", "message", "file", "steps", "remedy", "silent", "versions"}


def _rule(raw: Mapping[str, Any], code: str) -> Rule:
    name = str(raw.get("id"))
    if unknown := raw.keys() - _KEYS:
        raise RulesError(f"rule {name}: unknown key {min(unknown)!r}")
    versions: Mapping[str, str] = raw.get("versions", {})
    rule = Rule(
        id=name,
        when=_when(raw["when"], name),
        verdict=_verdict(str(raw["verdict"]), name),
        message=str(raw["message"]),
        source_url=f"{code}{raw['file']}",
        steps=tuple(map(str, raw.get("steps", ()))),
        remedy=str(raw.get("remedy", "")),
        silent=bool(raw.get("silent", False)),
        first=_version(versions.get("from"), name) or OLDEST,
        below=_version(versions.get("below"), name),
    )
    serves_with = rule.verdict == serving_pb2.SERVING_VERDICT_SERVES_WITH
    refuses = rule.verdict == serving_pb2.SERVING_VERDICT_NOT
    if bool(rule.steps) != serves_with or bool(rule.remedy) != refuses or (rule.silent and not refuses):
        raise RulesError(f"rule {name}: SERVES_WITH has steps, and NOT has a remedy; only NOT may be silent")
    return rule


def _when(raw: Mapping[str, Any], rule: str) -> When:
    known = {item.name for item in fields(When)}
    if unknown := raw.keys() - known:
        raise RulesError(f"rule {rule}: unknown condition {min(unknown)!r}")
    given: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in raw.items()}
    if unknown_forms := set(given["form"]) - set(Form):
        raise RulesError(f"rule {rule}: unknown form {min(unknown_forms)!r}")
    return When(**{**given, "form": tuple(map(Form, given["form"]))})


def _verdict(word: str, rule: str) -> Verdict:
    name = f"SERVING_VERDICT_{word}"
    if name not in serving_pb2.ServingVerdict.keys():  # noqa: SIM118 - as above
        raise RulesError(f"rule {rule}: unknown verdict {word!r}")
    return serving_pb2.ServingVerdict.Value(name)


def _version(text: str | None, rule: str) -> Version | None:
    found = parse_version(text) if text is not None else None
    if text is not None and found is None:
        raise RulesError(f"rule {rule}: {text!r} is no version")
    return found


def _is_whole(number: float) -> bool:
    """Whether a number is whole but for rounding: 16 * sqrt(16) is."""
    return abs(number - round(number)) < 1e-9 * max(1.0, abs(number))


def known_families(when: When) -> Iterable[str]:
    """Return the families that a condition names, in the order of the alphabet."""
    return sorted(when.family or when.family_not)
