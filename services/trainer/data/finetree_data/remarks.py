# SPDX-License-Identifier: Apache-2.0
"""What is worth knowing of how a file was read."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Remark:
    """A stable code for programs, and one line for people."""

    code: str
    message: str
