# SPDX-License-Identifier: Apache-2.0
"""Globs of job files: `*` and `?` inside a folder's name or a file's, `**` for any number of folders."""

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

ANY = "**"


def matches(pattern: str, path: str) -> bool:
    """Tell whether a relative path with slashes matches a glob as a whole."""
    parts = pattern.removeprefix("./").split("/")
    # Numbers of the parts that may match what comes next: patterns are tried beside each other, never again and again.
    reached = _with_skipped({0}, parts)
    for name in path.split("/"):
        found = (number for number in reached if number < len(parts) and _fits(parts[number], name))
        reached = _with_skipped((number if parts[number] == ANY else number + 1 for number in found), parts)
    return len(parts) in reached


def _fits(part: str, name: str) -> bool:
    # fnmatch reads "[" as the beginning of a set of characters.
    return part == ANY or fnmatchcase(name, part.replace("[", "[[]"))


def _with_skipped(numbers: Iterable[int], parts: Sequence[str]) -> set[int]:
    """Add the parts behind each `**`, which may stand for no folder."""
    found = set()
    for number in numbers:
        found.add(number)
        while number < len(parts) and parts[number] == ANY:
            number += 1  # noqa: PLW2901 - walks on from the number
            found.add(number)
    return found
