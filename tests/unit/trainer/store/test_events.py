# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ANN202 - inner functions are pieces of work for the store
import pytest
from finetree_api.trainer.v1 import event_pb2
from finetree_runtime.errors import FailedPrecondition
from finetree_trainer.store import events, jobs
from sqlalchemy import text


def seqs(found):
    return [event.seq for event in found]


def test_events_are_read_after_any_number_whatever_their_blocks(store, new_row, create_job, append_lines):
    row = new_row()
    create_job(row)
    for size in (1, 3, 2, 5, 1):
        append_lines(row, [f"line {n}" for n in range(size)])
    assert row.last_seq == 12

    def after(number, blocks=16):
        return store.read_now(
            lambda connection: events.read_after(connection, "j1", number, last_seq=12, blocks=blocks)
        )

    for number in range(13):
        found, covered = after(number)
        assert seqs(found) == list(range(number + 1, 13))
        assert covered == 12
    found, covered = after(2, blocks=2)
    assert (seqs(found), covered) == ([3, 4, 5, 6], 6)


def test_a_kind_that_is_not_asked_for_is_passed_over(store, new_row, create_job, append_lines):
    row = new_row()
    create_job(row)
    append_lines(row, ["a", "b"])
    mask = events.kinds_mask([event_pb2.EVENT_KIND_STEP_METRICS])
    found = store.read_now(lambda connection: events.read_after(connection, "j1", 0, last_seq=2, mask=mask))
    assert found == ([], 2)


def test_events_are_read_backwards(store, new_row, create_job, append_lines):
    row = new_row()
    create_job(row)
    for size in (2, 3, 1):
        append_lines(row, ["x"] * size)

    def before(number, after=0, blocks=16):
        return store.read_now(
            lambda c: events.read_before(c, "j1", number, after=after, mask=events.ALL_KINDS, blocks=blocks)
        )

    assert seqs(before(7)[0]) == [6, 5, 4, 3, 2, 1]
    assert seqs(before(5, after=1)[0]) == [4, 3, 2]
    found, reached = before(7, blocks=2)
    assert (seqs(found), reached) == ([6, 5, 4, 3], 3)


def test_a_time_finds_the_event_before_it(store, new_row, create_job, append_lines):
    row = new_row()
    create_job(row)
    for now in (1000, 2000, 3000):
        append_lines(row, ["x", "y"], now=now)

    def at(time):
        return store.read_now(lambda connection: events.seq_before_time(connection, "j1", time, last_seq=6))

    assert [at(time) for time in (0, 999, 1000, 1999, 2500, 3000)] == [0, 0, 2, 2, 4, 6]


def test_the_fence_lets_no_stale_writer_through(store, new_row, create_job, append_lines):
    row = new_row()
    create_job(row)
    append_lines(row, ["first"])
    stale = new_row(last_seq=1)
    append_lines(row, ["second"])
    with pytest.raises(events.StaleWriterError):
        append_lines(stale, ["from the past"])
    other = new_row(last_seq=2, attempt=7)
    with pytest.raises(events.StaleWriterError):
        append_lines(other, ["from another attempt"])
    found, _ = store.read_now(lambda connection: events.read_after(connection, "j1", 0, last_seq=2))
    assert [event.log_line.text for event in found] == ["first", "second"]


def test_a_damaged_block_is_said_to_be_so(store, new_row, create_job, append_lines):
    row = new_row()
    create_job(row)
    append_lines(row, ["x"])
    store.submit(lambda connection: connection.execute(text("UPDATE event_blocks SET payload = x'0a00'"))).result()
    with pytest.raises(FailedPrecondition) as error:
        store.read_now(lambda connection: events.read_after(connection, "j1", 0, last_seq=1))
    assert error.value.reason == "EVENTS_DAMAGED"


def test_retention_never_takes_the_last_block(store, new_row, create_job, append_lines):
    row = new_row()
    create_job(row)
    for now in (1000, 2000, 3000):
        append_lines(row, ["x", "y"], now=now)

    def expired(before):
        return store.read_now(lambda connection: events.expired_seq(connection, "j1", before))

    assert [expired(before) for before in (1000, 1500, 2500, 9000)] == [0, 2, 4, 4]
    store.submit(lambda connection: events.remove_before(connection, "j1", 5)).result()
    found, _ = store.read_now(lambda connection: events.read_after(connection, "j1", 4, last_seq=6))
    assert seqs(found) == [5, 6]
    loaded = store.read_now(lambda connection: jobs.load(connection, "j1"))
    assert loaded.oldest_seq == 5
