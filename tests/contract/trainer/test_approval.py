# SPDX-License-Identifier: Apache-2.0
"""A job runs the plan that was approved, or is refused with every field that differs."""

import grpc
import pytest
from finetree_api.trainer.v1 import job_pb2, trainer_pb2
from finetree_api.types.v1 import run_spec_pb2
from finetree_runtime.runspec.digest import plan_digest
from finetree_trainer.estimator import RemoteEstimator
from trainer_harness import ROWS, FixedEstimator, job_request, jsonl, refusal, trainer


async def approve(talk, dataset, **fields) -> run_spec_pb2.Plan:  # noqa: ANN003 - fields of the template
    request = trainer_pb2.ValidateJobRequest(job=job_request(dataset, **fields))
    return (await talk.stub.ValidateJob(request)).plan


async def refused(talk, request) -> tuple:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await talk.stub.CreateJob(trainer_pb2.CreateJobRequest(job=request))
    return refusal(error.value)


async def test_an_approved_plan_runs_and_stays_with_the_job(tmp_path, serve):
    async with serve(tmp_path) as talk:
        dataset = (await talk.upload(jsonl(ROWS))).name
        plan = await approve(talk, dataset)
        # The short request, and the plan's own resolved spec.
        for spec in (run_spec_pb2.RunSpec(), plan.spec):
            job = await talk.train(dataset=dataset, task=job_pb2.TrainTask(spec=spec, approved_plan=plan))
            assert job.plan_digest == plan.digest
            assert job.train.approved_plan == plan


async def test_what_only_this_server_can_fill_in_is_no_drift(tmp_path, serve):
    """EstimateRun knows neither how a dataset is read nor this processor: a plan that it returns leaves them open."""
    async with serve(tmp_path) as talk:
        dataset = (await talk.upload(jsonl(ROWS))).name
        plan = await approve(talk, dataset)
        assert plan.spec.hardware.cpu.cores
        plan.spec.hardware.cpu.Clear()
        plan.spec.hardware.cpu.SetInParent()
        plan.spec.dataset.ClearField("reading")
        plan.digest = plan_digest(plan.spec, plan.dataset_profile, plan.revision)
        job = await talk.train(dataset=dataset, task=job_pb2.TrainTask(approved_plan=plan))
        assert job.train.spec.hardware.cpu.cores
        assert job.plan_digest == plan.digest
        # What was said stays binding.
        plan.spec.hardware.cpu.cores = job.train.spec.hardware.cpu.cores + 1
        plan.digest = plan_digest(plan.spec, plan.dataset_profile, plan.revision)
        _, reason, _, violations = await refused(talk, job_request(dataset, task=job_pb2.TrainTask(approved_plan=plan)))
        assert reason == "PLAN_DRIFT"
        assert [violation.subject for violation in violations] == ["job.train.spec.hardware.cpu.cores"]


async def test_a_drifted_plan_is_refused_with_each_setting_that_differs(tmp_path, serve):
    async with serve(tmp_path) as talk:
        dataset = (await talk.upload(jsonl(ROWS))).name
        plan = await approve(talk, dataset)
        request = job_request(dataset, task=job_pb2.TrainTask(approved_plan=plan))
        request.train.spec.lora.rank = 16
        request.train.spec.training.seed = 7
        code, reason, info, violations = await refused(talk, request)
        assert (code, reason) == ("FAILED_PRECONDITION", "PLAN_DRIFT")
        assert info.metadata["approved"] == plan.digest
        found = {violation.subject: violation.description for violation in violations}
        assert found == {
            "job.train.spec.lora.rank": "approved 8, now 16",
            "job.train.spec.lora.alpha": "approved 16.0, now 32.0",  # its default follows the rank
            "job.train.spec.training.seed": "approved 0, now 7",
        }
        assert {violation.type for violation in violations} == {"PLAN_DRIFT"}


async def test_other_data_and_other_revisions_are_drift_too(tmp_path):
    estimator = FixedEstimator()
    async with trainer(tmp_path, estimator=estimator) as talk:
        (tmp_path / "rows" / "train.jsonl").write_bytes(jsonl(ROWS))
        request = job_request("")
        request.train.spec.dataset.path = "train.jsonl"
        answer = await talk.stub.ValidateJob(trainer_pb2.ValidateJobRequest(job=request))
        request.train.approved_plan.CopyFrom(answer.plan)
        (tmp_path / "rows" / "train.jsonl").write_bytes(jsonl(ROWS[:10]))
        estimator.revision = "engine-2"
        _, reason, _, violations = await refused(talk, request)
        assert reason == "PLAN_DRIFT"
        subjects = {violation.subject for violation in violations}
        assert "job.train.approved_plan.dataset_profile.examples" in subjects
        assert "job.train.approved_plan.revision.engine.id" in subjects


async def test_an_approved_plan_waits_for_the_estimator(tmp_path):
    async with trainer(tmp_path) as talk:
        dataset = (await talk.upload(jsonl(ROWS))).name
        plan = await approve(talk, dataset)
    async with trainer(tmp_path, estimator=RemoteEstimator("127.0.0.1:1")) as talk:
        request = job_request(dataset, task=job_pb2.TrainTask(approved_plan=plan))
        _, reason, _, violations = await refused(talk, request)
        assert reason == "PLAN_DRIFT"
        assert [violation.subject for violation in violations] == ["job.train.approved_plan.revision.engine.id"]


async def test_a_digest_of_another_plan_is_no_approval(tmp_path, serve):
    async with serve(tmp_path) as talk:
        dataset = (await talk.upload(jsonl(ROWS))).name
        plan = await approve(talk, dataset)
        plan.digest = f"sha256:{'0' * 64}"
        request = job_request(dataset, task=job_pb2.TrainTask(approved_plan=plan))
        code, reason, _, violations = await refused(talk, request)
        assert (code, reason) == ("INVALID_ARGUMENT", "INVALID_REQUEST")
        assert [violation.field for violation in violations] == ["job.train.approved_plan.digest"]


async def test_measuring_the_machine_again_voids_no_approval(tmp_path):
    settings = {"prewarm": True}
    async with trainer(tmp_path, {"profile": 1e12}, **settings) as talk:
        dataset = (await talk.upload(jsonl(ROWS))).name
        plan = await approve(talk, dataset)
    async with trainer(tmp_path, {"profile": 5e12}, **settings) as talk:
        await talk.train(dataset=dataset, task=job_pb2.TrainTask(spec=plan.spec, approved_plan=plan))
