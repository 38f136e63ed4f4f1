# SPDX-License-Identifier: Apache-2.0
"""Names of models as people write them: one reading for every service."""

from collections.abc import Iterable, Mapping
from typing import TypeVar

T = TypeVar("T")

MIRRORS = ("unsloth/", "nousresearch/")
"""Organisations that keep copies of others' models under the names that those have."""


def by_name(entries: Iterable[tuple[Iterable[str], T]]) -> Mapping[str, T]:
    """Entries by each of their names in lower case, and by the part behind the organisation; the first has a name.

    "llama-3.2-3b-instruct" is what people type for "meta-llama/Llama-3.2-3B-Instruct".
    """
    index: dict[str, T] = {}
    for names, entry in entries:
        for name in names:
            index.setdefault(canonical(name), entry)
            index.setdefault(canonical(name).rpartition("/")[2], entry)
    return index


def find(index: Mapping[str, T], name: str) -> T | None:
    """The entry of a name, or of the model that a mirror keeps a copy of; None where it is unknown."""
    key = canonical(name)
    found = index.get(key)
    if found is None and key.startswith(MIRRORS):
        found = index.get(key.rpartition("/")[2])
    return found


def canonical(name: str) -> str:
    """A name without letter case and blanks around it."""
    return name.strip().casefold()
