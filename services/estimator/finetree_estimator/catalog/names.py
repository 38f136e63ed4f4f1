# SPDX-License-Identifier: Apache-2.0
"""Reading of the package's data files, and similar names to suggest for unknown ones."""

import csv
import difflib
import io
from collections.abc import Iterable
from functools import cache
from importlib import resources

GIB = 1024**3
"""Bytes per GiB."""
MIB = 1024**2
"""Bytes per MiB."""


class UnknownNameError(LookupError):
    """A name that the catalog does not have; `nearest` holds the most similar ones, best first."""

    def __init__(self, name: str, nearest: tuple[str, ...]) -> None:
        super().__init__(name)
        self.name = name
        self.nearest = nearest


@cache
def raw(filename: str) -> bytes:
    """Read a data file of the package."""
    return resources.files("finetree_estimator.catalog.data").joinpath(filename).read_bytes()


def table(filename: str) -> Iterable[dict[str, str]]:
    """Read the rows of a CSV data file of the package."""
    return csv.DictReader(io.StringIO(raw(filename).decode()))


def nearest_names(name: str, *groups: Iterable[str]) -> tuple[str, ...]:
    """Find at most three names that begin with or are similar to `name`, best first."""
    names, key = {candidate.lower(): candidate for group in groups for candidate in group}, name.lower()
    longer = sorted((hit for hit in names if key and hit.startswith(key)), key=lambda hit: (len(hit), hit))
    similar = difflib.get_close_matches(key, names, n=3, cutoff=0.5)
    return tuple(names[hit] for hit in [*dict.fromkeys([*longer, *similar])][:3])


def split(text: str) -> tuple[str, ...]:
    """Split a cell of names separated by semicolons."""
    return tuple(part for part in text.split(";") if part)


def is_currency(code: str) -> bool:
    """Whether a code has the form of ISO 4217: three letters."""
    return len(code) == 3 and code.isascii() and code.isalpha()
