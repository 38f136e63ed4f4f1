# SPDX-License-Identifier: Apache-2.0
"""Names of models as people write them, matched alike by every service."""

from collections.abc import Iterable, Mapping
from typing import TypeVar

T = TypeVar("T")

MIRRORS = ("unsloth/", "nousresearch/")
"""Organizations that keep copies of others' models under the same names."""


def by_name(entries: Iterable[tuple[Iterable[str], T]]) -> Mapping[str, T]:
    """Index entries by their names in lower case, with and without the organization; the first entry has precedence.

    People type "llama-3.2-3b-instruct" for "meta-llama/Llama-3.2-3B-Instruct".
    """
    index: dict[str, T] = {}
    for names, entry in entries:
        for name in names:
            index.setdefault(canonical(name), entry)
            index.setdefault(canonical(name).rpartition("/")[2], entry)
    return index


def find(index: Mapping[str, T], name: str) -> T | None:
    """Find the entry of a name, or of the model that a mirror keeps a copy of; None where it is unknown."""
    key = canonical(name)
    found = index.get(key)
    if found is None and key.startswith(MIRRORS):
        found = index.get(key.rpartition("/")[2])
    return found


def canonical(name: str) -> str:
    """Normalize a name: lower case, no blanks around it."""
    return name.strip().casefold()
