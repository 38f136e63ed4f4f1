# SPDX-License-Identifier: Apache-2.0
"""Exactly once, in order, to the end: the follower alone, fed by hand."""

import random
from datetime import UTC, datetime

import finetree
import pytest
from finetree._shared.follow import Follow, Pace, Start
from finetree_api.trainer.v1 import event_log_pb2, event_pb2, job_pb2

STEP, TERMINAL = event_pb2.EVENT_KIND_STEP_METRICS, event_pb2.EVENT_KIND_TERMINAL


def follow(**changes: object):
    start = {name: changes.pop(name) for name in ("after_seq", "cursor", "after_time", "now") if name in changes}
    kinds, min_level = changes.pop("kinds", ()), changes.pop("min_level", 0)
    return Follow("projects/p/jobs/1", start=Start(**start), kinds=kinds, min_level=min_level, pace=Pace(**changes))


def batch(*seqs: int, terminal=None, cursor=None, skipped=()):
    events = [event_pb2.JobEvent(seq=seq, kind=TERMINAL if seq == terminal else STEP) for seq in seqs]
    cursor = cursor if cursor is not None else f"e1.{seqs[-1]}" if seqs else ""
    return event_log_pb2.WatchJobResponse(events=events, cursor=cursor, skipped=skipped)


def drain(follower):
    out = []
    while (event := follower.take()) is not None:
        out.append(event.seq)
    return out


def test_events_come_out_once_and_the_terminal_ends_it():
    follower = follow()
    follower.accept(batch(1, 2, 3))
    follower.accept(batch(2, 3, 4, terminal=4))
    assert drain(follower) == [1, 2, 3, 4]
    assert follower.finished


def test_it_asks_for_the_beginning_then_for_what_follows_its_cursor():
    follower = follow(heartbeat=2.0)
    assert follower.request().WhichOneof("start") is None
    assert follower.request().heartbeat.ToMilliseconds() == 2000
    follower.accept(batch(1, 2))
    assert follower.request().cursor == "e1.2"


def test_a_heartbeat_moves_the_cursor():
    follower = follow(kinds=(STEP,))
    follower.accept(batch(cursor="e1.40"))
    assert follower.request().cursor == "e1.40"
    assert follower.cursor == "e1.40~0"


def test_a_hole_asks_again_from_the_last_number():
    follower = follow()
    follower.accept(batch(1, 2))
    with pytest.raises(finetree.Unavailable, match=r"events 3 to 4 .* are missing"):
        follower.accept(batch(5, 6))
    assert follower.request().after_seq == 2
    follower.accept(batch(3, 4, 5, 6))
    assert drain(follower) == [1, 2, 3, 4, 5, 6]
    assert follower.request().cursor == "e1.6"


def test_a_hole_at_the_beginning_starts_again():
    follower = follow()
    with pytest.raises(finetree.Unavailable):
        follower.accept(batch(2))
    assert follower.request().WhichOneof("start") is None


def test_what_precedes_a_hole_in_a_batch_is_kept():
    follower = follow()
    with pytest.raises(finetree.Unavailable):
        follower.accept(batch(1, 2, 4))
    assert follower.request().after_seq == 2
    assert drain(follower) == [1, 2]


def test_a_hole_that_stays_is_a_fault():
    follower = follow()
    for _ in range(3):
        with pytest.raises(finetree.Unavailable):
            follower.accept(batch(2))
    with pytest.raises(finetree.Internal) as caught:
        follower.accept(batch(2))
    assert caught.value.reason == "EVENT_LOG_GAP"


def test_skipped_ranges_and_filters_leave_no_holes():
    follower = follow()
    follower.accept(batch(1, 5, skipped=[event_log_pb2.SkippedRange(first_seq=2, last_seq=4)]))
    filtered = follow(kinds=(STEP,))
    filtered.accept(batch(3, 9))
    assert (drain(follower), drain(filtered)) == ([1, 5], [3, 9])


def test_a_filter_always_asks_for_the_end_and_does_not_show_it():
    follower = follow(kinds=(STEP,))
    assert list(follower.request().kinds) == [STEP, TERMINAL]
    follower.accept(batch(3, 9, terminal=9))
    assert drain(follower) == [3]
    assert follower.finished


def test_the_cursor_follows_what_was_handed_out_not_what_has_arrived():
    follower = follow()
    follower.accept(batch(1, 2, 3))
    assert follower.cursor == "~0"
    follower.take()
    assert follower.cursor == "~1"
    follower.take()
    follower.take()
    assert follower.cursor == "e1.3~3"


@pytest.mark.parametrize("stop", range(13))
def test_a_stored_cursor_goes_on_exactly_there(stop):
    batches = [batch(1, 2, 3), batch(4, 5), batch(6, 7, 8, 9), batch(10, 11, 12, terminal=12)]
    first, seen = follow(), []
    for each in batches:
        first.accept(each)
        while len(seen) < stop and (event := first.take()) is not None:
            seen.append(event.seq)
        if len(seen) == stop:
            break
    second = follow(cursor=first.cursor)
    request = second.request()
    start = int(request.cursor.partition(".")[2] or 0) if request.cursor else request.after_seq
    for each in batches:
        left = [event.seq for event in each.events if event.seq > start]
        if left:
            second.accept(batch(*left, terminal=12, cursor=each.cursor))
    assert seen + drain(second) == list(range(1, 13))


def test_a_services_own_cursor_is_taken_as_it_is():
    follower = follow(cursor="e1.56")
    assert follower.request().cursor == "e1.56"
    assert follower.cursor == "e1.56"
    follower.accept(batch(57))
    assert (drain(follower), follower.cursor) == ([57], "e1.57~57")


@pytest.mark.parametrize(
    ("changes", "start"), [({"after_time": datetime(2026, 1, 1, tzinfo=UTC)}, "after_time"), ({"now": True}, "now")]
)
def test_a_time_is_asked_for_until_there_is_a_cursor(changes, start):
    follower = follow(**changes)
    assert follower.request().WhichOneof("start") == start
    follower.accept(batch(cursor="e1.56"))
    assert follower.request().cursor == "e1.56"
    follower.accept(batch(57, 58))
    assert drain(follower) == [57, 58]
    with pytest.raises(finetree.Unavailable):
        follower.accept(batch(60))


def test_step_metrics_that_a_rate_leaves_out_are_no_holes():
    follower = follow(max_step_events_per_second=2, min_interval=20.0)
    request = follower.request()
    assert (request.max_step_events_per_second, request.min_interval.ToMilliseconds()) == (2, 20_000)
    assert follower.silence == 60.0
    # The range of what was left out may come with the batch before the next event.
    follower.accept(batch(1, 2, cursor="e1.5", skipped=[event_log_pb2.SkippedRange(first_seq=3, last_seq=5)]))
    follower.accept(batch(6))
    assert drain(follower) == [1, 2, 6]


def test_random_breaks_never_lose_or_repeat_an_event():
    source = random.Random(7)
    for _ in range(200):
        follower, out, total = follow(), [], 40
        while not follower.finished:
            request = follower.request()
            start = int(request.cursor.partition(".")[2]) if request.cursor else request.after_seq
            for _ in range(source.randint(0, 4)):
                end = min(total, start + source.randint(1, 7))
                seqs = [seq for seq in range(start + 1, end + 1) if source.random() > 0.05]
                try:
                    follower.accept(batch(*seqs, terminal=total, cursor=f"e1.{end}"))
                except finetree.Unavailable:
                    break
                start = end
            out += drain(follower)
            if start == total and not follower.finished:
                follower.ended_without_terminal(job_pb2.Job(state=job_pb2.JOB_STATE_SUCCEEDED, last_seq=total))
        assert out == list(range(1, total + 1))


def test_when_a_clean_end_without_a_terminal_is_the_end():
    running = job_pb2.Job(state=job_pb2.JOB_STATE_RUNNING, last_seq=5)
    ended = job_pb2.Job(state=job_pb2.JOB_STATE_SUCCEEDED, last_seq=5)
    assert not follow(after_seq=5).ended_without_terminal(running)
    assert not follow(after_seq=4).ended_without_terminal(ended)
    assert follow(after_seq=5).ended_without_terminal(ended)
    behind = follow(cursor="e1.5~4")
    assert not behind.ended_without_terminal(ended)
    assert behind.request().after_seq == 4
    assert follow(min_level=event_pb2.EVENT_LEVEL_ERROR).ended_without_terminal(ended)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"heartbeat": 0.01}, "heartbeat"),
        ({"min_interval": 61}, "min_interval"),
        ({"max_step_events_per_second": -1}, "max_step_events_per_second"),
        ({"after_seq": -1}, "after_seq"),
        ({"after_seq": 1, "cursor": "x"}, "cursor"),
        ({"after_time": datetime(2026, 1, 1, tzinfo=UTC), "now": True}, "now"),
    ],
)
def test_what_cannot_be_is_refused(changes, field):
    with pytest.raises(finetree.InvalidArgument) as caught:
        follow(**changes)
    assert caught.value.violations[0].field == field
