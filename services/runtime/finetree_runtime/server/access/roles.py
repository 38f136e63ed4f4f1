# SPDX-License-Identifier: Apache-2.0
"""Roles, and what a principal was granted: a role for each project, and whether it is an operator."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

EVERY_PROJECT = "*"
"""In grants: a role in all projects, also in those that come into being later."""


class Role(enum.IntEnum):
    """What a caller may do. In a project each role includes those before it; OPERATOR stands apart."""

    ESTIMATE = 1
    READ = 2
    TRAIN = 3
    ADMIN = 4
    OPERATOR = 5

    @property
    def word(self) -> str:
        """Its name in files, messages and command lines: "train"."""
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Grants:
    """What a principal may do.

    Args:
        roles: Role by project, ESTIMATE to ADMIN; the key "*" stands for every project.
        operator: Whether it may change what belongs to no project.
    """

    roles: Mapping[str, Role] = field(default_factory=dict)
    operator: bool = False

    def allows(self, role: Role, project: str) -> bool:
        """Whether `role` is held in `project`; "*" asks for every project. OPERATOR is held in none and in all."""
        if role is Role.OPERATOR:
            return self.operator
        return max(self.roles.get(project, 0), self.roles.get(EVERY_PROJECT, 0)) >= role

    def allows_somewhere(self, role: Role) -> bool:
        """Whether a call that concerns no project is allowed: by `role` in any one, or to an operator."""
        if self.operator:
            return True
        return role is not Role.OPERATOR and any(held >= role for held in self.roles.values())


EVERYTHING = Grants({EVERY_PROJECT: Role.ADMIN}, operator=True)
"""What a caller may do where nothing says who is who."""
