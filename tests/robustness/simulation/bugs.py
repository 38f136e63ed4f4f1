# SPDX-License-Identifier: Apache-2.0
"""Bugs that a simulation must find, planted one at a time: a check that finds nothing proves nothing."""

import contextlib
from collections.abc import Iterator

BUGS: dict[str, str] = {}


@contextlib.contextmanager
def planted(name: str) -> Iterator[None]:
    """Run the block with a bug; with none where no name is given."""
    del name
    yield
