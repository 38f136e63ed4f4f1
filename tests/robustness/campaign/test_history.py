# SPDX-License-Identifier: Apache-2.0
"""The checker of histories: a whole one breaks no rule, and each rule has a history that breaks it."""

import copy

import pytest
from campaign.history import RULES, Created, History, Look, Read, violations
from finetree_api.trainer.v1 import event_pb2, job_pb2

S = job_pb2.JobState
PATH = (S.JOB_STATE_QUEUED, S.JOB_STATE_PREPARING, S.JOB_STATE_RUNNING, S.JOB_STATE_SUCCEEDED)


def moved(seq, previous, current, attempt):
    change = event_pb2.StateChanged(previous=previous, current=current)
    return event(seq, current, attempt, state_changed=change, kind=event_pb2.EVENT_KIND_STATE_CHANGED)


def event(seq, state, attempt, **payload):  # noqa: ANN003 - fields of JobEvent
    made = event_pb2.JobEvent(seq=seq, state=state, attempt=attempt, **payload)
    made.event_time.FromMicroseconds(1_000_000 + seq)
    return made


def step(seq, number, attempt=1):
    metrics = event_pb2.StepMetrics(step=number)
    return event(seq, PATH[2], attempt, step_metrics=metrics, kind=event_pb2.EVENT_KIND_STEP_METRICS)


def log():
    """A job's log: two steps, and success."""
    terminal = event_pb2.Terminal(state=PATH[3])
    return (
        moved(1, 0, PATH[0], 0),
        moved(2, PATH[0], PATH[1], 1),
        moved(3, PATH[1], PATH[2], 1),
        step(4, 1),
        step(5, 2),
        moved(6, PATH[2], PATH[3], 1),
        event(7, PATH[3], 1, terminal=terminal, kind=event_pb2.EVENT_KIND_TERMINAL),
    )


def whole() -> History:
    events = log()
    return History(
        created=[Created("r1", "a", "j1"), Created("r1", "a", "j1"), Created("r2", "b", "j2")],
        cancelled=["j2"],
        reads=[
            Read("j1", 0, events[:4], cursors=(2, 4)),
            Read("j1", 4, events[4:]),
            Read("j2", 0, events, tail=3),
            Read("j2", 0, events[-3:], tail=3),
        ],
        looks=[Look("j1", PATH[2], 4, 1), Look("j1", PATH[3], 7, 1), Look("j2", PATH[3], 7, 1)],
        final={"j1": events, "j2": log()},
    )


def test_a_whole_history_breaks_no_rule():
    assert violations(whole()) == []


def change(history, index, **fields):  # noqa: ANN003 - likewise
    """Another event in the place of one of j1's, and of every read of it."""
    events = [copy.deepcopy(each) for each in history.final["j1"]]
    for name, value in fields.items():
        setattr(events[index], name, value)
    history.final["j1"] = tuple(events)
    history.reads = []


def two_jobs(history):
    history.created.append(Created("r1", "a", "j2"))


def two_contents(history):
    history.created.append(Created("r1", "c", "j1"))


def one_job_twice(history):
    history.created.append(Created("r3", "c", "j1"))


def lost_job(history):
    history.created.append(Created("r3", "c", "j3"))


def gap_in_a_read(history):
    history.reads.append(Read("j1", 0, (log()[0], log()[2])))


def gap_at_the_start(history):
    history.reads.append(Read("j1", 2, log()[3:5]))


def twice(history):
    history.reads.append(Read("j1", 0, (*log()[:2], *log()[1:3])))


def gap_in_the_log(history):
    history.reads = []
    history.looks = []
    history.final["j1"] = (*log()[:3], *log()[4:])


def other_content(history):
    history.reads.append(Read("j1", 3, (step(4, 9),)))


def lost_event(history):
    history.reads.append(Read("j1", 7, (step(8, 3),)))


def lost_count(history):
    history.looks.insert(0, Look("j1", PATH[2], 9, 1))


def no_terminal(history):
    history.looks, history.reads = [], []
    history.final["j1"] = log()[:-1]


def two_terminals(history):
    again = copy.deepcopy(log()[-1])
    again.seq = 8
    history.final["j1"] = (*log(), again)


def event_after_the_terminal(history):
    history.reads.append(Read("j1", 6, (log()[-1], step(8, 3))))
    history.final["j1"] = (*log(), step(8, 3))


def skipped_state(history):
    events = log()
    history.final["j1"] = (events[0], moved(2, PATH[0], PATH[2], 1), moved(3, PATH[2], PATH[2], 1), *events[3:])
    history.reads = []


def wrong_state(history):
    change(history, 4, state=PATH[1])


def other_end(history):
    history.final["j1"][-1].terminal.state = S.JOB_STATE_FAILED
    history.looks, history.reads = [], []


def time_back(history):
    history.final["j1"][4].event_time.FromMicroseconds(5)


def attempt_back(history):
    change(history, 4, attempt=0)


def step_back(history):
    history.final["j1"] = (*log()[:4], step(5, 1), *log()[5:])
    history.reads = []


def second_claim(history):
    events = log()
    history.reads, history.looks = [], []
    again = moved(2, PATH[0], PATH[1], 2)
    history.final["j1"] = (events[0], again, *events[2:])


def fewer_events(history):
    history.looks.append(Look("j1", PATH[3], 6, 1))


def alive_again(history):
    history.looks.append(Look("j1", PATH[2], 7, 1))


def another_end_was_shown(history):
    history.looks.append(Look("j2", S.JOB_STATE_FAILED, 7, 1))


def lost_cancel(history):
    history.final["j2"] = log()[:5]


def cursor_back(history):
    history.reads.append(Read("j1", 0, log()[:4], cursors=(4, 2)))


def cursor_behind(history):
    history.reads.append(Read("j1", 0, log()[:4], cursors=(3,)))


def short_tail(history):
    history.reads.append(Read("j1", 0, log()[-2:], tail=5))


def empty_tail(history):
    history.reads.append(Read("j1", 0, (), tail=5))


BROKEN = [
    ("one job for a request", two_jobs),
    ("one job for a request", two_contents),
    ("one job for a request", one_job_twice),
    ("acknowledged jobs are there", lost_job),
    ("gapless", gap_in_a_read),
    ("gapless", gap_at_the_start),
    ("gapless", twice),
    ("gapless", gap_in_the_log),
    ("same on every read", other_content),
    ("nothing seen is lost", lost_event),
    ("nothing seen is lost", lost_count),
    ("one Terminal event, last", no_terminal),
    ("one Terminal event, last", two_terminals),
    ("one Terminal event, last", event_after_the_terminal),
    ("legal states", skipped_state),
    ("legal states", wrong_state),
    ("legal states", other_end),
    ("time and attempt never go back", time_back),
    ("time and attempt never go back", attempt_back),
    ("time and attempt never go back", step_back),
    ("attempts begin once, in order", second_claim),
    ("looks never go back", fewer_events),
    ("looks never go back", alive_again),
    ("looks never go back", another_end_was_shown),
    ("a cancel is kept", lost_cancel),
    ("cursors go on", cursor_back),
    ("cursors go on", cursor_behind),
    ("a tail reaches the end", short_tail),
    ("a tail reaches the end", empty_tail),
]


@pytest.mark.parametrize(("rule", "breaks"), BROKEN, ids=[breaks.__name__ for _, breaks in BROKEN])
def test_a_broken_history_is_rejected(rule, breaks):
    history = whole()
    breaks(history)
    assert rule in {found.rule for found in violations(history)}


def test_every_rule_has_a_history_that_it_rejects():
    assert {rule for rule, _ in BROKEN} == set(RULES)
