# SPDX-License-Identifier: Apache-2.0
"""Requests to a task that serves, and its replies: between the stream's thread and the task's.

Both live and die with a stream. What was asked on a stream that broke is never answered, and replies are kept only as
long as it takes to send them: a task that is ahead of the stream waits.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from finetree_api.worker.v1 import worker_pb2

ROOM_BYTES = 256 * 1024
"""Bytes of replies that wait for the stream; beyond them the task waits."""


@dataclass(frozen=True, slots=True)
class Asked:
    """Requests with the monotonic time of their receipt, and the number of the stream that they came on."""

    stream: int
    requests: tuple[tuple[float, worker_pb2.ServingRequest], ...] = ()


class ServingPort:
    """Mailbox of one worker. The stream's thread calls `opened`, `closed`, `receive` and `next_reply`."""

    def __init__(self, on_reply: Callable[[], object]) -> None:
        """`on_reply` is called after each reply, from the task's thread."""
        self._on_reply = on_reply
        self._changed = threading.Condition()
        self._stream = 0
        self._open = False
        self._lost = time.monotonic()
        self._requests: deque[tuple[float, worker_pb2.ServingRequest]] = deque()
        self._replies: deque[worker_pb2.ServingReply] = deque()
        self._bytes = 0

    def opened(self) -> None:
        """Begin a stream."""
        with self._changed:
            self._stream, self._open = self._stream + 1, True
            self._changed.notify_all()

    def closed(self) -> None:
        """End the stream; what was asked on it is forgotten."""
        with self._changed:
            if self._open:
                self._open, self._lost = False, time.monotonic()
            self._stream += 1
            self._requests.clear()
            self._replies.clear()
            self._bytes = 0
            self._changed.notify_all()

    def receive(self, request: worker_pb2.ServingRequest) -> None:
        """Hand a request to the task."""
        with self._changed:
            self._requests.append((time.monotonic(), request))
            self._changed.notify_all()

    def next_reply(self) -> worker_pb2.ServingReply | None:
        """Return the next reply to send; None where there is none."""
        with self._changed:
            if not self._replies:
                return None
            reply = self._replies.popleft()
            self._bytes -= reply.ByteSize()
            self._changed.notify_all()
            return reply

    @property
    def lost_seconds(self) -> float:
        """Seconds for which there has been no stream; 0 while there is one."""
        return 0.0 if self._open else time.monotonic() - self._lost

    def take(self, stream: int, timeout: float) -> Asked:
        """Return what was asked since the last call.

        Waits for it, `timeout` seconds at most; a stream other than `stream` is news too.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._requests or self._stream != stream, timeout)
            asked = Asked(self._stream, tuple(self._requests))
            self._requests.clear()
            return asked

    def reply(self, stream: int, reply: worker_pb2.ServingReply) -> None:
        """Send a reply; one to another stream's request is dropped."""
        with self._changed:
            if stream != self._stream or not self._open:
                return
            self._replies.append(reply)
            self._bytes += reply.ByteSize()
        self._on_reply()

    def wait_for_room(self, timeout: float) -> bool:
        """Wait until the stream has sent enough, `timeout` seconds at most; return whether it has."""
        with self._changed:
            return self._changed.wait_for(lambda: self._bytes < ROOM_BYTES, timeout)
