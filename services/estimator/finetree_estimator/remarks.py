# SPDX-License-Identifier: Apache-2.0
"""Remarks on an estimate: assumptions, unknown inputs, settings worth changing."""

from typing import NamedTuple


class Remark(NamedTuple):
    """A statement about an estimate that is not an error."""

    code: str
    """Stable identifier in UPPER_SNAKE_CASE."""
    message: str
    """One line of text."""
    field_path: str = ""
    """Path of the request's field that it refers to; empty where it refers to the whole estimate."""
