# SPDX-License-Identifier: Apache-2.0
"""What goes wrong on request, and what was called."""

from __future__ import annotations

import threading
from collections import defaultdict, deque
from dataclasses import dataclass

from finetree.errors import FinetreeError


@dataclass(frozen=True, slots=True)
class Recorded:
    """A call that arrived: name of the rpc, its id and user agent, and the seconds it was given (None: no deadline)."""

    rpc: str
    request_id: str
    user_agent: str
    seconds: float | None


class Faults:
    """Failures to come, and calls that came. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._failures: dict[str, deque[FinetreeError]] = defaultdict(deque)
        self._held: dict[str, threading.Event] = {}
        self._calls: list[Recorded] = []

    def fail_next(self, rpc: str, error: FinetreeError, *, times: int = 1) -> None:
        """Let the next calls of an rpc, such as "CreateJob", fail before they do anything."""
        with self._lock:
            self._failures[rpc].extend([error] * times)

    def hold(self, rpc: str) -> threading.Event:
        """Let calls of an rpc hang until the returned event is set (or the caller gives up)."""
        with self._lock:
            return self._held.setdefault(rpc, threading.Event())

    def calls(self, rpc: str = "") -> list[Recorded]:
        """Calls that arrived, of one rpc or of all."""
        with self._lock:
            return [call for call in self._calls if not rpc or call.rpc == rpc]

    def arrived(self, call: Recorded) -> threading.Event | None:
        """Note a call, and give the event that it must wait for.

        Raises:
            FinetreeError: as ordered by `fail_next`.
        """
        with self._lock:
            self._calls.append(call)
            if self._failures[call.rpc]:
                raise self._failures[call.rpc].popleft()
            return self._held.get(call.rpc)
