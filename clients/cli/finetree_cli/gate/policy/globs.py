# SPDX-License-Identifier: Apache-2.0
"""Globs of job files: `*` and `?` inside a folder's name or a file's, `**` for any number of folders."""

import functools
import re


def matches(pattern: str, path: str) -> bool:
    """Tell whether a relative path with slashes matches a glob as a whole."""
    return _compiled(pattern).fullmatch(path) is not None


@functools.cache
def _compiled(pattern: str) -> re.Pattern[str]:
    parts = pattern.removeprefix("./").split("/")
    found = ""
    for number, part in enumerate(parts):
        last = number == len(parts) - 1
        if part == "**":
            found += ".*" if last else "(?:[^/]+/)*"
        else:
            found += _segment(part) + ("" if last else "/")
    return re.compile(found, re.DOTALL)


def _segment(part: str) -> str:
    # A run of stars is one star: two beside each other would be tried in every combination.
    single = re.sub(r"\*+", "*", part)
    return "".join({"*": "[^/]*", "?": "[^/]"}.get(letter, re.escape(letter)) for letter in single)
