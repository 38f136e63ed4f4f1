# SPDX-License-Identifier: Apache-2.0
"""Brings one sink up to the logs of all jobs, again and again, and survives whatever fails on either side."""

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from finetree import DeadlineExceeded, FinetreeError, NotFound, Unavailable
from finetree_api.trainer.v1 import event_log_pb2, event_pb2, job_pb2

from finetree_cli.sinks.config import SinkConfig
from finetree_cli.sinks.cursors import Cursor, Cursors
from finetree_cli.sinks.delivery import RefusedError, UnreachableError

if TYPE_CHECKING:
    from finetree import Client

LIST_EVENTS = "/finetree_api.trainer.v1.TrainerService/ListEvents"
POLL_SECONDS = 1.0
"""Time between two looks at the jobs."""
FIRST_WAIT, LONGEST_WAIT = 1.0, 300.0
"""Seconds until something that failed is tried again: doubled with each failure, up to the longest."""
_PAGE = 1000
_ENDED = (job_pb2.JOB_STATE_SUCCEEDED, job_pb2.JOB_STATE_FAILED, job_pb2.JOB_STATE_CANCELLED)


def wait_after(failures: int, asked: float = 0.0) -> float:
    """Return seconds to wait after so many failures in a row, half of them by chance; at least what was asked for."""
    most = min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** min(failures - 1, 16))
    return max(asked, most * random.uniform(0.5, 1.0))


def log_of(
    client: "Client", job: job_pb2.Job, kinds: Sequence[str], *, after_seq: int
) -> Iterator[Sequence[event_pb2.JobEvent]]:
    """Read events of a job in pages, oldest first, up to the newest one that `job` knows."""
    request = event_log_pb2.ListEventsRequest(
        name=job.name,
        order=event_log_pb2.EVENT_ORDER_ASCENDING,
        after_seq=after_seq,
        before_seq=job.last_seq + 1,
        kinds=[event_pb2.EventKind.Value(f"EVENT_KIND_{kind.upper()}") for kind in kinds],
        page_size=_PAGE,
    )
    while True:
        page = cast("event_log_pb2.ListEventsResponse", client.call(LIST_EVENTS, request))
        if page.events:
            yield page.events
        request.page_token = page.next_page_token
        if not request.page_token:
            return


@dataclass(slots=True)
class Pump:
    """Delivers to one sink."""

    config: SinkConfig
    client: "Client"
    cursors: Cursors
    say: Callable[[str], None]
    """Takes a line for people."""
    stop: threading.Event = field(default_factory=threading.Event)
    _troubled: str = ""

    def run(self) -> None:
        """Deliver until `stop` is set."""
        failures = 0
        while not self.stop.is_set():
            try:
                self.step()
                failures = 0
            except FinetreeError as error:
                failures += 1
                self._trouble(f"the trainer does not answer: {error}")
                self.stop.wait(wait_after(failures))
            self.stop.wait(POLL_SECONDS)

    def step(self) -> bool:
        """Deliver what there is now, and return whether nothing is left that could be delivered.

        Raises:
            FinetreeError: The trainer does not answer.
        """
        live = self._discover()
        complete = True
        for cursor in self.cursors.pending(self.config.name):
            if self.stop.is_set():
                return False
            now = time.time()
            if self.cursors.health(self.config.name).next_try > now:
                return False
            if cursor.next_try > now:
                complete = False
                continue
            complete &= self._bring_up(cursor, live)
        return complete

    def _discover(self) -> dict[str, job_pb2.Job]:
        """Register new jobs, and return those that have not ended, by uid."""
        name, labels = self.config.name, dict(self.config.labels)
        first, found = not self.cursors.known(name), []
        for job in self.client.list_jobs(labels=labels, page_size=200):
            if self.cursors.has(name, job.uid):
                break  # newest first, and registered all together: the rest is known
            found.append(job)
        skipped = first and not self.config.existing
        rows = [(job.uid, job.name, job.last_seq if skipped else 0, skipped and job.state in _ENDED) for job in found]
        self.cursors.register(name, rows)
        states = [state for state in job_pb2.JobState.values()[1:] if state not in _ENDED]
        live = {job.uid: job for job in self.client.list_jobs(states=states, labels=labels, page_size=200)}
        # The list is in the order of ids, and an id that was made after the clock was set back is not the newest.
        late = [job for job in live.values() if not self.cursors.has(name, job.uid)]
        self.cursors.register(name, [(job.uid, job.name, 0, False) for job in late])
        return live

    def _bring_up(self, cursor: Cursor, live: dict[str, job_pb2.Job]) -> bool:
        """Deliver what one job has; returns whether the sink has all of it.

        Raises:
            FinetreeError: The trainer does not answer; what it says of this job alone stops this job alone.
        """
        try:
            job = live.get(cursor.job) or self.client.get_job(cursor.name)
            return self._bring_up_to(cursor, job)
        except NotFound:
            self.cursors.skip(cursor, cursor.last_seq, lost=cursor.last_seq - cursor.seq, note="the job was deleted")
            self.cursors.seen(cursor, cursor.last_seq, done=True)
            return True
        except (Unavailable, DeadlineExceeded):
            raise
        except FinetreeError as error:
            self.cursors.refused(cursor, f"the trainer: {error}", time.time() + wait_after(cursor.failures + 1))
            return False

    def _bring_up_to(self, cursor: Cursor, job: job_pb2.Job) -> bool:
        ended = job.state in _ENDED
        self.cursors.seen(cursor, job.last_seq, done=False)
        if self.config.sink.whole and not ended:
            return False
        try:
            complete = self._deliver(cursor, job)
        except UnreachableError as error:
            failures = self.cursors.health(self.config.name).failures + 1
            self.cursors.unreachable(self.config.name, str(error), time.time() + wait_after(failures, error.seconds))
            self._trouble(str(error))
            return False
        except RefusedError as error:
            if cursor.error != str(error):
                self.say(f"{self.config.name}: job {job.uid}: {error}")
            self.cursors.refused(cursor, str(error), time.time() + wait_after(cursor.failures + 1))
            return False
        self._trouble("")
        self.cursors.seen(cursor, job.last_seq, done=ended and complete)
        return complete

    def _deliver(self, cursor: Cursor, job: job_pb2.Job) -> bool:
        """Send what the log has behind the cursor; False where `stop` came before its end."""
        sink = self.config.sink
        after = 0 if sink.whole else sink.reached(job, cursor.seq)
        if job.oldest_seq > after + 1:
            lost = job.oldest_seq - 1 - max(after, cursor.seq)
            self.cursors.skip(cursor, job.oldest_seq - 1, lost=max(0, lost))
            self.say(f"{self.config.name}: job {job.uid}: events before {job.oldest_seq} are no longer kept")
            after = job.oldest_seq - 1
        if after >= job.last_seq and not sink.whole:
            return True
        remote = cursor.remote
        pages: Iterator[Sequence[event_pb2.JobEvent]] = log_of(self.client, job, sink.kinds, after_seq=after)
        if sink.whole:
            pages = iter([[event for page in pages for event in page]])
        for events in pages:
            for confirmed in sink.deliver(job, events, remote):
                remote = confirmed.remote or remote
                self.cursors.advance(cursor, confirmed.seq, remote=confirmed.remote)
                if self.stop.is_set():
                    return False
        # Behind the last event of its kinds nothing is left for this sink.
        self.cursors.advance(cursor, job.last_seq)
        return True

    def _trouble(self, text: str) -> None:
        """Tell people once when something begins to fail, and once when it is well again."""
        if text != self._troubled:
            self.say(f"{self.config.name}: {text or 'delivers again'}")
            self._troubled = text
