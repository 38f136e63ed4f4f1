# SPDX-License-Identifier: Apache-2.0
"""What clients saw of a trainer, and the promises that it must have kept to them.

A history is what the clients of a campaign wrote down: the jobs that they were promised, every read of a log, every
look at a job. `violations` names each promise that a history breaks; it looks at nothing but the history, so that what
it finds was visible to a client.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from finetree_api.trainer.v1 import event_pb2, job_pb2

S = job_pb2.JobState
TERMINAL = {S.JOB_STATE_SUCCEEDED, S.JOB_STATE_FAILED, S.JOB_STATE_CANCELLED}
_GOING = {S.JOB_STATE_CANCELLING, S.JOB_STATE_RECOVERING, *TERMINAL}
FOLLOWERS = {
    S.JOB_STATE_UNSPECIFIED: {S.JOB_STATE_QUEUED},
    S.JOB_STATE_QUEUED: {S.JOB_STATE_PREPARING, S.JOB_STATE_CANCELLED, S.JOB_STATE_FAILED},
    S.JOB_STATE_PREPARING: {S.JOB_STATE_RUNNING, S.JOB_STATE_PAUSING, *_GOING},
    S.JOB_STATE_RUNNING: {S.JOB_STATE_PAUSING, *_GOING},
    S.JOB_STATE_PAUSING: {S.JOB_STATE_PAUSED, S.JOB_STATE_CANCELLING, *TERMINAL},
    S.JOB_STATE_PAUSED: {S.JOB_STATE_QUEUED, S.JOB_STATE_CANCELLED},
    S.JOB_STATE_RECOVERING: {S.JOB_STATE_PREPARING, S.JOB_STATE_CANCELLED, S.JOB_STATE_FAILED},
    S.JOB_STATE_CANCELLING: TERMINAL,
}
"""The states of a job as the contract draws them (job.proto), written down apart from the service's own table."""


@dataclass(frozen=True, slots=True)
class Created:
    """An answer to CreateJob: the id and content of the request, and the job that it was promised."""

    request_id: str
    content: str
    job: str


@dataclass(frozen=True, slots=True)
class Read:
    """Events that one call gave, in the order in which they came; `after` is where it was asked to start.

    `tail` is how many of the newest events were asked for, 0 for a read from a place on.
    """

    job: str
    after: int
    events: tuple[event_pb2.JobEvent, ...]
    tail: int = 0
    cursors: tuple[int, ...] = ()
    """Numbers at which the cursors of the call stood, in their order."""


@dataclass(frozen=True, slots=True)
class Look:
    """A job as GetJob showed it, in the order of the looks."""

    job: str
    state: int
    last_seq: int
    attempt: int = 0


@dataclass(slots=True)
class History:
    """Everything that clients saw. `final` has the whole log of each job, read when all was over."""

    created: list[Created] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    """Jobs whose cancel was acknowledged."""
    reads: list[Read] = field(default_factory=list)
    looks: list[Look] = field(default_factory=list)
    final: dict[str, tuple[event_pb2.JobEvent, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Violation:
    """A promise that was broken, and how."""

    rule: str
    text: str


def violations(history: History) -> list[Violation]:
    """Every promise that a history breaks; empty for one in which all were kept."""
    return [Violation(name, text) for name, rule in RULES.items() for text in rule(history)]


def _one_job_for_a_request(history: History) -> Iterator[str]:
    first: dict[str, Created] = {}
    for created in history.created:
        known = first.setdefault(created.request_id, created)
        if known.job != created.job:
            yield f"request {created.request_id} made {known.job} and {created.job}"
        if known.content != created.content:
            yield f"request {created.request_id} was taken with two contents"
    jobs = [created.job for created in first.values()]
    for job in sorted({job for job in jobs if jobs.count(job) > 1}):
        yield f"two requests made {job}"


def _acknowledged_jobs_are_there(history: History) -> Iterator[str]:
    for created in history.created:
        if created.job not in history.final:
            yield f"{created.job} was acknowledged and is gone"


def _gapless(history: History) -> Iterator[str]:
    for read in history.reads:
        numbers = [event.seq for event in read.events]
        start = numbers[0] if read.tail and numbers else read.after + 1
        if numbers != list(range(start, start + len(numbers))):
            yield f"{read.job} after {read.after}: {_short(numbers)}"
    for job, events in history.final.items():
        if [event.seq for event in events] != list(range(1, len(events) + 1)):
            yield f"{job}, whole: {_short([event.seq for event in events])}"


def _same_on_every_read(history: History) -> Iterator[str]:
    for read in history.reads:
        log = history.final.get(read.job, ())
        for event in read.events:
            if event.seq <= len(log) and event != log[event.seq - 1]:
                yield f"{read.job}: event {event.seq} was another one when it was first read"
                break


def _nothing_seen_is_lost(history: History) -> Iterator[str]:
    for read in history.reads:
        newest = max((event.seq for event in read.events), default=0)
        if newest > len(history.final.get(read.job, ())):
            yield f"{read.job}: event {newest} was shown and is gone"
    for look in history.looks:
        if look.last_seq > len(history.final.get(look.job, ())):
            yield f"{look.job}: {look.last_seq} events were counted, {len(history.final.get(look.job, ()))} are there"


def _one_terminal_event_at_the_end(history: History) -> Iterator[str]:
    for job, events in history.final.items():
        at = [event.seq for event in events if event.kind == event_pb2.EVENT_KIND_TERMINAL]
        if at != [len(events)]:
            yield f"{job}: Terminal at {at} of {len(events)} events"
    for read in history.reads:
        for event in read.events[:-1]:
            if event.kind == event_pb2.EVENT_KIND_TERMINAL:
                yield f"{read.job}: events follow the Terminal event {event.seq}"


def _states_follow_each_other(history: History) -> Iterator[str]:
    for job, events in history.final.items():
        state = int(S.JOB_STATE_UNSPECIFIED)
        for event in events:
            if event.kind == event_pb2.EVENT_KIND_STATE_CHANGED:
                previous, current = event.state_changed.previous, event.state_changed.current
                if previous != state or current not in FOLLOWERS.get(previous, set()):
                    yield f"{job}: event {event.seq} goes from {_name(previous)} to {_name(current)} in {_name(state)}"
                state = current
            if event.state != state:
                yield f"{job}: event {event.seq} has the state {_name(event.state)} in {_name(state)}"
        if events and events[-1].HasField("terminal") and events[-1].terminal.state != state:
            yield f"{job}: ended as {_name(events[-1].terminal.state)} in {_name(state)}"


def _time_and_attempt_never_go_back(history: History) -> Iterator[str]:
    for job, events in history.final.items():
        time, attempt, step = 0, 0, 0
        for event in events:
            now = event.event_time.ToNanoseconds()
            if now < time:
                yield f"{job}: the time of event {event.seq} goes back"
            if event.attempt < attempt:
                yield f"{job}: the attempt of event {event.seq} goes back"
            if event.attempt > attempt:
                step = 0
            if event.HasField("step_metrics"):
                if event.step_metrics.step <= step:
                    yield f"{job}: step {event.step_metrics.step} of event {event.seq} goes back within an attempt"
                step = event.step_metrics.step
            time, attempt = max(time, now), max(attempt, event.attempt)


def _an_attempt_works_after_the_one_before(history: History) -> Iterator[str]:
    """No event of an earlier attempt follows one of a later, and each attempt begins once."""
    for job, events in history.final.items():
        begun: list[int] = []
        for event in events:
            moved = event.kind == event_pb2.EVENT_KIND_STATE_CHANGED
            if moved and event.state_changed.current == S.JOB_STATE_PREPARING:
                begun.append(event.attempt)
        if begun != list(range(1, len(begun) + 1)):
            yield f"{job}: its attempts began as {begun}"


def _looks_never_go_back(history: History) -> Iterator[str]:
    newest: dict[str, Look] = {}
    for look in history.looks:
        before = newest.get(look.job, look)
        if look.last_seq < before.last_seq or look.attempt < before.attempt:
            yield f"{look.job}: showed {before.last_seq} events, then {look.last_seq}"
        if before.state in TERMINAL and look.state != before.state:
            yield f"{look.job}: was {_name(before.state)}, then {_name(look.state)}"
        newest[look.job] = look
    for job, look in newest.items():
        events = history.final.get(job, ())
        if look.state in TERMINAL and events and look.state != events[-1].terminal.state:
            yield f"{job}: GetJob showed {_name(look.state)}, its Terminal event is another one"


def _a_cancel_is_kept(history: History) -> Iterator[str]:
    for job in history.cancelled:
        events = history.final.get(job, ())
        states = [event.state_changed.current for event in events if event.kind == event_pb2.EVENT_KIND_STATE_CHANGED]
        if not {S.JOB_STATE_CANCELLING, S.JOB_STATE_CANCELLED, *TERMINAL} & set(states):
            yield f"{job}: its cancel was acknowledged, and nothing of it is in the log"


def _cursors_go_on(history: History) -> Iterator[str]:
    for read in history.reads:
        if list(read.cursors) != sorted(read.cursors):
            yield f"{read.job}: cursors {_short(list(read.cursors))}"
        if read.cursors and read.events and read.cursors[-1] < read.events[-1].seq:
            yield f"{read.job}: the cursor {read.cursors[-1]} stands before the event {read.events[-1].seq}"


def _a_tail_reaches_the_end(history: History) -> Iterator[str]:
    for read in history.reads:
        if not read.tail:
            continue
        log = history.final.get(read.job, ())
        if read.events and read.events[-1].kind == event_pb2.EVENT_KIND_TERMINAL:
            wanted = min(read.tail, len(log))
            if len(read.events) < wanted:
                yield f"{read.job}: a tail of {read.tail} has {len(read.events)} of {wanted} events"
        elif not read.events and log:
            yield f"{read.job}: a tail of {read.tail} is empty"


RULES: dict[str, Callable[[History], Iterator[str]]] = {
    "one job for a request": _one_job_for_a_request,
    "acknowledged jobs are there": _acknowledged_jobs_are_there,
    "gapless": _gapless,
    "same on every read": _same_on_every_read,
    "nothing seen is lost": _nothing_seen_is_lost,
    "one Terminal event, last": _one_terminal_event_at_the_end,
    "legal states": _states_follow_each_other,
    "time and attempt never go back": _time_and_attempt_never_go_back,
    "attempts begin once, in order": _an_attempt_works_after_the_one_before,
    "looks never go back": _looks_never_go_back,
    "a cancel is kept": _a_cancel_is_kept,
    "cursors go on": _cursors_go_on,
    "a tail reaches the end": _a_tail_reaches_the_end,
}
"""Name of each rule, and the rule: it yields what breaks it."""


def _name(state: int) -> str:
    return S.Name(state).removeprefix("JOB_STATE_")  # type: ignore[arg-type]


def _short(numbers: list[int]) -> str:
    return str(numbers) if len(numbers) < 12 else f"{numbers[:6]} … {numbers[-6:]}"
