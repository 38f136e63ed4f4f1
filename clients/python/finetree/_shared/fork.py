# SPDX-License-Identifier: Apache-2.0
"""Fork safety of the clients.

A fork while a thread is inside a unary call crashes up to a quarter of the children. So unary calls pass a gate that is
closed for a fork, and a child drops the channels that it inherited; its first call makes new ones.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import grpc

from finetree.errors import ForkedClientError

LONGEST_WAIT = 2.0
"""Seconds that a fork waits for calls in flight."""
SETTLE = 0.01
"""Seconds between the end of a call and a fork. gRPC's threads still clean up when a call has returned: a fork in
that moment hung 4 of 3,900 children inside gRPC's fork handler, after this pause 0 of 5,550 (grpcio 1.85.3, four
threads that call all the time)."""
LOOK_AGAIN = 0.001
"""Seconds between two looks at the calls that a fork waits for."""
WAYS_OUT = (
    "close the AsyncClient before the fork, or use the synchronous finetree.Client in the child, "
    "or start children with 'spawn' or 'forkserver'"
)


class ChannelHolder(Protocol):
    """Something that holds channels and can drop them."""

    def drop_channels(self) -> None:
        """Drop every channel without touching it: its sockets and threads are the parent's."""


class ForkGate:
    """Counts unary calls in flight, and holds new ones back while a fork is about to happen."""

    def __init__(self) -> None:
        self.generation = 0
        self._entrance = threading.Lock()
        # By thread, so that a call whose end an interrupt swallowed counts only until the next one of its thread.
        self._in_flight: set[int] = set()
        self._last_end = 0.0
        self._holders: weakref.WeakSet[ChannelHolder] = weakref.WeakSet()
        self._used = False
        self._open_aio: weakref.WeakSet[Any] = weakref.WeakSet()
        self._aio_hangs = False
        self._everything_hangs = False
        self._inherited: list[object] = []

    @contextmanager
    def call(self) -> Iterator[None]:
        """Surround a unary call."""
        thread = threading.get_ident()
        with self._entrance:
            self._in_flight.add(thread)
        try:
            yield
        finally:
            self._last_end = time.monotonic()
            self._in_flight.discard(thread)

    def register(self, holder: ChannelHolder) -> None:
        """Register a transport whose channels a forked child must drop."""
        self._holders.add(holder)

    def check(self, *, aio: bool) -> None:
        """Refuse a call that would hang. Called before a channel is made or used.

        Raises:
            ForkedClientError: this is a forked child, and gRPC cannot work in it.
        """
        if self._everything_hangs:
            raise ForkedClientError(
                "this process was forked with GRPC_ENABLE_FORK_SUPPORT=0, where every gRPC call of a child hangs; "
                "unset it, or start children with 'spawn' or 'forkserver'",
                reason="FORKED_CLIENT",
            )
        if aio and self._aio_hangs:
            raise ForkedClientError(
                f"this process was forked while an AsyncClient was open, so its calls would hang; {WAYS_OUT}",
                reason="FORKED_CLIENT",
            )
        self._used = True

    def manage(self, channel: grpc.Channel) -> None:
        """Take a synchronous channel out of the care of gRPC's own fork handler, which GRPC_ENABLE_FORK_SUPPORT=1 adds.

        That takes a lock of each channel in the child, inside of fork(); where a thread of the parent held it, the
        child hung before Python ran: 7 of 400 beside four streams that are being read (grpcio 1.85.3). A child of
        ours drops its channels untouched and needs none of it.
        """
        forget = getattr(sys.modules.get("grpc._cython.cygrpc"), "fork_unregister_channel", None)
        if forget is not None:
            forget(channel)

    def opened(self, channel: Any) -> None:
        """Record that an aio channel is open."""
        self._open_aio.add(channel)

    def closed(self, channel: Any) -> None:
        """Record that an aio channel was closed."""
        self._open_aio.discard(channel)

    def keep(self, inherited: object) -> None:
        """Keep an object that a forked child inherited alive: its destructor would wait for the parent's threads."""
        self._inherited.append(inherited)

    def before_fork(self) -> None:
        """Hold new unary calls back and wait for those in flight; the entrance is shut until after the fork."""
        self._entrance.acquire()
        deadline = time.monotonic() + LONGEST_WAIT
        while self._in_flight and time.monotonic() < deadline:
            time.sleep(LOOK_AGAIN)
        if (busy := self._last_end + SETTLE - time.monotonic()) > 0:
            time.sleep(busy)

    def after_in_parent(self) -> None:
        """Let calls continue."""
        self._entrance.release()

    def after_in_child(self) -> None:
        """Reset: in the child no call is in flight, and no channel can be used."""
        self._entrance = threading.Lock()
        self._in_flight = set()
        self.generation += 1
        self._aio_hangs = self._aio_hangs or bool(self._open_aio)
        self._everything_hangs = self._used and os.environ.get("GRPC_ENABLE_FORK_SUPPORT", "").lower() in {"0", "false"}
        self.keep(list(self._open_aio))
        self._open_aio = weakref.WeakSet()
        for holder in list(self._holders):
            holder.drop_channels()


GATE = ForkGate()
if hasattr(os, "register_at_fork"):
    # After `import grpc`: hooks before a fork run in reverse order, so ours waits before gRPC's own sees the fork.
    assert grpc.__version__  # noqa: S101 - keeps the import that this order is about
    os.register_at_fork(
        before=GATE.before_fork, after_in_parent=GATE.after_in_parent, after_in_child=GATE.after_in_child
    )
