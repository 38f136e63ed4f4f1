# SPDX-License-Identifier: Apache-2.0
"""The window of a journal: which events are in flight, and which the service has stored."""

from collections import deque

from finetree_api.worker.v1 import worker_pb2

from finetree_worker.attach.identity import RefusedError
from finetree_worker.events.journal import Journal

BATCH_BYTES = 64 * 1024
"""Bytes of events in one message; tens of events cost little more than one (measured: 10 in a batch, a tenth each)."""
IN_FLIGHT_BYTES = 4 * 1024 * 1024
"""Bytes sent and not acknowledged; beyond them the stream waits, and the events stay in the journal."""


class Window:
    """Cursor over a journal. Sending continues after what was sent, and on a new stream after what is stored."""

    def __init__(self, journal: Journal, acknowledged: int) -> None:
        """Begin after `acknowledged`; raises RefusedError like `resume`."""
        self._journal = journal
        self._in_flight: deque[tuple[int, int]] = deque()
        self._in_flight_bytes = 0
        self._acknowledged = 0
        self._offset = 0
        self.resume(acknowledged)

    @property
    def last_seq(self) -> int:
        """Number of the newest event in the journal."""
        return self._journal.last_seq

    @property
    def settled(self) -> bool:
        """Whether the service has stored every event."""
        return self._acknowledged >= self._journal.last_seq

    @property
    def unsent_bytes(self) -> int:
        """Bytes of the journal that have not been sent on this stream."""
        return self._journal.end - self._offset

    def resume(self, acknowledged: int) -> None:
        """Forget what was in flight: a new stream sends everything newer than `acknowledged`.

        Raises RefusedError when the service has events that this journal never held: numbering from there would make it
        take new events for old ones.
        """
        if acknowledged > self._journal.last_seq:
            message = f"the service holds {acknowledged} events of this attempt, its journal {self._journal.last_seq}"
            raise RefusedError(message)
        self._in_flight.clear()
        self._in_flight_bytes = 0
        self._acknowledged = acknowledged
        self._offset = self._journal.after(acknowledged)

    def acknowledge(self, worker_seq: int) -> None:
        """Note that the service has stored all events up to `worker_seq`."""
        self._acknowledged = max(self._acknowledged, worker_seq)
        while self._in_flight and self._in_flight[0][0] <= worker_seq:
            self._in_flight_bytes -= self._in_flight.popleft()[1]

    def next_batch(self) -> worker_pb2.WorkerEventBatch | None:
        """Return the next events to send; None where there are none, or too many in flight."""
        if self._in_flight_bytes >= IN_FLIGHT_BYTES:
            return None
        records = self._journal.batch(self._offset, BATCH_BYTES)
        if not records:
            return None
        size = records[-1].end - self._offset
        self._offset = records[-1].end
        self._in_flight.append((records[-1].event.worker_seq, size))
        self._in_flight_bytes += size
        return worker_pb2.WorkerEventBatch(events=[record.event for record in records])
