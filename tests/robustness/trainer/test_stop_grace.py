# SPDX-License-Identifier: Apache-2.0
"""A trainer whose workers must stop with it, as in a container: each saves, and its job goes on at the next start."""

from finetree_api.trainer.v1 import event_pb2, job_pb2
from trainer_harness import assert_whole, states, trainer

STEP = event_pb2.EVENT_KIND_STEP_METRICS


async def test_a_worker_saves_and_ends_with_the_trainer_and_its_job_goes_on(tmp_path):
    script = {"steps": 1000, "delay": 0.05}
    async with trainer(tmp_path, script, stop_grace=30.0) as talk:
        job = await talk.train()
        await talk.until(job.name, lambda e: e.kind == STEP and e.step_metrics.step == 2)
        process = talk.application._supervisor.worker_of(job.uid, 1).process
    assert process.dead.is_set()
    async with trainer(tmp_path, {"steps": 4}, stop_grace=30.0) as talk:
        events = await talk.events(job.name)
    assert_whole(events)
    assert states(events) == ["QUEUED", "PREPARING", "RUNNING", "RECOVERING", "PREPARING", "RUNNING", "SUCCEEDED"]
    stopped = next(e.state_changed.reason for e in events if e.state_changed.current == job_pb2.JOB_STATE_RECOVERING)
    assert stopped.code == "WORKER_INTERRUPTED"
