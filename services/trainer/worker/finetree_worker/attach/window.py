# SPDX-License-Identifier: Apache-2.0
"""Which events of the journal are on their way, and which the service has stored."""

from collections import deque

from finetree_api.worker.v1 import worker_pb2

from finetree_worker.attach.identity import RefusedError
from finetree_worker.events.journal import Journal

BATCH_BYTES = 64 * 1024
"""Events that travel together; tens of them cost little more than one (contract: batches of 10 a tenth per event)."""
IN_FLIGHT_BYTES = 4 * 1024 * 1024
"""Sent and not acknowledged; beyond it the stream waits, and the events wait in the journal."""


class Window:
    """A cursor over a journal. Sending goes on behind what was sent, and after a break behind what is stored."""

    def __init__(self, journal: Journal, acknowledged: int) -> None:
        """Begin behind `acknowledged`; raises RefusedError like `resume`."""
        self._journal = journal
        self._in_flight: deque[tuple[int, int]] = deque()
        self._in_flight_bytes = 0
        self._acknowledged = 0
        self._offset = 0
        self.resume(acknowledged)

    @property
    def last_seq(self) -> int:
        """Newest event in the journal."""
        return self._journal.last_seq

    @property
    def settled(self) -> bool:
        """Whether the service has stored every event."""
        return self._acknowledged >= self._journal.last_seq

    @property
    def unsent_bytes(self) -> int:
        """What is in the journal and has not been sent on this stream."""
        return self._journal.end - self._offset

    def resume(self, acknowledged: int) -> None:
        """Forget what was on its way: a new stream sends everything newer than `acknowledged`.

        Raises RefusedError when the service has events that this journal never held: numbering them anew would make it
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
        """Events up to `worker_seq` are stored."""
        self._acknowledged = max(self._acknowledged, worker_seq)
        while self._in_flight and self._in_flight[0][0] <= worker_seq:
            self._in_flight_bytes -= self._in_flight.popleft()[1]

    def next_batch(self) -> worker_pb2.WorkerEventBatch | None:
        """The next events to send; None where there are none, or too many on their way."""
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
