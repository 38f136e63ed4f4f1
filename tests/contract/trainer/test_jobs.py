# SPDX-License-Identifier: Apache-2.0
from finetree_api.trainer.v1 import job_pb2
from trainer_harness import assert_whole, states, steps, trainer


async def test_a_job_is_created_run_and_told_from_its_first_to_its_last_event(tmp_path):
    async with trainer(tmp_path, {"steps": 5}) as talk:
        job = await talk.train(display_name="first")
        assert job.state == job_pb2.JOB_STATE_QUEUED
        events = await talk.events(job.name)
        assert_whole(events)
        assert states(events) == ["QUEUED", "PREPARING", "RUNNING", "SUCCEEDED"]
        assert steps(events) == [(1, step) for step in range(1, 6)]
        done = await talk.job(job.name)
        assert done.state == job_pb2.JOB_STATE_SUCCEEDED
        assert done.progress.fraction == 1.0
        assert done.last_seq == len(events)
