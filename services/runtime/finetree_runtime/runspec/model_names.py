# SPDX-License-Identifier: Apache-2.0
"""Names of models as people write them, matched alike by every service."""

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

T = TypeVar("T")

MIRRORS = ("unsloth/", "nousresearch/")
"""Organizations that keep copies of others' models under the same names."""
_MAKERS = {"meta", "google", "microsoft", "alibaba", "mistralai"}
"""Words that people put before a name of that maker: "Meta Llama 3.1 8B"."""


def by_name(entries: Iterable[tuple[Iterable[str], T]]) -> Mapping[str, T]:
    """Index entries by their names in lower case, with and without the organization, and as they are spelled.

    People type "llama-3.2-3b-instruct" for "meta-llama/Llama-3.2-3B-Instruct", and "llama3.1:8b" for "llama-3.1-8b".
    The first entry has precedence, and a name before a spelling.
    """
    listed = [(canonical(name), entry) for names, entry in entries for name in names]
    index: dict[str, T] = {}
    for name, entry in listed:
        index.setdefault(name, entry)
        index.setdefault(name.rpartition("/")[2], entry)
    for name, entry in listed:
        index.setdefault(spelled(name), entry)
    return index


def find(index: Mapping[str, T], name: str) -> T | None:
    """Find the entry of a name, or of the model that a mirror keeps a copy of; None where it is unknown.

    A name with an organization is looked up as it stands: another organization's model of the same name may differ.
    """
    key = canonical(name)
    found = index.get(key)
    if found is None and key.startswith(MIRRORS):
        found = index.get(key.rpartition("/")[2])
    return index.get(spelled(name)) if found is None and "/" not in key else found


def meant(names: Iterable[str], name: str) -> str:
    """Return which of a model's names another spelling means; the spelling itself where it is none of them."""
    listed = list(names)
    forms = (canonical, lambda text: canonical(text).rpartition("/")[2], spelled)
    found = (each for form in forms for each in listed if form(each) == form(name))
    return next(found, name)


def nearest(names: Iterable[str], name: str, *, most: int = 3) -> tuple[str, ...]:
    """Find at most `most` names that begin as a name is spelled, or are alike, best first; hub ids for a hub id."""
    spellings: dict[str, str] = {}
    for each in names:
        if ("/" in each) == ("/" in name):
            spellings.setdefault(spelled(each), each)
    key = spelled(name)
    longer = sorted((hit for hit in spellings if key and hit.startswith(key)), key=lambda hit: (len(hit), hit))
    similar = difflib.get_close_matches(key, spellings, n=most, cutoff=0.5)
    return tuple(spellings[hit] for hit in [*dict.fromkeys([*longer, *similar])][:most])


def canonical(name: str) -> str:
    """Normalize a name: lower case, no blanks around it."""
    return name.strip().casefold()


def spelled(name: str) -> str:
    """Normalize the spelling of a name: "Meta-Llama-3.1-8B", "llama 3.1 8b" and "llama3.1:8b" are "llama-3.1-8-b"."""
    words = re.findall(r"[a-z]+|\d+(?:\.\d+)*", canonical(name).rpartition("/")[2])
    return "-".join(words[1:] if len(words) > 1 and words[0] in _MAKERS else words)
