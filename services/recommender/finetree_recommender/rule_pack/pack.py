# SPDX-License-Identifier: Apache-2.0
"""A rule pack: loaded from YAML, checked, and identified by the hash of its content."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib import resources
from types import MappingProxyType
from typing import Any

import yaml
from finetree_api.types.v1 import evidence_pb2

from finetree_recommender.method import Method
from finetree_recommender.rule_pack.checks.structure import check
from finetree_recommender.rule_pack.inheritance import DIRECTIVES, merged
from finetree_recommender.rule_pack.schema.cards import Card
from finetree_recommender.rule_pack.schema.rules import Node, Option, Rules
from finetree_recommender.rule_pack.yaml import PackError, read

DEFAULT_PACK = "playbook-1"
"""Pack used when a request names none."""
BUILTIN = ("playbook-1", "evidence-1")
"""Built-in packs; each may extend one before it."""

# The loader in C takes a tenth of the time.
MAX_VALUES = 100_000
"""Most values of a pack with its aliases written out; the built-in ones have some thousand."""
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_NAMED_RULE = re.compile(r"rules? (?P<id>[^\s:]+)(:| and )")
_REFERENCE = re.compile(r"(?P<key>[a-z][a-z0-9-]*):? (?P<locator>.+)")


@dataclass(frozen=True, eq=False)
class Pack:
    """Checked rules with their id and hash; compared and hashed by identity."""

    rules: Rules
    sha256: str
    """Hash of the file's bytes and of the base's hash; lower-case hex."""
    text: str = field(default="", repr=False)
    """Content of the file."""
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """Rules as parsed YAML, with those of the base."""
    extends: str = ""
    """Id of the pack that it extends; empty when none."""

    @cached_property
    def revision(self) -> evidence_pb2.RevisionComponent:
        """Reference to the pack in replies."""
        return evidence_pb2.RevisionComponent(id=self.rules.id, sha256=self.sha256, date=self.rules.date)

    def provenance(self, reference: str) -> evidence_pb2.Provenance:
        """Find the source that a rule's `source` refers to.

        Raises:
            PackError: The reference names no source of the pack.
        """
        match = _REFERENCE.fullmatch(reference)
        source = self.rules.sources.get(match["key"]) if match else None
        if match is None or source is None:
            known = ", ".join(sorted(self.rules.sources))
            raise PackError(f"source {reference!r}: give a key and a place, as in 'playbook L264'; keys are {known}")
        kind = evidence_pb2.ProvenanceKind.Value(f"PROVENANCE_KIND_{source.kind}")
        return evidence_pb2.Provenance(kind=kind, source=source.source, locator=match["locator"], date=source.date)

    def card(self, method: Method) -> Card:
        """Card of a method."""
        return self._cards[method]

    def stars_rank(self, method: Method) -> int:
        """Place of a method by stars, from 0."""
        return self.rules.stars_order.methods.index(method)

    @cached_property
    def options(self) -> Mapping[tuple[str, str], Option]:
        """Options of all questions by the question's id and the answer."""
        return {(question.id, option.value): option for question in self.rules.questions for option in question.options}

    @cached_property
    def tree_nodes(self) -> Mapping[str, Node]:
        """Nodes of the decision tree by id."""
        return {node.id: node for node in self.rules.tree.nodes}

    @cached_property
    def tree_inputs(self) -> frozenset[str]:
        """Inputs that the nodes of the decision tree ask for."""
        return frozenset(name for node in self.rules.tree.nodes for name in node.when)

    @cached_property
    def _cards(self) -> Mapping[Method, Card]:
        return {card.method: card for card in self.rules.methods}


def parse(text: bytes, bases: Mapping[str, Pack] | None = None) -> Pack:
    """Load and check a pack; `bases` are the packs that it may extend, by id.

    Raises:
        PackError: The pack cannot be used; the message names the rule and, where it is in this file, its line.
    """
    try:
        return _parse(text, bases or {})
    except PackError as error:
        line = _line(text, str(error))
        raise (PackError(f"line {line}: {error}") if line else error) from None


def _parse(text: bytes, bases: Mapping[str, Pack]) -> Pack:
    try:
        _require_bounded(text)
        raw = yaml.load(text, Loader=_LOADER)  # noqa: S506  # a safe loader either way
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise PackError(f"not YAML: {error}") from error
    identity, extends = text, ""
    if isinstance(raw, dict) and any(key in raw for key in DIRECTIVES):
        base = _base(raw, bases)
        # A pin of this pack also pins its base.
        identity, extends = text + base.sha256.encode(), base.rules.id
        raw = merged(raw, dict(base.raw))
    rules = read(Rules, raw, "pack")
    pack = Pack(rules, hashlib.sha256(identity).hexdigest(), text.decode(), raw, extends)
    check(pack.rules, pack.provenance)
    return pack


def _require_bounded(text: bytes) -> None:
    """Refuse a file whose aliases stand for far more values than it has: a few lines can stand for billions.

    Raises PackError, YAMLError.
    """
    if b"*" not in text or b"&" not in text:
        return
    sizes: dict[int, int] = {}

    def size(node: yaml.Node) -> int:
        if not isinstance(node, yaml.CollectionNode):
            return 1
        if id(node) not in sizes:
            # Met again below itself it would have no end.
            sizes[id(node)] = MAX_VALUES + 1
            parts = (part for item in node.value for part in (item if isinstance(item, tuple) else (item,)))
            sizes[id(node)] = 1 + sum(size(part) for part in parts)
        return sizes[id(node)]

    root = yaml.compose(text, Loader=_LOADER)
    if root is not None and size(root) > MAX_VALUES:
        raise PackError(f"its aliases stand for more than {MAX_VALUES} values; write them out")


def _base(raw: dict[str, Any], bases: Mapping[str, Pack]) -> Pack:
    name = raw.get("extends")
    if not isinstance(name, str) or name not in bases:
        known = ", ".join(bases) or "none"
        raise PackError(f"extends: no pack {name!r}; packs that can be extended are {known}")
    return bases[name]


def _line(text: bytes, message: str) -> int | None:
    """Line of the rule that an error names, counted from 1."""
    named = _NAMED_RULE.match(message)
    if named is None:
        return None
    place = re.search(rb"\bid: [\"']?" + re.escape(named["id"].encode()) + rb"[\"']?(?=[,}\s])", text)
    return text.count(b"\n", 0, place.start()) + 1 if place else None


@cache
def builtin_packs() -> Mapping[str, Pack]:
    """Read the built-in packs once, by id; each may extend one before it."""
    packs: dict[str, Pack] = {}
    for name in BUILTIN:
        pack = parse((resources.files("finetree_recommender.rule_pack") / "packs" / f"{name}.yaml").read_bytes(), packs)
        packs[pack.rules.id] = pack
    return MappingProxyType(packs)
