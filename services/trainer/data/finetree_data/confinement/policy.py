# SPDX-License-Identifier: Apache-2.0
"""What a worker may touch, decided by the service and handed over at its start."""

import dataclasses
import json
from collections.abc import MutableMapping
from typing import Any

VARIABLE = "FINETREE_WORKER_CONFINEMENT"
"""Environment variable by which a worker gets its policy. Unset: it is not confined."""


@dataclasses.dataclass(frozen=True, slots=True)
class Policy:
    """Folders are absolute and exist, or are left out by whoever enforces the policy."""

    read: tuple[str, ...] = ()
    """Folders and files that may be read."""
    write: tuple[str, ...] = ()
    """Folders in which everything may be made, changed and removed, links and device files excepted."""
    temporary: str = ""
    """The process's own folder for temporary files."""
    sockets: tuple[str, ...] = ()
    """Folders whose Unix sockets may be connected to, where the kernel controls that."""
    network: bool = False
    """Whether connections over a network may be opened: true for the task that downloads from a hub alone."""
    loopback: bool = False
    """Whether its processes talk to each other over the loopback interface: true for a task on several devices."""
    namespace: bool = False
    """Whether the process may be moved into a network of its own: whether that has been tried on this machine."""
    required: bool = False
    """Whether a process ends where a measure of `measures.CORE` cannot be taken."""
    user: int = 0
    """User that the process becomes for ever, a root process alone can. 0: it stays who it is."""
    group: int = 0
    """The one group of that user."""
    user_alone: bool = False
    """Whether no other measure is taken than to become that user: the service confines nothing."""
    max_file_bytes: int = 0
    """Size that no file of the process can exceed. 0: unlimited."""

    def to_text(self) -> str:
        """Write the policy as one line."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_text(cls, text: str) -> "Policy":
        """Read a policy. Raises ValueError, TypeError where the text is none."""
        values = json.loads(text)
        given: dict[str, Any] = {name: tuple(it) if isinstance(it, list) else it for name, it in values.items()}
        return cls(**given)

    @classmethod
    def take(cls, environment: MutableMapping[str, str]) -> "Policy | None":
        """Take the policy out of an environment, so that no child inherits it; None where there is none."""
        text = environment.pop(VARIABLE, "")
        return cls.from_text(text) if text else None
