# SPDX-License-Identifier: Apache-2.0
"""Which of several replicas of a trainer leads, told to workers on other machines by a file of the shared folder.

It is read anew whenever it matters: by a worker before it attaches, and on a node before it obeys.
"""

import json
from dataclasses import dataclass
from pathlib import Path

SCHEME = "leader-file:"
"""What the address of a trainer begins with that is read from such a file: `leader-file:/path`."""


@dataclass(frozen=True, slots=True)
class Leader:
    """The replica that leads: its name, which no other process has ever had, and where workers attach (HOST:PORT)."""

    name: str
    address: str

    @classmethod
    def read(cls, file: Path) -> "Leader":
        """Read it. Raises OSError where there is none, also for a file that is none."""
        try:
            found = json.loads(file.read_text(encoding="ascii"))
            return cls(str(found["name"]), str(found["address"]))
        except (ValueError, KeyError, TypeError):
            raise OSError(f"{file.name} does not name a leader") from None

    def write(self, file: Path) -> None:
        """Put it in the place of the one before, whole or not at all. Raises OSError."""
        draft = file.with_name(f"{self.name}.draft")
        draft.write_text(json.dumps({"name": self.name, "address": self.address}), encoding="ascii")
        draft.replace(file)


def target(address: str) -> str:
    """Return the gRPC target of an address: of one that is a file, what stands there now. Raises OSError."""
    if not address.startswith(SCHEME):
        return address
    return Leader.read(Path(address.removeprefix(SCHEME))).address


def leads(name: str, file: str) -> bool:
    """Return whether the replica of a name leads; "" is the name of a trainer that is alone, which always does."""
    if not name:
        return True
    try:
        return Leader.read(Path(file)).name == name
    except OSError:
        return False
