# SPDX-License-Identifier: Apache-2.0
"""Jobs that start from trained weights: located, checked, part of the plan, and in the lineage of what they make."""

import asyncio
import hashlib
import json
import sys
from pathlib import Path

import finetree
import grpc
import pytest
from finetree_api.trainer.v1 import artifact_pb2, checkpoint_pb2, job_pb2, trainer_pb2
from finetree_api.types.v1 import method_pb2, run_spec_pb2, training_data_pb2, weights_pb2
from finetree_cli import __main__ as command
from finetree_runtime.runspec.digest import plan_digest
from trainer_harness import ROWS, job_request, jsonl, refusal, trainer

sys.path.append(str(Path(__file__).parents[2] / "unit/data/weights"))
import weight_files  # a file of the unit tests

SCRIPT = {"steps": 6, "checkpoints": [2, 4, 6], "adapter": True}
Lora = method_pb2.Lora
RANK_2 = job_pb2.TrainTask(spec=run_spec_pb2.RunSpec(lora=Lora(rank=2)))


def on(lora: Lora | None = None, **source) -> job_pb2.TrainTask:  # noqa: ANN003 - a field of TrainedWeights
    spec = run_spec_pb2.RunSpec(lora=lora or Lora(), init_from=weights_pb2.TrainedWeights(**source))
    return job_pb2.TrainTask(spec=spec)


async def refused(call, request) -> tuple:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call(request)
    return refusal(error.value)


async def ended(talk, **fields) -> job_pb2.Job:  # noqa: ANN003 - fields of the template
    job = await talk.train(**fields)
    await talk.events(job.name)
    return await talk.job(job.name)


async def test_a_job_goes_on_from_an_artifact_with_its_settings_and_says_so(tmp_path):
    async with trainer(tmp_path, SCRIPT) as talk:
        dataset = (await talk.upload(jsonl(ROWS))).name
        parent = await ended(talk, dataset=dataset, task=RANK_2)
        name = f"{parent.name}/artifacts/adapter"
        job = await ended(talk, dataset=dataset, task=on(artifact=f"{parent.uid}/artifacts/adapter"))
        assert job.state == job_pb2.JOB_STATE_SUCCEEDED
        spec = job.train.spec
        assert (spec.lora.rank, spec.lora.alpha) == (2, 4)
        assert spec.init_from == weights_pb2.TrainedWeights(artifact=name, sha256="a" * 64)
        sources = {source.field_path: source.rule_id for source in job.train.setting_sources}
        assert (sources["lora.rank"], sources["training.seed"]) == ("init_from", "default.training.seed")
        # Lineage: the rows, the base, the weights, the programs; the artifact has what the job has.
        content = hashlib.sha256(jsonl(ROWS)).hexdigest()
        train = training_data_pb2.SPLIT_TRAIN
        for lineage in (job.lineage, (await artifacts(talk, job))[0].lineage):
            assert list(lineage.parents) == [artifact_pb2.LineageParent(name=name, sha256="a" * 64, job=parent.name)]
            assert list(lineage.datasets) == [artifact_pb2.LineageDataset(split=train, name=dataset, sha256=content)]
            assert (lineage.base.hub_id, len(lineage.base.fingerprint)) == ("acme/tiny", 64)
            assert lineage.plan_digest == job.plan_digest
            assert lineage.versions["finetree-trainer"]
        assert job.lineage.versions["torch"] == "9.9"
        assert "machine" not in job.lineage.versions
        assert not parent.lineage.parents


async def artifacts(talk, job) -> list[artifact_pb2.Artifact]:
    return list((await talk.stub.ListArtifacts(artifact_pb2.ListArtifactsRequest(parent=job.name))).artifacts)


async def test_a_plan_covers_the_content_of_the_weights(tmp_path):
    async with trainer(tmp_path, SCRIPT) as talk:
        dataset = (await talk.upload(jsonl(ROWS))).name
        folder = weight_files.peft_adapter(tmp_path / "models/mine")
        request = job_request(dataset, task=on(path="mine"))
        plan = (await talk.stub.ValidateJob(trainer_pb2.ValidateJobRequest(job=request))).plan
        assert plan.spec.init_from.sha256
        request.train.approved_plan.CopyFrom(plan)
        assert (await talk.stub.CreateJob(trainer_pb2.CreateJobRequest(job=request))).job.plan_digest == plan.digest
        # The name is the same, and other weights are behind it.
        (folder / "adapter_model.safetensors").write_bytes(
            weight_files.safetensors({weight_files.A: (2, 6), weight_files.B: (4, 2)}, fill=7)
        )
        _, reason, _, violations = await refused(talk.stub.CreateJob, trainer_pb2.CreateJobRequest(job=request))
        assert (reason, [each.subject for each in violations]) == ("PLAN_DRIFT", ["job.train.spec.init_from.sha256"])
        request.train.spec.init_from.sha256 = plan.spec.init_from.sha256
        code, reason, _, violations = await refused(talk.stub.CreateJob, trainer_pb2.CreateJobRequest(job=request))
        assert (code, reason) == ("FAILED_PRECONDITION", "WEIGHTS_CHANGED")
        # The estimator cannot know the hash: a plan of its own leaves it open.
        plan.spec.init_from.ClearField("sha256")
        plan.digest = plan_digest(plan.spec, plan.dataset_profile, plan.revision)
        request = job_request(dataset, task=on(path="mine"))
        request.train.approved_plan.CopyFrom(plan)
        assert (await talk.stub.CreateJob(trainer_pb2.CreateJobRequest(job=request))).job.plan_digest == plan.digest


async def test_weights_that_cannot_be_gone_on_from_are_refused_and_make_no_job(tmp_path):
    async with trainer(tmp_path, SCRIPT) as talk:
        dataset = (await talk.upload(jsonl(ROWS))).name
        parent = await ended(talk, dataset=dataset, task=RANK_2)
        weight_files.peft_adapter(tmp_path / "models/other", base_model_name_or_path="acme/other")
        weight_files.peft_adapter(tmp_path / "models/damaged")
        (tmp_path / "models/damaged/adapter_model.safetensors").write_bytes(b"cut off")
        pickled = weight_files.peft_adapter(tmp_path / "models/pickled")
        (pickled / "adapter_model.safetensors").rename(pickled / "adapter_model.bin")
        made = {"artifact": f"{parent.name}/artifacts/adapter"}
        cases = [
            (made, Lora(rank=16), "INVALID_ARGUMENT", "WEIGHTS_MISMATCH", "lora.rank"),
            ({"path": "other"}, None, "INVALID_ARGUMENT", "WRONG_BASE", "init_from"),
            ({"path": "damaged"}, None, "INVALID_ARGUMENT", "WEIGHTS_UNREADABLE", "init_from.path"),
            ({"path": "pickled"}, None, "INVALID_ARGUMENT", "MODEL_PICKLED", "init_from.path"),
            ({"path": "../rows"}, None, "PERMISSION_DENIED", "PATH_OUTSIDE_ROOTS", ""),
            ({"path": "nothing"}, None, "NOT_FOUND", "WEIGHTS_NOT_FOUND", ""),
            ({"artifact": f"{parent.name}/artifacts/x"}, None, "NOT_FOUND", "ARTIFACT_NOT_FOUND", ""),
            ({"checkpoint": f"{parent.name}/checkpoints/2"}, None, "NOT_FOUND", "CHECKPOINT_NOT_FOUND", ""),
            ({"artifact": "nobody/artifacts/adapter"}, None, "NOT_FOUND", "JOB_NOT_FOUND", ""),
            ({"artifact": "adapter"}, None, "INVALID_ARGUMENT", "INVALID_NAME", "init_from.artifact"),
        ]
        for source, lora, code, reason, field in cases:
            request = job_request(dataset, task=on(lora, **source))
            for call, wrapped in (
                (talk.stub.CreateJob, trainer_pb2.CreateJobRequest(job=request)),
                (talk.stub.ValidateJob, trainer_pb2.ValidateJobRequest(job=request)),
            ):
                found = await refused(call, wrapped)
                assert found[:2] == (code, reason), source
                assert str(tmp_path) not in str(found)
                assert [each.field for each in found[3]] == ([f"job.train.spec.{field}"] if field else []), source
        assert len((await talk.stub.ListJobs(trainer_pb2.ListJobsRequest())).jobs) == 1


async def test_weights_that_have_gone_fail_the_job_that_waited_for_them(tmp_path):
    async with trainer(tmp_path, SCRIPT | {"delay": 0.15}) as talk:
        dataset = (await talk.upload(jsonl(ROWS))).name
        folder = weight_files.peft_adapter(tmp_path / "models/mine")
        first = await talk.train(dataset=dataset)
        job = await talk.train(dataset=dataset, task=on(path="mine"))
        (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 1}))
        await talk.events(first.name)
        await talk.events(job.name)
        failed = await talk.job(job.name)
        assert (failed.state, failed.state_reason.code) == (job_pb2.JOB_STATE_FAILED, "WEIGHTS_CHANGED")


async def test_checkpoints_are_listed_as_they_are_on_the_disk(tmp_path):
    async with trainer(tmp_path, SCRIPT) as talk:
        job = await ended(talk)

        async def listed(**fields) -> checkpoint_pb2.ListCheckpointsResponse:  # noqa: ANN003 - of the request
            return await talk.stub.ListCheckpoints(checkpoint_pb2.ListCheckpointsRequest(parent=job.name, **fields))

        found = list((await listed()).checkpoints)
        assert [(each.step, each.available, each.best) for each in found] == [(4, True, False), (6, True, False)]
        assert [each.loss for each in found] == [pytest.approx(4 / 4), pytest.approx(4 / 6)]
        folder = tmp_path / "data/jobs" / job.uid / "checkpoints/step-00000004"
        size = sum(file.stat().st_size for file in folder.iterdir())
        assert (found[0].name, found[0].size_bytes, found[0].attempt) == (f"{job.name}/checkpoints/4", size, 1)
        assert found[0].sha256 == hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()
        every = list((await listed(show_deleted=True)).checkpoints)
        assert [(each.step, each.available, each.best) for each in every] == [
            *((2, False, True), (4, True, False), (6, True, False))
        ]
        assert (every[0].eval_loss, every[0].exact_match, every[1].HasField("eval_loss")) == (0.5, 0.25, False)
        page = await listed(page_size=1)
        rest = await listed(page_size=1, page_token=page.next_page_token)
        assert [each.step for each in (*page.checkpoints, *rest.checkpoints)] == [4, 6]
        assert not rest.next_page_token
        going_on = await ended(talk, task=on(checkpoint=found[1].name))
        assert going_on.lineage.parents[0] == artifact_pb2.LineageParent(
            name=found[1].name, sha256=found[1].sha256, job=job.name
        )
        (folder / "weights.safetensors").write_bytes(b"cut off")
        assert [each.step for each in (await listed()).checkpoints] == [6]
        damaged = (await listed(show_deleted=True)).checkpoints[1]
        assert (damaged.step, damaged.available, damaged.sha256) == (4, False, found[0].sha256)


async def test_a_file_of_rows_has_its_hash_once_a_worker_has_read_it(tmp_path):
    async with trainer(tmp_path, SCRIPT) as talk:
        template = job_request("")
        template.train.spec.dataset.path = "train.jsonl"
        job = (await talk.stub.CreateJob(trainer_pb2.CreateJobRequest(job=template))).job
        (dataset,) = job.lineage.datasets
        assert (dataset.name, dataset.sha256) == ("train.jsonl", "")
        await talk.events(job.name)
        (dataset,) = (await talk.job(job.name)).lineage.datasets
        assert (dataset.name, dataset.sha256) == ("train.jsonl", hashlib.sha256(jsonl(ROWS)).hexdigest())


async def test_a_client_goes_on_from_what_it_has_in_hand(tmp_path):
    async with trainer(tmp_path, SCRIPT) as talk, finetree.AsyncClient(trainer_address=talk.address) as client:
        data = (await talk.upload(jsonl(ROWS))).name
        spec = {"dataset": {"name": data}}
        parent = await client.train(spec | {"model": {"path": "tiny"}, "lora": {"rank": 2}})
        await parent.wait()
        (artifact,) = await parent.artifacts()
        made = weights_pb2.TrainedWeights(artifact=artifact.name, sha256=artifact.sha256)
        for source in (parent, parent.name, parent.uid, artifact, made):
            assert await client.trained_weights(source) == made
        # An id without a project is of the caller's own, which the server knows.
        text = f"{parent.uid}/artifacts/adapter"
        assert await client.trained_weights(text) == weights_pb2.TrainedWeights(artifact=text)
        assert await client.trained_weights("folder/adapter") == weights_pb2.TrainedWeights(path="folder/adapter")
        (kept, newest) = await parent.checkpoints()
        assert [each.step for each in await parent.checkpoints(show_deleted=True)] == [2, 4, 6]
        assert await client.trained_weights(newest) == weights_pb2.TrainedWeights(
            checkpoint=newest.name, sha256=newest.sha256
        )
        # Without model and method: they are those of the weights.
        child = await client.train(spec, init_from=parent)
        assert child.snapshot.train.spec.model.path == "tiny"
        grandchild = await client.train(spec, init_from=(await ended_artifact(child)))
        assert [each.name for each in await grandchild.ancestors()] == [child.name, parent.name]
        assert await parent.ancestors() == []
        waiting = await client.prepare(dataset=data)
        at_step = weights_pb2.TrainedWeights(checkpoint=f"{parent.uid}/checkpoints/6")
        assert await client.trained_weights(f"{parent.uid}@6") == at_step
        with pytest.raises(finetree.InvalidArgument, match="JOB@STEP"):
            await client.trained_weights(f"{parent.uid}@last")
        with pytest.raises(finetree.NotFound, match="no adapter and no model"):
            await client.trained_weights(waiting)
        with pytest.raises(finetree.NotFound) as gone:
            await client.job("01a22288-98ad-747a-8a8d-568ffd9bc5bd").ancestors()
        assert gone.value.reason == "JOB_NOT_FOUND"
        assert kept.step == 4


async def ended_artifact(job) -> artifact_pb2.Artifact:
    await job.wait()
    (artifact,) = await job.artifacts()
    return artifact


async def test_the_command_shows_checkpoints_and_lineage_and_goes_on(tmp_path, monkeypatch, capsys):
    async with trainer(tmp_path, SCRIPT) as talk:
        monkeypatch.setenv("FINETREE_TRAINER_ADDRESS", talk.address)
        monkeypatch.chdir(tmp_path)

        async def run(*words: str) -> str:
            code = await asyncio.to_thread(command.run, list(words))
            out, err = capsys.readouterr()
            assert code == 0, err
            return out

        parent = await ended(talk, task=RANK_2)
        (tmp_path / "more.yaml").write_text("training: {epochs: 2}\n")
        (tmp_path / "more.jsonl").write_bytes(jsonl(ROWS[:9]))
        more = ("train", "more.yaml", "--data", "more.jsonl", "--init-from")
        made = json.loads(await run(*more, parent.uid, "--detach", "--json"))
        assert made["train"]["spec"]["model"] == {"path": "tiny"}
        assert made["train"]["spec"]["lora"]["rank"] == 2
        await talk.events(made["name"])
        checked = await run(*more, f"{parent.uid}/checkpoints/6", "--check")
        assert f"checkpoint: {parent.name}/checkpoints/6" in checked
        assert "as of the weights that the run starts from [init_from]" in checked

        table = (await run("jobs", "checkpoints", parent.uid, "--deleted")).split()
        assert [word for word in table if word in ("best", "deleted")] == ["best", "deleted"]
        listed = json.loads(await run("jobs", "checkpoints", parent.uid, "--json"))["checkpoints"]
        assert [each["step"] for each in listed] == [4, 6]

        assert f"starts    from {parent.name}/artifacts/adapter" in await run("jobs", "show", made["uid"])
        tree = (await run("jobs", "lineage", made["name"])).splitlines()
        content, hashes = hashlib.sha256(jsonl(ROWS[:9])).hexdigest(), "sha256:"
        assert tree[0].startswith(f"job {made['uid']}  tiny on more.jsonl  lora")
        assert f"   data      {made['train']['spec']['dataset']['name']}  {hashes}{content[:12]}" in tree
        assert f"   from      {parent.uid}/artifacts/adapter  {hashes}{'a' * 12}" in tree
        (older,) = (line for line in tree if line.startswith(f"      job {parent.uid}"))
        below = tree[tree.index(older) :]
        assert any(hashlib.sha256(jsonl(ROWS)).hexdigest()[:12] in line for line in below)
        document = json.loads(await run("jobs", "lineage", made["name"], "--json"))
        (from_,) = document["parents"]
        assert (from_["sha256"], from_["made_by"]["job"], from_["made_by"]["parents"]) == ("a" * 64, parent.name, [])
        assert document["lineage"]["versions"]["torch"] == "9.9"
        # What is gone is said to be gone.
        code = await asyncio.to_thread(command.run, ["jobs", "lineage", "01a22288-98ad-747a-8a8d-568ffd9bc5bd"])
        assert (code, "JOB_NOT_FOUND" in capsys.readouterr().err) == (2, True)
