# SPDX-License-Identifier: Apache-2.0
"""A log that a real trainer wrote plays again in the SDK's fake suite, byte for byte."""

import finetree
from finetree.joblog import read_log, write_log
from finetree.testing import Suite
from finetree_api.trainer.v1 import job_pb2
from trainer_harness import assert_whole, trainer


async def test_a_recorded_run_is_played_with_the_same_bytes_over_cuts(tmp_path):
    async with trainer(tmp_path, {"steps": 8, "delay": 0.01, "artifact": True}) as talk:
        created = await talk.train(display_name="recorded")
        real = await talk.events(created.name)
        done = await talk.job(created.name)
    assert_whole(real)
    assert write_log(tmp_path / "run.jsonl", done, real) == len(real)
    assert list(read_log(tmp_path / "run.jsonl").events) == real

    with Suite(replay=tmp_path / "run.jsonl") as suite:
        suite.disconnect_after(2, 7, len(real) - 1)
        async with finetree.AsyncClient(suite.address) as client:
            job = client.job(created.name)
            played = [event async for event in job.events()]
            shown = await job.refresh()
        assert suite.trainer.attached == 4
    assert [event.SerializeToString(deterministic=True) for event in played] == [
        event.SerializeToString(deterministic=True) for event in real
    ]
    assert (shown.state, shown.uid, shown.last_seq) == (job_pb2.JOB_STATE_SUCCEEDED, done.uid, len(real))
    assert (shown.end_time, shown.train) == (done.end_time, done.train)


async def test_a_job_that_failed_fails_again_with_its_error(tmp_path):
    async with trainer(tmp_path, {"outcome": "failed"}) as talk:
        created = await talk.train()
        real = await talk.events(created.name)
        write_log(tmp_path / "run.jsonl", await talk.job(created.name), real)
    with Suite(replay=tmp_path / "run.jsonl") as suite:
        async with finetree.AsyncClient(suite.address) as client:
            ended = await client.job(suite.replayed).wait(timeout=60)
    assert (ended.state, ended.error.message) == (job_pb2.JOB_STATE_FAILED, "The loss was not finite.")
    assert ended.state_reason.remedy == "Lower the learning rate."
