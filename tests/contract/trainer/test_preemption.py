# SPDX-License-Identifier: Apache-2.0
"""A training gives its device up to a job of a higher priority, by a checkpoint, and goes on at its place."""

import pytest
from finetree_api.trainer.v1 import event_pb2, job_pb2
from trainer_harness import ROWS, assert_whole, jsonl, states, trainer, write_script

STEP = event_pb2.EVENT_KIND_STEP_METRICS
LONG = {"steps": 5000, "delay": 0.01}
LOW, HIGH = job_pb2.JOB_PRIORITY_LOW, job_pb2.JOB_PRIORITY_HIGH


def is_step(event):
    return event.kind == STEP


@pytest.fixture
def options(tmp_path):
    """Settings with which trainings are preempted at once."""
    limits = tmp_path / "limits.toml"
    limits.write_text("[projects.default]\npreemptible = true")
    return {"limits_file": limits, "preempt_max_lost": 3600.0, "preempt_min_run": 0.0}


async def test_a_preempted_job_is_told_why_and_goes_on_behind_the_other_one(tmp_path, options):
    async with trainer(tmp_path, LONG, **options) as talk:
        dataset = (await talk.upload(jsonl(ROWS))).name
        low = (await talk.train(dataset=dataset, priority=LOW)).name
        await talk.until(low, is_step)
        write_script(tmp_path, {"steps": 2})
        high = (await talk.train(dataset=dataset, priority=HIGH)).name
        assert_whole(await talk.events(high))
        events = await talk.events(low)
        assert_whole(events)
        assert states(events) == [
            *("QUEUED", "PREPARING", "RUNNING", "PAUSING"),
            *("QUEUED", "PREPARING", "RUNNING", "SUCCEEDED"),
        ]
        told = next(e for e in events if e.state_changed.current == job_pb2.JOB_STATE_PAUSING).state_changed.reason
        assert told.code == "PREEMPTED"
        assert told.text == (
            "Preempted by a job of the priority HIGH of this project, since jobs of this project may be preempted: "
            "a checkpoint is saved, then it waits again at its place."
        )
        assert told.metadata == {"cause": "PREEMPTIBLE", "by_priority": "HIGH", "by": high}
        again = [e.state_changed.reason for e in events if e.state_changed.current == job_pb2.JOB_STATE_QUEUED][1]
        assert (again.code, again.text.startswith("Preempted. It goes on")) == ("PREEMPTED", True)
        reasons = [e.attempt_started.reason for e in events if e.kind == event_pb2.EVENT_KIND_ATTEMPT_STARTED]
        assert reasons == [event_pb2.ATTEMPT_REASON_FIRST, event_pb2.ATTEMPT_REASON_RESUMED]


@pytest.mark.parametrize(
    "changes", [{"preempt_max_lost": 0.0}, {"preempt_min_run": 3600.0}, {"limits_file": None}], ids=str
)
async def test_nobody_is_preempted_unless_settings_and_limits_say_so(tmp_path, options, changes):
    async with trainer(tmp_path, LONG, **(options | changes)) as talk:
        dataset = (await talk.upload(jsonl(ROWS))).name
        low = (await talk.train(dataset=dataset, priority=LOW)).name
        await talk.until(low, is_step)
        high = (await talk.train(dataset=dataset, priority=HIGH)).name
        await talk.until(high, lambda event: event.HasField("queue_changed"))
        await talk.cancel(high)
        await talk.cancel(low)
        assert states(await talk.events(low)) == ["QUEUED", "PREPARING", "RUNNING", "CANCELLING", "CANCELLED"]
