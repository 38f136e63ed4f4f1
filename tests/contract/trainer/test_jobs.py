# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ANN202 - inner functions say what they return by their names
import grpc
import pytest
from finetree_api.trainer.v1 import artifact_pb2, capacity_pb2, event_pb2, job_pb2, trainer_pb2
from finetree_api.types.v1 import check_pb2, method_pb2, serving_pb2, training_pb2
from google.rpc import error_details_pb2
from google.type import money_pb2
from trainer_harness import (
    ROWS,
    FixedEstimator,
    assert_whole,
    job_request,
    jsonl,
    refusal,
    states,
    steps,
    trainer,
    write_script,
)


async def test_a_job_is_created_run_and_told_from_its_first_to_its_last_event(tmp_path, serve):
    async with serve(tmp_path, {"steps": 5}) as talk:
        job = await talk.train(display_name="first")
        assert job.state == job_pb2.JOB_STATE_QUEUED
        events = await talk.events(job.name)
        assert_whole(events)
        assert states(events) == ["QUEUED", "PREPARING", "RUNNING", "SUCCEEDED"]
        assert steps(events) == [(1, step) for step in range(1, 6)]
        done = await talk.job(job.name)
        assert done.state == job_pb2.JOB_STATE_SUCCEEDED
        assert done.progress.fraction == 1.0
        losses = [event.step_metrics.loss for event in events if event.HasField("step_metrics")]
        assert done.metrics.loss == losses[-1] < losses[0]
        assert done.last_seq == len(events)
        assert done.attempt == 1
        assert done.end_time.ToMicroseconds() >= done.start_time.ToMicroseconds() >= done.create_time.ToMicroseconds()
        assert done.allowed_actions[0] == job_pb2.JOB_ACTION_DOWNLOAD


async def test_a_job_keeps_what_was_resolved_estimated_and_given(tmp_path):
    estimator = FixedEstimator()
    async with trainer(tmp_path, estimator=estimator) as talk:
        recommendation = job_pb2.JobRecommendation(method=method_pb2.METHOD_LORA, headline="LoRA")
        job = await talk.train(labels={"team": "x"}, task=job_pb2.TrainTask(recommendation=recommendation))
        kept = await talk.job(job.name)
        spec = kept.train.spec
        assert spec.lora.rank == 8
        assert spec.training.WhichOneof("length")
        assert spec.hardware.count == 1
        assert {source.field_path for source in kept.train.setting_sources} >= {"lora.rank", "training.learning_rate"}
        assert kept.estimate.total_seconds.expected == 60
        assert kept.estimate.revision.engine.id == "engine-1"
        assert kept.plan_digest.startswith("sha256:")
        assert kept.train.recommendation == recommendation
        assert kept.created_by == "local"
        assert estimator.asked[0].spec == spec
        assert (kept.estimate.cost.amount.expected, kept.estimate.cost.currency_code) == (0.1, "EUR")


async def test_the_same_request_makes_one_job_for_ever(tmp_path, serve):
    async with serve(tmp_path) as talk:
        dataset = (await talk.upload(jsonl(ROWS))).name
        first = await talk.train(dataset=dataset, request_id="once", labels={"b": "1", "a": "2"})
        await talk.events(first.name)
        again = await talk.train(dataset=dataset, request_id="once", labels={"a": "2", "b": "1"})
        assert again.name == first.name
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await talk.train(dataset=dataset, request_id="once", display_name="another")
        code, reason, info, _ = refusal(error.value)
        assert (code, reason, info.domain) == ("ALREADY_EXISTS", "REQUEST_ID_REUSED", "finetree")
        jobs = (await talk.stub.ListJobs(trainer_pb2.ListJobsRequest())).jobs
        assert [job.name for job in jobs] == [first.name]


async def test_two_requests_at_once_with_one_request_id_make_one_job(tmp_path, serve):
    import asyncio

    async with serve(tmp_path, {"delay": 0.5}) as talk:
        dataset = (await talk.upload(jsonl(ROWS))).name
        made = await asyncio.gather(*(talk.train(dataset=dataset, request_id="same") for _ in range(8)))
        assert len({job.name for job in made}) == 1


async def test_a_job_is_validated_without_being_created(tmp_path, serve):
    async with serve(tmp_path) as talk:
        dataset = (await talk.upload(jsonl(ROWS))).name
        answer = await talk.stub.ValidateJob(trainer_pb2.ValidateJobRequest(job=job_request(dataset)))
        assert answer.train.spec.lora.rank == 8
        assert answer.checks[0].rule_id == "memory.fits_device"
        assert answer.checks[0].unit == check_pb2.CHECK_UNIT_BYTES
        assert answer.plan.spec == answer.train.spec
        assert answer.plan.digest.startswith("sha256:")
        assert not (await talk.stub.ListJobs(trainer_pb2.ListJobsRequest())).jobs


async def test_a_job_runs_without_an_estimate_while_the_estimator_is_down(tmp_path):
    from finetree_trainer.estimator import RemoteEstimator

    async with trainer(tmp_path, estimator=RemoteEstimator("127.0.0.1:1")) as talk:
        dataset = (await talk.upload(jsonl(ROWS))).name
        answer = await talk.stub.ValidateJob(trainer_pb2.ValidateJobRequest(job=job_request(dataset)))
        assert not answer.HasField("estimate")
        assert not answer.HasField("plan")
        assert [remark.code for remark in answer.remarks] == ["ESTIMATE_UNAVAILABLE"]
        job = await talk.train(dataset=dataset)
        assert_whole(await talk.events(job.name))
        kept = await talk.job(job.name)
        assert not kept.HasField("estimate")
        assert not kept.plan_digest


async def test_jobs_are_listed_newest_first_in_pages_by_state_and_label(tmp_path, serve):
    async with serve(tmp_path) as talk:
        dataset = (await talk.upload(jsonl(ROWS))).name
        made = [(await talk.train(dataset=dataset, suspended=True, labels={"n": str(n % 2)})).name for n in range(5)]
        first = await talk.stub.ListJobs(trainer_pb2.ListJobsRequest(page_size=3))
        rest = await talk.stub.ListJobs(trainer_pb2.ListJobsRequest(page_size=3, page_token=first.next_page_token))
        assert [job.name for job in (*first.jobs, *rest.jobs)] == made[::-1]
        assert not rest.next_page_token
        assert not first.jobs[0].train.setting_sources
        even = await talk.stub.ListJobs(trainer_pb2.ListJobsRequest(labels={"n": "0"}))
        assert [job.name for job in even.jobs] == [made[4], made[2], made[0]]
        preparing = await talk.prepare(dataset=dataset)
        answer = await talk.stub.ListJobs(trainer_pb2.ListJobsRequest(tasks=[job_pb2.TASK_KIND_PREPARE]))
        assert [job.name for job in answer.jobs] == [preparing.name]
        running = trainer_pb2.ListJobsRequest(states=[job_pb2.JOB_STATE_RUNNING], labels={"n": "0"})
        assert not (await talk.stub.ListJobs(running)).jobs
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await talk.stub.ListJobs(trainer_pb2.ListJobsRequest(labels={"n": "0"}, page_token=first.next_page_token))
        assert refusal(error.value)[1] == "PAGE_TOKEN_INVALID"


async def test_a_suspended_job_waits_and_says_so(tmp_path, serve):
    async with serve(tmp_path) as talk:
        job = await talk.train(suspended=True)
        assert (await talk.job(job.name)).blocked_by.startswith("suspended")


async def test_jobs_wait_in_order_and_know_their_place(tmp_path):
    async with trainer(tmp_path, {"delay": 0.05, "steps": 60}) as talk:
        dataset = (await talk.upload(jsonl(ROWS))).name
        jobs = [await talk.train(dataset=dataset) for _ in range(3)]
        await talk.until(jobs[0].name, lambda e: e.kind == event_pb2.EVENT_KIND_STEP_METRICS)
        waiting = [await talk.job(job.name) for job in jobs[1:]]
        assert [job.queue_position for job in waiting] == [1, 2]
        assert "1 running on cpu" in waiting[0].blocked_by
        write_script(tmp_path, {"steps": 6})
        logs = [await talk.events(job.name) for job in jobs]
        for log in logs:
            assert_whole(log)
        starts = [next(e.event_time.ToMicroseconds() for e in log if e.attempt == 1) for log in logs]
        ends = [log[-1].event_time.ToMicroseconds() for log in logs]
        assert starts == sorted(starts)
        assert all(start >= end for start, end in zip(starts[1:], ends[:-1], strict=True))
        places = [e.queue_changed.position for e in logs[2] if e.kind == event_pb2.EVENT_KIND_QUEUE_CHANGED]
        assert places[-1] == 1


async def test_a_failed_task_says_whose_fault_it_was_and_what_to_do(tmp_path, serve):
    async with serve(tmp_path, {"outcome": "failed"}) as talk:
        job = await talk.train()
        events = await talk.events(job.name)
        assert_whole(events)
        terminal = events[-1].terminal
        assert terminal.state == job_pb2.JOB_STATE_FAILED
        assert terminal.failure_category == job_pb2.FAILURE_CATEGORY_USER
        info = error_details_pb2.ErrorInfo()
        terminal.error.details[0].Unpack(info)
        assert info.reason == "DIVERGED"
        failed = await talk.job(job.name)
        assert failed.state_reason.code == "DIVERGED"
        assert failed.state_reason.remedy == "Lower the learning rate."
        assert failed.error.message == "The loss was not finite."


async def test_a_model_is_prepared_by_a_job_of_its_own(tmp_path, serve):
    phases = [job_pb2.JOB_PHASE_CONVERT_MODEL]
    async with serve(tmp_path, {"steps": 0, "phases": phases}) as talk:
        request = job_pb2.JobTemplate()
        request.prepare.model.name = "smollm2-135m-instruct"
        job = (await talk.stub.CreateJob(trainer_pb2.CreateJobRequest(job=request))).job
        events = await talk.events(job.name)
        assert_whole(events)
        assert states(events) == ["QUEUED", "PREPARING", "SUCCEEDED"]


async def test_an_artifact_is_listed_and_downloaded_in_ranges(tmp_path, serve):
    content = bytes(range(256)) * 4096
    async with serve(tmp_path, {"artifact": True}) as talk:
        job = await talk.train()
        await talk.events(job.name)
        listed = (await talk.stub.ListArtifacts(artifact_pb2.ListArtifactsRequest(parent=job.name))).artifacts
        assert [artifact.name for artifact in listed] == [f"{job.name}/artifacts/adapter"]
        assert listed[0].attempt == 1
        # What servers do with it follows from the kind of the artifact, and the run that made it.
        served = {check.server: check.verdict for check in listed[0].serving}
        assert len(served) == len(serving_pb2.ServingTarget.values()) - 1
        assert served[serving_pb2.SERVING_TARGET_VLLM] == serving_pb2.SERVING_VERDICT_NOT

        async def download(path="weights.bin", offset=0, limit=0):
            request = artifact_pb2.DownloadArtifactRequest(name=listed[0].name, path=path, offset=offset, limit=limit)
            pieces = [piece async for piece in talk.stub.DownloadArtifact(request)]
            assert pieces[0].file.size_bytes == len(content)
            return b"".join(piece.chunk for piece in pieces)

        assert await download() == content
        assert await download(offset=1000, limit=300_000) == content[1000:301_000]
        assert await download(offset=len(content)) == b""
        for path, offset, wanted in (
            ("../../../script.json", 0, ("NOT_FOUND", "FILE_NOT_FOUND")),
            ("nothing", 0, ("NOT_FOUND", "FILE_NOT_FOUND")),
            ("weights.bin", len(content) + 1, ("OUT_OF_RANGE", "OFFSET_BEYOND_END")),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await download(path, offset)
            assert refusal(error.value)[:2] == wanted
        nothing = artifact_pb2.DownloadArtifactRequest(name=f"{job.name}/artifacts/nothing", path="weights.bin")
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await talk.stub.DownloadArtifact(nothing).read()
        assert refusal(error.value)[:2] == ("NOT_FOUND", "ARTIFACT_NOT_FOUND")


async def test_capacity_shows_devices_slots_and_the_measured_rate(tmp_path):

    async with trainer(tmp_path, {"profile": 2.5e12, "delay": 0.05, "steps": 10**6}, cpu_slots=2, prewarm=True) as talk:
        capacity = await talk.measured()
        (node,) = capacity.nodes
        assert node.name
        assert node.matrix_rates.bf16_flops_per_second == 2.5e12
        cpu = node.devices[-1]
        assert cpu.id == "cpu"
        assert (cpu.slots, cpu.free_slots) == (2, 2)
        assert cpu.hardware.cpu.cores >= 1
        assert 0 < cpu.free_bytes <= cpu.total_bytes
        assert capacity.limits["max_upload_bytes"] > 0
        job = await talk.train()
        await talk.until(job.name, lambda e: e.kind == event_pb2.EVENT_KIND_STEP_METRICS)
        (node,) = (await talk.stub.GetCapacity(capacity_pb2.GetCapacityRequest())).nodes
        cpu = node.devices[-1]
        assert cpu.free_slots == 1
        assert list(cpu.running_jobs) == [job.name]
        running = await talk.job(job.name)
        assert [(each.node, list(each.device_ids)) for each in running.placements] == [(node.name, ["cpu"])]
        await talk.cancel(job.name)
        await talk.events(job.name)
        assert not (await talk.job(job.name)).placements


async def test_nobody_waits_for_a_rate_that_nobody_measures(tmp_path):
    from google.protobuf.duration_pb2 import Duration

    async with trainer(tmp_path, prewarm=False) as talk:
        request = capacity_pb2.GetCapacityRequest(wait_for_rate=Duration(seconds=30))
        capacity = await talk.stub.GetCapacity(request, timeout=28)  # less than it would wait
        assert not capacity.nodes[0].HasField("matrix_rates")
        assert capacity.nodes[0].devices


async def test_the_measured_rate_is_kept_over_a_restart(tmp_path):

    async with trainer(tmp_path, {"profile": 1.5e12}, prewarm=True) as talk:
        await talk.measured()
    async with trainer(tmp_path) as talk:
        capacity = await talk.stub.GetCapacity(capacity_pb2.GetCapacityRequest())
        assert capacity.nodes[0].matrix_rates.bf16_flops_per_second == 1.5e12


async def test_the_server_says_what_it_is(tmp_path, serve):
    async with serve(tmp_path) as talk:
        info = (await talk.stub.GetServerInfo(trainer_pb2.GetServerInfoRequest())).server
        assert info.service == "finetree-trainer"
        assert "train.lora" in info.features


async def test_a_second_trainer_on_the_same_folder_is_refused(tmp_path):
    from finetree_runtime.config.settings import SettingsError

    async with trainer(tmp_path):
        with pytest.raises(SettingsError) as error:
            async with trainer(tmp_path):
                pass
        assert error.value.reason == "DATA_DIR_IN_USE"


async def test_a_limit_of_cost_is_in_the_currency_of_the_cost(tmp_path, serve):
    async with serve(tmp_path) as talk:
        request = job_request((await talk.upload(jsonl(ROWS))).name, suspended=True)
        request.train.spec.ownership.owned.price_per_kwh.MergeFrom(
            money_pb2.Money(currency_code="EUR", nanos=300_000_000)
        )
        request.limits.max_cost.MergeFrom(money_pb2.Money(currency_code="USD", units=5))
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await talk.stub.CreateJob(trainer_pb2.CreateJobRequest(job=request))
        code, reason, _, violations = refusal(error.value)
        assert (code, reason) == ("INVALID_ARGUMENT", "CURRENCY_MISMATCH")
        assert violations[0].field == "job.limits.max_cost.currency_code"
        request.limits.max_cost.currency_code = "EUR"
        made = (await talk.stub.CreateJob(trainer_pb2.CreateJobRequest(job=request))).job
        assert made.limits.max_cost == request.limits.max_cost


async def test_a_limit_of_a_cost_that_is_unknown_is_remarked(tmp_path):
    from finetree_trainer.estimator import RemoteEstimator

    async with trainer(tmp_path, estimator=RemoteEstimator("127.0.0.1:1")) as talk:
        limits = job_pb2.JobLimits(max_cost=money_pb2.Money(currency_code="EUR", units=5))
        request = job_request((await talk.upload(jsonl(ROWS))).name, limits=limits)
        answer = await talk.stub.ValidateJob(trainer_pb2.ValidateJobRequest(job=request))
        found = {remark.code: remark.field_path for remark in answer.remarks}
        assert found == {"ESTIMATE_UNAVAILABLE": "", "COST_UNKNOWN": "job.limits.max_cost"}


async def test_a_dataset_is_read_without_a_model(tmp_path, serve):
    async with serve(tmp_path, {"steps": 0}) as talk:
        job = await talk.prepare(dataset=(await talk.upload(jsonl(ROWS))).name, model="")
        assert (await talk.events(job.name))[-1].terminal.state == job_pb2.JOB_STATE_SUCCEEDED
        task = (await talk.job(job.name)).prepare
        assert (task.seed, task.split_fraction) == (0, 0.0)
        assert task.loss_tokens == training_pb2.LOSS_TOKENS_COMPLETIONS
        assert not job.HasField("base")


async def test_capacity_says_who_holds_slots_and_memory(tmp_path, serve):
    async with serve(tmp_path, {"steps": 1000, "delay": 0.02}) as talk:
        job = await talk.train()
        await talk.until(job.name, lambda e: e.kind == event_pb2.EVENT_KIND_STEP_METRICS)
        (node,) = (await talk.stub.GetCapacity(capacity_pb2.GetCapacityRequest())).nodes
        cpu = node.devices[-1]
        slots = [use for use in cpu.slot_uses if use.slot >= 0]
        assert [use.slot for use in slots] == list(range(cpu.slots))
        assert [use.job for use in slots if use.job] == list(cpu.running_jobs) == [job.name]
        (mine,), memory = cpu.memory.jobs, cpu.memory
        assert (mine.job, mine.promised_bytes > 0) == (job.name, True)
        assert (memory.total_bytes, memory.free_bytes) == (cpu.total_bytes, cpu.free_bytes)
        assert memory.used_by_us_bytes >= mine.used_bytes > 0
        left = memory.free_bytes - memory.promised_bytes - memory.reserve_bytes
        assert memory.available_bytes == max(0, left)
        assert node.processors.cores >= 1 or not node.HasField("processors")
        await talk.cancel(job.name)


async def test_capacity_says_what_is_trained(tmp_path, serve):
    from finetree_trainer.jobs.capabilities import CAPABILITIES

    async with serve(tmp_path) as talk:
        answer = await talk.stub.GetCapacity(capacity_pb2.GetCapacityRequest())
        wanted = capacity_pb2.TrainingCapabilities()
        wanted.CopyFrom(CAPABILITIES)
        # The fake suite has no model that could answer prompts, and says so by the list.
        wanted.tasks[:] = [task for task in wanted.tasks if task in answer.capabilities.tasks]
        assert {job_pb2.TASK_KIND_TRAIN, job_pb2.TASK_KIND_PREPARE} <= set(wanted.tasks)
        assert answer.capabilities == wanted


async def test_a_limit_of_time_ends_a_job_cleanly(tmp_path, serve):
    from google.protobuf.duration_pb2 import Duration

    limits = job_pb2.JobLimits(max_duration=Duration(seconds=1))
    async with serve(tmp_path, {"steps": 1000, "delay": 0.05}) as talk:
        job = await talk.train(limits=limits)
        events = await talk.events(job.name)
        assert_whole(events)
        assert events[-1].terminal.state == job_pb2.JOB_STATE_CANCELLED
        assert any("longest duration" in event.message for event in events)
