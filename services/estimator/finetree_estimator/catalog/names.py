# SPDX-License-Identifier: Apache-2.0
"""Names of the package's data files: exact, by alias, or the nearest ones to suggest."""

import csv
import difflib
import io
from collections.abc import Iterable
from functools import cache
from importlib import resources

GIB = 1024**3
"""Bytes of a gibibyte."""
MIB = 1024**2
"""Bytes of a mebibyte."""


class UnknownNameError(LookupError):
    """A name the catalogue does not have; `nearest` are the most similar ones, best first."""

    def __init__(self, name: str, nearest: tuple[str, ...]) -> None:
        super().__init__(name)
        self.name = name
        self.nearest = nearest


@cache
def raw(filename: str) -> bytes:
    """Content of a data file of the package."""
    return resources.files("finetree_estimator.catalog.data").joinpath(filename).read_bytes()


def table(filename: str) -> Iterable[dict[str, str]]:
    """Rows of a CSV data file of the package."""
    return csv.DictReader(io.StringIO(raw(filename).decode()))


def nearest_names(name: str, *groups: Iterable[str]) -> tuple[str, ...]:
    """At most three names similar to `name`, best first: those that it begins; where none is similar, none."""
    names, key = {candidate.lower(): candidate for group in groups for candidate in group}, name.lower()
    longer = sorted((hit for hit in names if key and hit.startswith(key)), key=lambda hit: (len(hit), hit))
    similar = difflib.get_close_matches(key, names, n=3, cutoff=0.5)
    return tuple(names[hit] for hit in [*dict.fromkeys([*longer, *similar])][:3])


def split(text: str) -> tuple[str, ...]:
    """Parts of a cell that holds several names, separated by semicolons."""
    return tuple(part for part in text.split(";") if part)


def is_currency(code: str) -> bool:
    """Whether it has the form of an ISO 4217 code: three letters."""
    return len(code) == 3 and code.isascii() and code.isalpha()
