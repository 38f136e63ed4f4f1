# SPDX-License-Identifier: Apache-2.0
"""A rule pack: loaded from YAML, checked, and identified by the hash of its content."""

import hashlib
import re
from dataclasses import dataclass
from importlib import resources

import yaml
from finetree_api.types.v1 import evidence_pb2 as ev

from finetree_recommender.cards import Card
from finetree_recommender.checks import check
from finetree_recommender.loading import PackError, read
from finetree_recommender.methods import Method
from finetree_recommender.rules import Rules

DEFAULT_PACK = "playbook-1"
"""Pack used when a request names none."""

# The loader in C reads a pack in a tenth of the time; start-up waits for it.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_REFERENCE = re.compile(r"(?P<key>[a-z][a-z-]*):? (?P<locator>.+)")


@dataclass(frozen=True, slots=True)
class Pack:
    """Checked rules and what identifies them."""

    rules: Rules
    sha256: str
    """Hash of the file's bytes, lower-case hex."""

    @property
    def revision(self) -> ev.RevisionComponent:
        """What a reply names the pack by."""
        return ev.RevisionComponent(id=self.rules.id, sha256=self.sha256, date=self.rules.date)

    def provenance(self, reference: str) -> ev.Provenance:
        """The source that a rule's `source` refers to.

        Raises:
            PackError: The reference names no source of the pack.
        """
        match = _REFERENCE.fullmatch(reference)
        source = self.rules.sources.get(match["key"]) if match else None
        if match is None or source is None:
            known = ", ".join(sorted(self.rules.sources))
            raise PackError(f"source {reference!r}: give a key and a place, as in 'playbook L264'; keys are {known}")
        kind = ev.ProvenanceKind.Value(f"PROVENANCE_KIND_{source.kind}")
        return ev.Provenance(kind=kind, source=source.source, locator=match["locator"], date=source.date)

    def card(self, method: Method) -> Card:
        """The card of a method."""
        return next(card for card in self.rules.methods if card.method is method)

    def stars_rank(self, method: Method) -> int:
        """Place of a method in the order of stars, 0 first."""
        return self.rules.stars_order.methods.index(method)


def parse(text: bytes) -> Pack:
    """Load and check a pack.

    Raises:
        PackError: The pack cannot be used; the message names the rule.
    """
    try:
        raw = yaml.load(text, Loader=_LOADER)  # noqa: S506  # a safe loader either way
    except yaml.YAMLError as error:
        raise PackError(f"not YAML: {error}") from error
    pack = Pack(read(Rules, raw, "pack"), hashlib.sha256(text).hexdigest())
    check(pack.rules, pack.provenance)
    return pack


def load_builtin() -> dict[str, Pack]:
    """The packs that come with the service, by id."""
    folder = resources.files("finetree_recommender") / "packs"
    files = sorted((item for item in folder.iterdir() if item.name.endswith(".yaml")), key=lambda item: item.name)
    packs = [parse(item.read_bytes()) for item in files]
    return {pack.rules.id: pack for pack in packs}
