# SPDX-License-Identifier: Apache-2.0
"""What goes wrong on request, and what was called."""

from __future__ import annotations

import threading
from collections import defaultdict, deque
from dataclasses import dataclass

from finetree.errors import BY_CODE, BY_REASON, FinetreeError


@dataclass(frozen=True, slots=True)
class Recorded:
    """A call that arrived: name of the rpc, its id and user agent, and the seconds it was given (None: no deadline)."""

    rpc: str
    request_id: str
    user_agent: str
    seconds: float | None


@dataclass(frozen=True, slots=True)
class Ordered:
    """What is ordered for a call: an event that it waits for, and its latency in microseconds of the suite's clock."""

    held: threading.Event | None = None
    latency: int = 0


class Faults:
    """Failures and latencies to come, and calls that came. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._failures: dict[str, deque[FinetreeError]] = defaultdict(deque)
        self._latencies: dict[str, deque[int]] = defaultdict(deque)
        self._held: dict[str, threading.Event] = {}
        self._calls: list[Recorded] = []

    def fail_next(self, rpc: str, error: FinetreeError, *, times: int = 1) -> None:
        """Let the next calls of an rpc, such as "CreateJob", fail before they do anything."""
        with self._lock:
            self._failures[rpc].extend([error] * times)

    def delay_next(self, rpc: str, micros: int, *, times: int = 1) -> None:
        """Let the next calls of an rpc be answered when the suite's clock has moved on so far."""
        with self._lock:
            self._latencies[rpc].extend([micros] * times)

    def hold(self, rpc: str) -> threading.Event:
        """Let calls of an rpc hang until the returned event is set (or the caller gives up)."""
        with self._lock:
            return self._held.setdefault(rpc, threading.Event())

    def calls(self, rpc: str = "") -> list[Recorded]:
        """Calls that arrived, of one rpc or of all."""
        with self._lock:
            return [call for call in self._calls if not rpc or call.rpc == rpc]

    def arrived(self, call: Recorded) -> Ordered:
        """Note a call, and say what is ordered for it.

        Raises:
            FinetreeError: as ordered by `fail_next`.
        """
        with self._lock:
            self._calls.append(call)
            if self._failures[call.rpc]:
                raise self._failures[call.rpc].popleft()
            latencies = self._latencies[call.rpc]
            return Ordered(self._held.get(call.rpc), latencies.popleft() if latencies else 0)


def error_of(code: str, reason: str = "", message: str = "", *, retry_after: float | None = None) -> FinetreeError:
    """Make the error of a status code or of a reason.

    Raises:
        ValueError: no error has this code.
    """
    if code not in BY_CODE:
        raise ValueError(f"expected a code such as {', '.join(list(BY_CODE)[:4])}, got {code!r}")
    kind = BY_REASON.get(reason) or BY_CODE[code]
    return kind(message or f"ordered by fail_next: {reason or code}", code=code, reason=reason, retry_after=retry_after)
