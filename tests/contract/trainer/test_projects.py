# SPDX-License-Identifier: Apache-2.0
"""A job and a dataset exist in the project of their name alone: for each rpc of the contract that names one."""

import contextlib

import grpc
from finetree_api.trainer.v1 import (
    artifact_pb2,
    capacity_pb2,
    checkpoint_pb2,
    comparison_pb2,
    dataset_pb2,
    event_log_pb2,
    job_log_pb2,
    lifecycle_pb2,
    metrics_pb2,
    retention_pb2,
    serving_pb2,
    sweep_pb2,
    trainer_pb2,
    trainer_pb2_grpc,
    waiting_pb2,
)
from finetree_api.types.v1 import weights_pb2
from finetree_runtime.server.access import changes
from finetree_runtime.server.access.roles import Grants, Role
from finetree_runtime.server.access.table import Granted
from trainer_harness import ROWS, Talker, bearer_channel, job_request, jsonl, refusal, trainer

METHODS = trainer_pb2.DESCRIPTOR.services_by_name["TrainerService"].methods_by_name
WITHOUT = {
    *("CreateDataset", "ListDatasets", "CreateJob", "ListJobs", "ValidateJob"),
    *("CreateSweep", "ListSweeps", "ValidateSweep"),
    "WatchJobs",
    *("ListBaseModels", "GetBaseModel", "DeleteBaseModel", "GetCapacity", "GetServerInfo", "GetStorage", "GetLimits"),
}
"""Rpcs that name a project, or what belongs to none."""
TARGET = serving_pb2.ServeTarget(name="theirs", weights=weights_pb2.TrainedWeights(path="adapter"))
JOBS = {
    "GetJob": lambda job: trainer_pb2.GetJobRequest(name=job),
    "UpdateJob": lambda job: trainer_pb2.UpdateJobRequest(name=job, labels={"team": "x"}, request_id="update"),
    "CancelJob": lambda job: trainer_pb2.CancelJobRequest(name=job, request_id="stop"),
    "PauseJob": lambda job: lifecycle_pb2.PauseJobRequest(name=job, request_id="pause"),
    "ResumeJob": lambda job: lifecycle_pb2.ResumeJobRequest(name=job, request_id="resume"),
    "MoveJob": lambda job: lifecycle_pb2.MoveJobRequest(name=job, request_id="move"),
    "WaitJob": lambda job: waiting_pb2.WaitJobRequest(name=job),
    "DeleteJob": lambda job: retention_pb2.DeleteJobRequest(name=job, validate_only=True),
    "WatchJob": lambda job: event_log_pb2.WatchJobRequest(name=job),
    "ListEvents": lambda job: event_log_pb2.ListEventsRequest(name=job),
    "QueryMetrics": lambda job: metrics_pb2.QueryMetricsRequest(name=job),
    "CompareJobs": lambda job: comparison_pb2.CompareJobsRequest(names=[job, job.rpartition("/")[2]]),
    "ReadJobLog": lambda job: job_log_pb2.ReadJobLogRequest(name=job),
    "ListJobLogs": lambda job: job_log_pb2.ListJobLogsRequest(parent=job),
    "ListArtifacts": lambda job: artifact_pb2.ListArtifactsRequest(parent=job),
    "ListCheckpoints": lambda job: checkpoint_pb2.ListCheckpointsRequest(parent=job),
    "GetCheckpoint": lambda job: checkpoint_pb2.GetCheckpointRequest(name=f"{job}/checkpoints/2"),
    "UpdateCheckpoint": lambda job: checkpoint_pb2.UpdateCheckpointRequest(name=f"{job}/checkpoints/2", pinned=True),
    "DeleteCheckpoint": lambda job: checkpoint_pb2.DeleteCheckpointRequest(name=f"{job}/checkpoints/2"),
    "DownloadArtifact": lambda job: artifact_pb2.DownloadArtifactRequest(
        name=f"{job}/artifacts/adapter", path="weights.bin"
    ),
    "GetArtifactLink": lambda job: artifact_pb2.GetArtifactLinkRequest(
        name=f"{job}/artifacts/adapter", path="weights.bin"
    ),
    "PreviewDataset": lambda job: dataset_pb2.PreviewDatasetRequest(job=job),
    "Generate": lambda job: serving_pb2.GenerateRequest(job=job, prompt="who?"),
    "LoadTarget": lambda job: serving_pb2.LoadTargetRequest(job=job, target=TARGET, request_id="load"),
    "UnloadTarget": lambda job: serving_pb2.UnloadTargetRequest(job=job, target="theirs", request_id="unload"),
    "ListTargets": lambda job: serving_pb2.ListTargetsRequest(job=job),
}
DATASETS = {
    "GetDataset": lambda dataset: dataset_pb2.GetDatasetRequest(name=dataset),
    "WriteDataset": lambda dataset: dataset_pb2.WriteDatasetRequest(name=dataset),
    "DeleteDataset": lambda dataset: dataset_pb2.DeleteDatasetRequest(name=dataset, request_id="delete"),
    "PreviewDataset": lambda dataset: dataset_pb2.PreviewDatasetRequest(dataset=dataset),
}
SWEEPS = {
    "GetSweep": lambda sweep: sweep_pb2.GetSweepRequest(name=sweep),
    "CancelSweep": lambda sweep: sweep_pb2.CancelSweepRequest(name=sweep, request_id="stop-all"),
}


async def answer(talk, method, request):
    """The refusal of a call; None where it is answered."""
    call = getattr(talk.stub, method)
    sent = iter([request]) if METHODS[method].client_streaming else request
    try:
        if METHODS[method].server_streaming:
            async for _ in call(sent):
                break
        else:
            await call(sent)
    except grpc.aio.AioRpcError as error:
        return refusal(error)
    return None


def test_every_rpc_is_looked_at():
    assert {*JOBS, *DATASETS, *SWEEPS, *WITHOUT} == set(METHODS)


async def test_what_another_project_holds_is_neither_shown_nor_changed_nor_told_from_what_does_not_exist(tmp_path):
    async with trainer(tmp_path, {"steps": 3, "artifact": True}) as talk:
        job = await talk.train()
        await talk.events(job.name)
        content = jsonl([*ROWS, ROWS[0]])
        dataset = (await talk.write((await talk.create_dataset(content)).name, [(0, content)])).name
        parameter = sweep_pb2.SweepParameter(field_path="lora.rank")
        parameter.values.values.add(number=4)
        swept = sweep_pb2.SweepTemplate(job=job_request(dataset), parameters=[parameter])
        sweep = (await talk.stub.CreateSweep(sweep_pb2.CreateSweepRequest(sweep=swept))).sweep.name
        for requests, name in ((JOBS, job.name), (DATASETS, dataset), (SWEEPS, sweep)):
            other = name.replace("projects/default/", "projects/other/")
            missing = other[:-4] + "0000"
            for method, request in requests.items():
                refused = await answer(talk, method, request(other))
                assert refused is not None, method
                assert refused[0] == "NOT_FOUND", method
                unknown = await answer(talk, method, request(missing))
                assert refused[:2] == unknown[:2], method
        for method, request in JOBS.items():
            refused = await answer(talk, method, request(job.name))
            lacks = method == "PreviewDataset" or (refused is not None and refused[1] == "CHECKPOINT_NOT_FOUND")
            assert refused is None or refused[0] != "NOT_FOUND" or lacks, (method, refused)
        theirs = job_request(dataset.replace("projects/default/", "projects/other/"))
        for request in (
            trainer_pb2.CreateJobRequest(job=theirs, request_id="stolen"),
            trainer_pb2.CreateJobRequest(parent="projects/other", job=job_request(dataset), request_id="taken"),
        ):
            assert (await answer(talk, "CreateJob", request))[:2] == ("NOT_FOUND", "DATASET_NOT_FOUND")
        assert (await talk.stub.GetDataset(dataset_pb2.GetDatasetRequest(name=dataset))).dataset.name == dataset


@contextlib.asynccontextmanager
async def principals(address, folder, **roles: Role):
    """A talker of each principal, which has a role in the project of its name."""
    async with contextlib.AsyncExitStack() as channels:
        found = {}
        for project, role in roles.items():
            _, token = changes.create_token(folder, project, Granted(project, Grants({project: role})), expires=None)
            channel = await channels.enter_async_context(bearer_channel(address, token))
            found[project] = Talker(trainer_pb2_grpc.TrainerServiceStub(channel), channel=channel)
        yield found


async def test_a_token_of_another_project_gets_one_answer_whether_a_name_exists_or_not(tmp_path):
    access = tmp_path / "access"
    changes.create_token(access, "first", Granted("ours", Grants()), expires=None)
    script = {"steps": 3, "artifact": True}
    async with (
        trainer(tmp_path, script, access_dir=access) as nobody,
        principals(nobody.address, access, ours=Role.ADMIN, theirs=Role.ADMIN) as talks,
    ):
        ours, theirs = talks["ours"], talks["theirs"]
        job = await ours.train()
        await ours.events(job.name)
        content = jsonl([*ROWS, ROWS[0]])
        dataset = (await ours.upload(content)).name
        assert job.name.startswith("projects/ours/jobs/")
        parameter = sweep_pb2.SweepParameter(field_path="lora.rank")
        parameter.values.values.add(number=4)
        swept = sweep_pb2.SweepTemplate(job=job_request(dataset), parameters=[parameter])
        sweep = (await ours.stub.CreateSweep(sweep_pb2.CreateSweepRequest(sweep=swept))).sweep.name
        for requests, name in ((JOBS, job.name), (DATASETS, dataset), (SWEEPS, sweep)):
            missing, short = name[:-4] + "0000", name.rpartition("/")[2]
            for method, request in requests.items():
                refused = await answer(theirs, method, request(name))
                assert refused[:2] == ("PERMISSION_DENIED", "ROLE_MISSING"), method
                assert refused[2].metadata["project"] == "ours", method
                assert refused == await answer(theirs, method, request(missing)), method
                if method != "CompareJobs":  # it takes no job twice
                    own = await answer(theirs, method, request(short))
                    assert own[0] == "NOT_FOUND", method
                    assert own[:2] == (await answer(theirs, method, request(short[:-4] + "0000")))[:2], method
        stolen = trainer_pb2.CreateJobRequest(job=job_request(dataset), request_id="stolen")
        assert (await answer(theirs, "CreateJob", stolen))[:2] == ("PERMISSION_DENIED", "ROLE_MISSING")
        assert (await ours.job(job.name)).name == job.name


async def test_lists_pages_and_cursors_are_of_ones_own_project(tmp_path):
    access = tmp_path / "access"
    changes.create_token(access, "first", Granted("ours", Grants()), expires=None)
    async with (
        trainer(tmp_path, {"steps": 1000, "delay": 0.05}, access_dir=access) as nobody,
        principals(nobody.address, access, ours=Role.TRAIN, theirs=Role.TRAIN) as talks,
    ):
        ours, theirs = talks["ours"], talks["theirs"]
        jobs = [await ours.train(request_id=f"job-{n}") for n in range(2)]
        page = await ours.stub.ListJobs(trainer_pb2.ListJobsRequest(page_size=1))
        assert page.jobs[0].name == jobs[1].name
        assert (await theirs.stub.ListJobs(trainer_pb2.ListJobsRequest())).jobs == []
        taken = trainer_pb2.ListJobsRequest(page_size=1, page_token=page.next_page_token)
        assert (await answer(theirs, "ListJobs", taken))[1] == "PAGE_TOKEN_INVALID"
        watch = ours.stub.WatchJobs(waiting_pb2.WatchJobsRequest())
        cursor = (await watch.read()).cursor
        watch.cancel()
        assert (await answer(theirs, "WatchJobs", waiting_pb2.WatchJobsRequest(cursor=cursor)))[1] == "CURSOR_INVALID"
        # The same request_id of another project makes a job of its own.
        assert (await theirs.train(request_id="job-0")).name.startswith("projects/theirs/jobs/")
        assert await running_jobs(ours) == {jobs[0].name}
        assert await running_jobs(theirs) == {"-"}
        for job in jobs:
            await ours.cancel(job.name)


async def running_jobs(talk):
    """Names of the jobs that hold a device, as a caller sees them, once there is one."""
    while True:
        capacity = await talk.stub.GetCapacity(capacity_pb2.GetCapacityRequest())
        devices = [device for node in capacity.nodes for device in node.devices]
        found = {name for device in devices for name in device.running_jobs}
        if found:
            return found | {each.job for device in devices for each in device.memory.jobs}
