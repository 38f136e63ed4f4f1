# SPDX-License-Identifier: Apache-2.0
"""Paths in requests: relative to configured folders, and never outside of them."""

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from finetree_runtime.errors import NotFound, PermissionDenied


def inside(roots: Iterable[str], path: str, *, field_path: str, reason: str) -> Path:
    """Resolve the file or folder that `path` names under one of the roots, following links.

    Raises PermissionDenied PATH_OUTSIDE_ROOTS for a path that leaves every root (by "..", by a link, or absolutely),
    NotFound with `reason` for one that stays inside and does not exist.
    """
    allowed, roots = False, tuple(roots)
    for root in roots:
        base = Path(root).expanduser().resolve()
        try:
            found = (base / path).resolve()
        except (OSError, RuntimeError, ValueError):  # a loop of links, or a NUL byte
            continue
        if found.is_relative_to(base):
            allowed = True
            with suppress(OSError):  # a name that is too long
                if found.exists():
                    return found
    if not allowed:
        remedy = "use a path under one"
        if not roots:
            remedy = "none is configured, which whoever runs the trainer does (--model-roots, for data --data-roots)"
        text = f"{field_path}: {path[:80]!r} is not under a configured root; {remedy}."
        raise PermissionDenied("PATH_OUTSIDE_ROOTS", text, metadata={"field": field_path})
    raise NotFound(reason, f"{field_path}: there is no {path[:80]!r} under the configured roots.")
