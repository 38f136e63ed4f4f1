# SPDX-License-Identifier: Apache-2.0
"""Remarks on an answer: what was assumed, what is unknown, what is worth changing."""

from typing import NamedTuple


class Remark(NamedTuple):
    """Something to know about an answer that is no error."""

    code: str
    """Stable, in UPPER_SNAKE_CASE, for programs."""
    message: str
    """One line for people."""
    field_path: str = ""
    """Field of the request that it is about; empty where it is about the whole answer."""
