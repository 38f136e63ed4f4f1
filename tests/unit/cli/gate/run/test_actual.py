# SPDX-License-Identifier: Apache-2.0
"""What an ended job has taken."""

from typing import Any

import pytest
from finetree_api.trainer.v1 import event_pb2, job_pb2
from finetree_cli.errors import BadInput, StillRunning
from finetree_cli.gate.report import PlanEntry, Revisions, make_report
from finetree_cli.gate.run.actual import actual, with_actual
from google.protobuf import timestamp_pb2

DIGEST = "sha256:" + "d" * 64
SUMMARY = event_pb2.RunSummary(peak_memory_bytes=900, total_seconds=40.0)


def job(**fields: Any) -> job_pb2.Job:
    given: dict[str, Any] = {
        "name": "projects/p/jobs/j",
        "state": job_pb2.JOB_STATE_SUCCEEDED,
        "attempt": 1,
        "plan_digest": "sha256:other",
        "annotations": {"finetree/plan-digest": DIGEST, "finetree/job-file": "b.yaml"},
        "cost": {"amount": {"units": 2, "nanos": 500_000_000, "currency_code": "EUR"}},
        "start_time": timestamp_pb2.Timestamp(seconds=100),
        "end_time": timestamp_pb2.Timestamp(seconds=400),
    }
    return job_pb2.Job(**{**given, **fields})


class Trainer:
    """A client that knows one job."""

    def __init__(self, found: job_pb2.Job) -> None:
        self.found = found

    def get_job(self, _: str) -> job_pb2.Job:
        return self.found

    def job(self, _: str) -> "Trainer":
        return self

    def list_events(self, *, last: int, kinds: tuple[str, ...]) -> list[event_pb2.JobEvent]:
        assert (last, kinds) == (1, ("terminal",))
        return [event_pb2.JobEvent(terminal=event_pb2.Terminal(summary=SUMMARY))]


def plan(file: str, digest: str = DIGEST) -> PlanEntry:
    return PlanEntry(file=file, verdict="PASS", passed=True, plan_digest=digest)


def test_of_one_attempt_its_own_time_counts_of_several_all_of_it():
    one, two = actual(job(), SUMMARY), actual(job(attempt=2), SUMMARY)
    assert (one.duration_seconds, two.duration_seconds) == (40.0, 300.0)
    assert (one.memory_bytes, one.cost, one.currency_code, one.state) == (900, 2.5, "EUR", "succeeded")
    nothing = actual(job_pb2.Job(state=job_pb2.JOB_STATE_FAILED), event_pb2.RunSummary())
    assert (nothing.memory_bytes, nothing.duration_seconds, nothing.cost) == (None, None, None)


def test_it_is_put_beside_the_plan_that_the_job_ran():
    report = make_report([plan("a.yaml"), plan("b.yaml"), plan("c.yaml", "")], as_of="", revisions=Revisions())
    found, entry = with_actual(Trainer(job()), report, "j")  # type: ignore[arg-type]  # what is asked of a client
    assert entry.file == "b.yaml"
    assert [each.actual is not None for each in found.plans] == [False, True, False]


@pytest.mark.parametrize(
    ("found", "error", "reason"),
    [
        (job(state=job_pb2.JOB_STATE_RUNNING), StillRunning, "JOB_NOT_ENDED"),
        (job(annotations={}), BadInput, "PLAN_NOT_OF_JOB"),
    ],
    ids=["running", "another"],
)
def test_a_job_that_has_not_ended_or_ran_another_plan_is_refused(found, error, reason):
    report = make_report([plan("a.yaml")], as_of="", revisions=Revisions())
    with pytest.raises(error) as refused:
        with_actual(Trainer(found), report, "j")  # type: ignore[arg-type]  # as above
    assert refused.value.reason == reason
