# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ANN202 - inner functions say what they return by their names
from finetree_api.trainer.v1 import event_pb2, job_pb2
from finetree_trainer.joblog.log import EventLog
from finetree_trainer.joblog.transaction import Transaction
from finetree_trainer.jobs.retention.events import EventRetention
from finetree_trainer.store import events, jobs

DAY = 86_400 * 1_000_000


def ended_job(store, new_row, uid, time):
    """A job with three blocks, ended at a time."""

    def work(connection):
        row = new_row(uid, state=job_pb2.JOB_STATE_RUNNING)
        jobs.create(connection, row, {})
        for step in range(3):
            transaction = Transaction(row, time)
            before = row.attempt, row.last_seq
            if step < 2:
                transaction.add(event_pb2.JobEvent(log_line=event_pb2.LogLine(text="x")))
            else:
                transaction.finish(job_pb2.JOB_STATE_SUCCEEDED, "DONE", "Done.")
            transaction.flush()
            events.append(connection, row, transaction.events, attempt=before[0], last_seq=before[1])

    store.submit(work).result()


async def test_old_events_are_announced_in_one_sweep_and_cut_in_the_next(store, new_row):
    log = EventLog(store)
    ended_job(store, new_row, "old", log.clock() - 10 * DAY)
    ended_job(store, new_row, "new", log.clock())
    retention = EventRetention(log)

    def oldest():
        return {uid: store.read_now(lambda c, uid=uid: jobs.load_hot(c, uid)).oldest_seq for uid in ("old", "new")}

    await retention.sweep(["old"])
    assert log.min_seq == {"old": 3}
    assert oldest() == {"old": 1, "new": 1}
    await retention.sweep(["old"])
    assert oldest() == {"old": 3, "new": 1}
    left = (await log.read("old", 2)).events
    assert [event.kind for event in left] == [event_pb2.EVENT_KIND_STATE_CHANGED, event_pb2.EVENT_KIND_TERMINAL]
    await retention.sweep(["old"])
    assert oldest() == {"old": 3, "new": 1}
