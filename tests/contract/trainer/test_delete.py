# SPDX-License-Identifier: Apache-2.0
"""DeleteJob: a job is gone with everything it made, once for each request; never what something else uses."""

import asyncio
import json
import sqlite3

import grpc
import pytest
from finetree_api.trainer.v1 import event_log_pb2, event_pb2, job_pb2, retention_pb2, sweep_pb2, trainer_pb2
from finetree_api.types.v1 import method_pb2, run_spec_pb2, weights_pb2
from finetree_cli import __main__ as command
from trainer_harness import ROWS, job_request, jsonl, refusal, trainer

SCRIPT = {"steps": 4, "checkpoints": [2, 4], "adapter": True}
Delete = retention_pb2.DeleteJobRequest


async def delete(talk, name, **fields) -> int:  # noqa: ANN003 - fields of the request
    return (await talk.stub.DeleteJob(Delete(name=name, **fields))).freed_bytes


async def refused(call) -> tuple:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return refusal(error.value)


async def ended(talk, **fields) -> job_pb2.Job:  # noqa: ANN003 - fields of the template
    job = await talk.train(**fields)
    await talk.events(job.name)
    return await talk.job(job.name)


def start_from(artifact: str) -> job_pb2.TrainTask:
    source = weights_pb2.TrainedWeights(artifact=artifact)
    return job_pb2.TrainTask(spec=run_spec_pb2.RunSpec(lora=method_pb2.Lora(), init_from=source))


async def test_a_deleted_job_is_gone_with_its_files_and_a_repeated_request_is_answered_again(tmp_path):
    async with trainer(tmp_path, SCRIPT) as talk:
        job = await ended(talk, request_id="made")
        assert job_pb2.JOB_ACTION_DELETE in job.allowed_actions
        folder = tmp_path / "data/jobs" / job.uid
        least = sum(file.stat().st_size for file in (folder / "checkpoints").rglob("*") if file.is_file())
        assert await delete(talk, job.name, validate_only=True) > least > 0
        assert (await talk.job(job.name)).last_seq == job.last_seq
        size = await delete(talk, job.name, request_id="gone")
        assert size > least
        assert not folder.exists()
        assert await delete(talk, job.name, request_id="gone") == size
        reused = await refused(delete(talk, job.name, request_id="gone", force=True))
        assert reused[:2] == ("ALREADY_EXISTS", "REQUEST_ID_REUSED")
        for call in (
            talk.stub.GetJob(trainer_pb2.GetJobRequest(name=job.name)),
            talk.stub.ListEvents(event_log_pb2.ListEventsRequest(name=job.name)),
            talk.stub.DeleteJob(Delete(name=job.name)),
        ):
            assert (await refused(call))[:2] == ("NOT_FOUND", "JOB_NOT_FOUND")
        request = trainer_pb2.CreateJobRequest(job=job_request(job.train.spec.dataset.name), request_id="made")
        assert (await refused(talk.stub.CreateJob(request)))[:2] == ("FAILED_PRECONDITION", "JOB_DELETED")
        assert not (await talk.stub.ListJobs(trainer_pb2.ListJobsRequest())).jobs
    with sqlite3.connect(tmp_path / "data/trainer.db") as database:
        # Of the newest block of all a row without events may stay, so that no number is given twice.
        tables = (
            "jobs",
            "job_records",
            "job_labels",
            "event_blocks WHERE length(payload) > 0",
            "attempts",
            "artifacts",
        )
        assert [database.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0] for table in tables] == [0] * 6


async def test_a_job_that_runs_is_deleted_by_force_alone_and_leaves_no_process(tmp_path):
    async with trainer(tmp_path, {"steps": 500, "delay": 0.02, "deaf": True}) as talk:
        job = await talk.train()
        await talk.until(job.name, lambda event: event.kind == event_pb2.EVENT_KIND_STEP_METRICS)
        code, reason, _, violations = await refused(delete(talk, job.name))
        assert (code, reason, violations[0].subject) == ("FAILED_PRECONDITION", "JOB_NOT_ENDED", job.name)
        assert await delete(talk, job.name, force=True) > 0
        assert not (tmp_path / "data/jobs" / job.uid).exists()
        assert (await refused(delete(talk, job.name)))[1] == "JOB_NOT_FOUND"
        waiting = await talk.train(suspended=True)
        assert (await refused(delete(talk, waiting.name)))[1] == "JOB_NOT_ENDED"
        await delete(talk, waiting.name, force=True)
        assert (await refused(talk.stub.GetJob(trainer_pb2.GetJobRequest(name=waiting.name))))[1] == "JOB_NOT_FOUND"


async def test_what_another_job_or_a_sweep_uses_is_kept_and_its_lineage_stays_readable(tmp_path):
    async with trainer(tmp_path, SCRIPT) as talk:
        dataset = (await talk.upload(jsonl(ROWS))).name
        parent = await ended(talk, dataset=dataset)
        task = start_from(f"{parent.name}/artifacts/adapter")
        child = await talk.train(dataset=dataset, task=task, suspended=True)
        code, reason, info, violations = await refused(delete(talk, parent.name, force=True))
        assert (code, reason, info.metadata["users"]) == ("FAILED_PRECONDITION", "JOB_IN_USE", child.name)
        assert f"starts from {parent.name}/artifacts/adapter" in violations[0].description
        await talk.cancel(child.name)
        await delete(talk, parent.name)
        kept = await talk.job(child.name)
        assert [each.job for each in kept.lineage.parents] == [parent.name]
        again = await refused(talk.train(dataset=dataset, task=task))
        assert again[:2] == ("NOT_FOUND", "JOB_NOT_FOUND")
        parameter = sweep_pb2.SweepParameter(field_path="lora.rank")
        parameter.values.values.add(number=4)
        parameter.values.values.add(number=8)
        swept = sweep_pb2.SweepTemplate(job=job_request(dataset), parameters=[parameter], max_parallel=1)
        (tmp_path / "script.json").write_text(json.dumps({"steps": 500, "delay": 0.02}))
        sweep = (await talk.stub.CreateSweep(sweep_pb2.CreateSweepRequest(sweep=swept))).sweep
        while not sweep.trials[0].job:
            asked = sweep_pb2.GetSweepRequest(name=sweep.name, known_update=sweep.update_time, wait_seconds=5)
            sweep = (await talk.stub.GetSweep(asked)).sweep
        assert (await refused(delete(talk, sweep.trials[0].job, force=True)))[1] == "JOB_IN_USE"


async def test_files_that_a_killed_service_left_are_removed_at_the_next_start(tmp_path):
    async with trainer(tmp_path, SCRIPT) as talk:
        job = await ended(talk)
    # As a kill leaves it between the commit and the removal of the files.
    with sqlite3.connect(tmp_path / "data/trainer.db") as database:
        for table, column in (("jobs", "uid"), ("job_records", "uid"), ("event_blocks", "job_uid")):
            database.execute(f"DELETE FROM {table} WHERE {column} = ?", (job.uid,))
        database.execute("INSERT INTO removed_jobs VALUES (?, 0, 'default', 'EXPIRED', 1, 5, 1)", (job.uid,))
    folder = tmp_path / "data/jobs" / job.uid
    assert folder.is_dir()
    async with trainer(tmp_path, SCRIPT) as talk:
        await talk.application._retention.sweep()
        assert not folder.exists()
        code, reason, info, _ = await refused(talk.stub.GetJob(trainer_pb2.GetJobRequest(name=job.name)))
        assert (code, reason, info.metadata["expire_time"]) == (
            "NOT_FOUND",
            "JOB_EXPIRED",
            "1970-01-01T00:00:00.000001Z",
        )
        other = trainer_pb2.GetJobRequest(name=f"projects/other/jobs/{job.uid}")
        assert (await refused(talk.stub.GetJob(other)))[1] == "JOB_NOT_FOUND"


async def test_the_command_deletes_what_it_is_told_and_asks_before(tmp_path, monkeypatch, capsys):
    async with trainer(tmp_path, SCRIPT) as talk:
        monkeypatch.setenv("FINETREE_TRAINER_ADDRESS", talk.address)

        async def run(*words: str) -> tuple[int, str, str]:
            code = await asyncio.to_thread(command.run, ["jobs", "delete", *words])
            return code, *capsys.readouterr()

        first, second = await ended(talk), await ended(talk)
        with sqlite3.connect(tmp_path / "data/trainer.db") as database:
            long_ago = "UPDATE jobs SET end_time = end_time - 31 * 86400000000 WHERE uid = ?"
            database.execute(long_ago, (first.uid,))
        assert (await run())[0] == 2
        code, _, err = await run(first.uid)
        assert (code, "--yes" in err) == (2, True)
        code, out, _ = await run("--older-than", "30d", "--dry-run", "--json")
        assert (code, [each["name"] for each in json.loads(out)["deleted"]]) == (0, [first.name])
        assert (await run("--failed", "--yes"))[0] == 0
        assert (await run("--older-than", "60d", "--yes"))[0] == 0
        code, out, err = await run(first.uid, "--yes")
        assert (code, out.split()[0], out.split()[-1]) == (0, first.uid, "deleted")
        code, out, err = await run(first.uid, second.uid, "--yes", "--json")
        told = json.loads(out)
        assert (code, told["refused"][0]["reason"], told["deleted"][0]["name"]) == (4, "JOB_NOT_FOUND", second.uid)
