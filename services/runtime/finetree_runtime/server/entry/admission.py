# SPDX-License-Identifier: Apache-2.0
"""Admission: how many calls run at once, how many wait, and who is refused before any work is done for it.

Unary calls, streams and the calls of health and reflection have places of their own, so that a flood of one kind does
not keep the others out. A unary call without a free place waits in a short line; behind a full line it is refused at
once with SERVER_OVERLOADED and a RetryInfo. One whose deadline passes in the line is dropped, one whose deadline will
pass there is refused.

gRPC hands over one call in a turn of the event loop, and nobody sees the calls that wait inside of it. A line to be
seen must be outside: calls start one in a turn, and on a busy server not before those inside of gRPC have come out.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass

from finetree_runtime.config.settings import ServiceSettings
from finetree_runtime.errors import DeadlineExceeded, ResourceExhausted
from finetree_runtime.server import context

SERVER_OVERLOADED = "SERVER_OVERLOADED"
TOO_MANY_STREAMS = "TOO_MANY_STREAMS"
RETRY_SECONDS = 1.0
"""What a refused client is told to wait. The SDK spreads its next attempt over half as much again."""
SIDE_CALLS = 64
"""Health checks that are answered at once; each takes microseconds."""
SIDE_STREAMS = 256
"""Health watches and reflection sessions that are open at once."""
BUSY_SECONDS = 0.0005
"""A call that comes so soon after another one has ended may have others behind it inside of gRPC."""
LISTENING_TURNS = 10
"""Turns of the event loop without another call after which gRPC is taken to have no more. A thread of its own hands
calls over: of 2, 3, 6, 10 and 16 turns, ten refused most on a busy machine; the order was not clean."""
LISTENING_SECONDS = 0.02
"""Longest time that a call which could start waits for others to come in: even a flood leaves 50 starts a second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallLimits:
    """How many calls of each kind a server takes at once."""

    running: int = 32
    waiting: int = 64
    streams: int = 4096

    @classmethod
    def of(cls, settings: ServiceSettings) -> CallLimits:
        """Read the limits of a service's settings; each is at least 1, of the line 0."""
        return cls(
            running=max(1, settings.max_running_calls),
            waiting=max(0, settings.max_waiting_calls),
            streams=max(1, settings.max_streams),
        )

    def shown(self) -> dict[str, int]:
        """Limits by name, as GetServerInfo names them."""
        return {
            "max_running_calls": self.running,
            "max_waiting_calls": self.waiting,
            "max_streams": self.streams,
            "max_health_calls": SIDE_CALLS,
            "max_health_watches": SIDE_STREAMS,
        }


class Places:
    """At most `limit` at once; no line. `reason` is what one too many is refused with."""

    def __init__(self, limit: int, reason: str) -> None:
        self._limit = self._free = limit
        self.reason = reason

    @property
    def count(self) -> int:
        """How many there are."""
        return self._limit - self._free

    @property
    def full(self) -> bool:
        """Whether another one would be refused."""
        return self._free <= 0

    def take(self) -> None:
        """Take a place. Raises ResourceExhausted with `reason`."""
        if self._free <= 0:
            error = REFUSALS[self.reason]()
            raise error
        self._free -= 1

    def release(self) -> None:
        """Give a place back."""
        self._free += 1

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Hold a place while the block runs. Raises ResourceExhausted with `reason`."""
        self.take()
        try:
            yield
        finally:
            self.release()


class Line:
    """Places for unary calls, and the line before them: first come, first served, one start in a turn of the loop."""

    def __init__(self, limits: CallLimits) -> None:
        self._running = limits.running
        self._free, self._waiting = limits.running, limits.waiting
        self._turns: deque[asyncio.Future[None]] = deque()
        self._starter: asyncio.Task[None] | None = None
        self._arrived = 0
        self._ended = float("-inf")
        self._pace = 0.0
        """Seconds between two ends of calls while others wait, smoothed."""

    @property
    def running(self) -> int:
        """Calls that hold a place."""
        return self._running - self._free

    @property
    def waiting(self) -> int:
        """Calls in the line."""
        return len(self._turns)

    @property
    def full(self) -> bool:
        """Whether another call would be refused."""
        return len(self._turns) >= self._waiting and (self._free <= 0 or self._waiting > 0)

    def note_arrival(self) -> None:
        """Note that gRPC has handed over a call of any kind: there may be others behind it."""
        self._arrived += 1

    async def enter(self) -> None:
        """Take a place, after those that came before.

        Raises ResourceExhausted SERVER_OVERLOADED, DeadlineExceeded DEADLINE_PASSED.
        """
        left = context.remaining()
        if left == 0.0:
            raise deadline_passed()
        if self.full or (self._free <= 0 and left is not None and left < self._expected_wait()):
            raise overloaded()
        if self._free > 0 and not self._turns and time.monotonic() - self._ended > BUSY_SECONDS:
            self._free -= 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._turns.append(turn)
        if self._starter is None:
            self._starter = asyncio.create_task(self._start())
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                with suppress(ValueError):  # the starter has seen it first
                    self._turns.remove(turn)
            else:
                self.leave()  # its turn had come in the moment in which its client went
            raise
        if context.remaining() == 0.0:
            self.leave()
            raise deadline_passed()

    def leave(self) -> None:
        """Give the place back; the next call in the line gets it."""
        now = time.monotonic()
        if self._turns:
            self._pace += (min(1.0, now - self._ended) - self._pace) / 8
        self._ended = now
        self._free += 1
        if self._turns and self._starter is None:
            self._starter = asyncio.create_task(self._start())

    async def _start(self) -> None:
        """Start calls of the line, one in a turn of the loop, while there are places for them."""
        try:
            while self._turns and self._free > 0:
                await self._let_others_come_in()
                while self._turns and self._turns[0].cancelled():
                    self._turns.popleft()  # its client has gone, and its task does not know yet
                if self._turns and self._free > 0:
                    self._free -= 1
                    self._turns.popleft().set_result(None)
        finally:
            self._starter = None

    async def _let_others_come_in(self) -> None:
        quiet, end = 0, time.monotonic() + LISTENING_SECONDS
        while quiet < LISTENING_TURNS and time.monotonic() < end:
            arrived = self._arrived
            await asyncio.sleep(0)
            quiet = quiet + 1 if arrived == self._arrived else 0

    def _expected_wait(self) -> float:
        """Seconds until the turn of a call that comes now, as fast as calls end at present."""
        return (len(self._turns) + 1) * self._pace


class Admission:
    """The places of a server, by the kind of call."""

    def __init__(self, limits: CallLimits) -> None:
        self.line = Line(limits)
        self.streams = Places(limits.streams, TOO_MANY_STREAMS)
        self.side_calls = Places(SIDE_CALLS, SERVER_OVERLOADED)
        self.side_streams = Places(SIDE_STREAMS, TOO_MANY_STREAMS)

    def side(self, *, stream: bool) -> Places:
        """Places of the calls of health and reflection."""
        return self.side_streams if stream else self.side_calls

    def refusal(self, *, stream: bool, side: bool) -> str:
        """Reason for which a call that arrives now is refused; "" where it is not."""
        if side:
            places = self.side(stream=stream)
        elif stream:
            places = self.streams
        else:
            return SERVER_OVERLOADED if self.line.full else ""
        return places.reason if places.full else ""

    @asynccontextmanager
    async def unary(self, call: context.Call) -> AsyncIterator[None]:
        """Hold a place for a unary call while the block runs, or until the call only waits (`context.only_waits`)."""
        await self.line.enter()
        held = True

        def only_waits() -> None:
            nonlocal held
            if held:
                self.streams.take()
                self.line.leave()
                held = False

        call.on_waiting = only_waits
        try:
            yield
        finally:
            if held:
                self.line.leave()
            else:
                self.streams.release()


def overloaded() -> ResourceExhausted:
    """Build the error for a call that the server has no place for."""
    text = "The server has more calls than it can answer; nothing was done. Try again after the time in RetryInfo."
    return ResourceExhausted("SERVER_OVERLOADED", text, retry_delay=RETRY_SECONDS)


def too_many_streams() -> ResourceExhausted:
    """Build the error for a stream that the server has no place for."""
    text = "As many streams are open as the server takes; end some, or try again after the time in RetryInfo."
    return ResourceExhausted("TOO_MANY_STREAMS", text, retry_delay=RETRY_SECONDS)


def deadline_passed() -> DeadlineExceeded:
    """Build the error for a call whose deadline passed before it was begun."""
    return DeadlineExceeded("DEADLINE_PASSED", "The call's deadline passed before it was begun; nothing was done.")


REFUSALS = {SERVER_OVERLOADED: overloaded, TOO_MANY_STREAMS: too_many_streams}
"""What makes the error of each reason for which a call is refused on arrival."""
