# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ANN002, ANN003 - arguments are fields of protobuf messages
"""Evaluations as jobs: what is planned for them, what their worker gets, and what is refused."""

import json
from pathlib import Path

import grpc
import pytest
from finetree_api.trainer.v1 import evaluation_pb2, event_pb2, job_pb2, trainer_pb2
from finetree_api.types.v1 import method_pb2, training_data_pb2, training_pb2, weights_pb2
from finetree_api.worker.v1 import worker_pb2
from trainer_harness import ROWS, Template, jsonl, refusal, trainer

A = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
B = "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"
QUIZ = [{"question": f"Which is {i}?", "choices": ["yes", "no"], "answer": i % 2} for i in range(6)]
HELD_OUT = [{"prompt": f"Held out {i}?", "completion": f"Yes {i}."} for i in range(6)]


def adapter(tmp_path: Path, name: str, base: str = "acme/tiny") -> str:
    """An adapter that others trained, under the model root."""
    folder = tmp_path / "models" / name
    folder.mkdir(parents=True)
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": base}))
    shapes = {A: (2, 6), B: (4, 2)}
    header = {
        tensor: {"dtype": "F32", "shape": shape, "data_offsets": [48 * i, 48 * i + 4 * shape[0] * shape[1]]}
        for i, (tensor, shape) in enumerate(shapes.items())
    }
    text = json.dumps(header).encode()
    content = len(text).to_bytes(8, "little") + text + bytes(len(name) % 256 for _ in range(80))
    (folder / "adapter_model.safetensors").write_bytes(content)
    return name


def subject(path: str, **fields):
    return evaluation_pb2.EvaluationSubject(weights=weights_pb2.TrainedWeights(path=path), **fields)


async def validated(talk, task):
    return await talk.stub.ValidateJob(trainer_pb2.ValidateJobRequest(job=Template(evaluate=task)))


def evaluation(*subjects, rows: str = "held.jsonl", **fields):
    task = evaluation_pb2.EvaluateTask(subjects=subjects, **fields)
    if not task.HasField("model"):
        task.model.path = "tiny"
    task.dataset.path = rows
    return task


@pytest.fixture
def prepared(tmp_path):
    """Two adapters, and rows of three kinds."""
    for name in ("one", "two"):
        adapter(tmp_path, name)
    (tmp_path / "rows").mkdir(exist_ok=True)
    (tmp_path / "rows" / "held.jsonl").write_bytes(jsonl(HELD_OUT))
    (tmp_path / "rows" / "quiz.jsonl").write_bytes(jsonl(QUIZ))


async def test_where_no_run_says_the_format_it_is_the_faster_one_of_this_cpu(tmp_path, prepared):
    async with trainer(tmp_path, {"profile": {"bf16": 2e10, "fp32": 9e10}}, prewarm=True) as talk:
        await talk.measured()
        found = await validated(talk, evaluation(subject("one")))
        assert found.evaluate.precision == training_pb2.PRECISION_FP32


async def test_a_plan_has_every_setting_that_the_rows_do_not_decide(tmp_path, prepared):
    async with trainer(tmp_path) as talk:
        found = await validated(talk, evaluation(subject("one"), subject("two", label="newer")))
        task = found.evaluate
        assert [one.label for one in task.subjects] == ["one", "newer"]
        assert all(len(one.weights.sha256) == 64 for one in task.subjects)
        assert (task.max_new_tokens, task.samples, task.seed, task.resamples) == (64, 5, 0, 10_000)
        assert task.precision == training_pb2.PRECISION_BF16
        assert task.quantization == method_pb2.QUANTIZATION_UNSPECIFIED
        assert task.hardware.WhichOneof("device") is not None
        # Nobody knows what these were trained on: the base is asked without examples, and that is said.
        assert task.few_shot.examples == 0
        assert task.few_shot.HasField("examples")
        assert [remark.code for remark in found.remarks] == ["NO_EXAMPLES"]
        asked = evaluation(subject("one"), few_shot={"examples": 2, "dataset": {"path": "train.jsonl"}})
        found = await validated(talk, asked)
        assert (found.evaluate.few_shot.examples, found.evaluate.few_shot.dataset.path) == (2, "train.jsonl")
        assert not found.remarks


async def test_a_job_runs_with_its_weights_and_rows_and_its_report_is_an_event(tmp_path, prepared):
    report = evaluation_pb2.EvaluationReport(headline="BETTER: one: F1 0.9", rows=6)
    script = {"steps": 0, "phases": [job_pb2.JOB_PHASE_LOAD_MODEL, job_pb2.JOB_PHASE_EVALUATE], "artifact": True}
    script["evaluation"] = {"headline": report.headline, "rows": 6}
    async with trainer(tmp_path, script) as talk:
        dataset = await talk.upload(jsonl(HELD_OUT))
        task = evaluation(subject("one"), few_shot={"dataset": {"path": "train.jsonl"}})
        task.dataset.name = dataset.name
        request = trainer_pb2.CreateJobRequest(job=Template(evaluate=task), request_id="once")
        job = (await talk.stub.CreateJob(request)).job
        assert job.WhichOneof("task") == "evaluate"
        assert job.base.hub_id == "acme/tiny"
        assert (await talk.stub.CreateJob(request)).job.name == job.name
        events = await talk.events(job.name)
        assert [e.evaluation_report for e in events if e.kind == event_pb2.EVENT_KIND_EVALUATION_REPORT] == [report]
        moved = [e.state_changed.reason.code for e in events if e.kind == event_pb2.EVENT_KIND_STATE_CHANGED]
        assert moved == ["WAITING_FOR_DEVICE", "STARTING", "EVALUATING", "DONE"]
        fractions = [(await talk.job(job.name)).progress.fraction]
        assert fractions == [1.0]
        given = worker_pb2.Task.FromString(next((tmp_path / "data").glob("jobs/*/attempts/1/task.binpb")).read_bytes())
        assert given.evaluation_file.endswith(f"{dataset.sha256}.jsonl")
        assert given.dataset_file.endswith("train.jsonl")
        assert [Path(one.folder).name for one in given.weights] == ["one"]
        assert given.weights[0].sha256 == job.evaluate.subjects[0].weights.sha256
        listed = await talk.stub.ListJobs(trainer_pb2.ListJobsRequest(tasks=[job_pb2.TASK_KIND_EVALUATE]))
        assert [one.name for one in listed.jobs] == [job.name]


async def test_weights_that_change_before_the_job_starts_fail_it(tmp_path, prepared):
    async with trainer(tmp_path, {"steps": 1, "delay": 2.0}) as talk:
        await talk.train()
        request = trainer_pb2.CreateJobRequest(job=Template(evaluate=evaluation(subject("one"))))
        job = (await talk.stub.CreateJob(request)).job
        weights = tmp_path / "models" / "one" / "adapter_model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1] + b"\x99")
        events = await talk.events(job.name)
        assert events[-1].terminal.state == job_pb2.JOB_STATE_FAILED
        assert (await talk.job(job.name)).state_reason.code == "WEIGHTS_CHANGED"


QUIZ_SOURCE = {"path": "quiz.jsonl", "reading": {"columns": {"choices": "choices"}}}
CASES = {
    "twice": (evaluation(subject("one"), subject("one")), "INVALID_ARGUMENT", "SUBJECT_REPEATED"),
    "one label twice": (
        evaluation(subject("one", label="x"), subject("two", label="x")),
        "INVALID_ARGUMENT",
        "SUBJECT_REPEATED",
    ),
    "called base": (evaluation(subject("one", label="base")), "INVALID_ARGUMENT", "INVALID_REQUEST"),
    "no subject": (evaluation(), "INVALID_ARGUMENT", "INVALID_REQUEST"),
    "nine subjects": (evaluation(*[subject("one")] * 9), "INVALID_ARGUMENT", "INVALID_REQUEST"),
    "another base": (evaluation(subject("foreign")), "INVALID_ARGUMENT", "WRONG_BASE"),
    "no adapter there": (evaluation(subject("tiny")), "INVALID_ARGUMENT", "WEIGHTS_UNREADABLE"),
    "no such folder": (evaluation(subject("nothing")), "NOT_FOUND", "WEIGHTS_NOT_FOUND"),
    "outside of the roots": (evaluation(subject("../rows")), "PERMISSION_DENIED", "PATH_OUTSIDE_ROOTS"),
    "no such rows": (evaluation(subject("one"), rows="nothing.jsonl"), "NOT_FOUND", "DATASET_NOT_FOUND"),
    "choices that are not read": (evaluation(subject("one"), metrics=[6]), "INVALID_ARGUMENT", "NO_CHOICES"),
    "a quiz without its choices": (evaluation(subject("one"), rows="quiz.jsonl"), "INVALID_ARGUMENT", "MALFORMED_ROW"),
    "examples from nowhere": (
        evaluation(subject("one"), few_shot={"examples": 3}),
        "INVALID_ARGUMENT",
        "INVALID_REQUEST",
    ),
    "a metric twice": (evaluation(subject("one"), metrics=[1, 1]), "INVALID_ARGUMENT", "INVALID_REQUEST"),
    "two devices": (
        evaluation(subject("one"), hardware={"cpu": {}, "count": 2}),
        "INVALID_ARGUMENT",
        "SETTING_NOT_SUPPORTED",
    ),
    "a GPU": (
        evaluation(subject("one"), hardware={"accelerator": "rtx-9999"}),
        "FAILED_PRECONDITION",
        "NO_SUCH_DEVICE",
    ),
}


async def test_what_cannot_be_evaluated_is_refused_and_makes_no_job(tmp_path, prepared):
    adapter(tmp_path, "foreign", base="acme/another")
    adapter(tmp_path, "homeless", base="")
    homeless = evaluation(subject("homeless"))
    homeless.ClearField("model")
    cases = {**CASES, "no base": (homeless, "INVALID_ARGUMENT", "BASE_UNKNOWN")}
    async with trainer(tmp_path) as talk:
        for what, (task, code, reason) in cases.items():
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await talk.stub.CreateJob(trainer_pb2.CreateJobRequest(job=Template(evaluate=task)))
            assert refusal(refused.value)[:2] == (code, reason), what
            if reason == "WRONG_BASE":
                assert "foreign" in refused.value.details()
                assert "acme/another" in refused.value.details()
            if reason == "NO_SUCH_DEVICE":
                assert refusal(refused.value)[3][0].subject == "job.evaluate.hardware"
        assert not (await talk.stub.ListJobs(trainer_pb2.ListJobsRequest())).jobs


async def test_choices_are_for_evaluations_alone(tmp_path, prepared):
    async with trainer(tmp_path) as talk:
        source = training_data_pb2.DatasetSource(path="quiz.jsonl")
        source.reading.columns.choices = "choices"
        asked = evaluation(subject("one"), metrics=[6])
        asked.dataset.CopyFrom(source)
        assert (await validated(talk, asked)).evaluate.dataset.reading.columns.choices == "choices"
        template = Template()
        template.train.spec.lora.SetInParent()
        template.train.spec.model.path = "tiny"
        template.train.spec.dataset.CopyFrom(source)
        with pytest.raises(grpc.aio.AioRpcError, match="evaluations alone") as refused:
            await talk.stub.ValidateJob(trainer_pb2.ValidateJobRequest(job=template))
        assert refusal(refused.value)[1] == "INVALID_REQUEST"


async def test_rows_that_a_subject_was_trained_on_are_found_by_their_hash(tmp_path, prepared):
    """A copy of the file under another name; and the examples are taken from what it was trained on."""
    async with trainer(tmp_path, {"steps": 2, "weights": True}) as talk:
        job = await talk.train(dataset=(await talk.upload(jsonl(ROWS))).name, display_name="facts")
        await talk.events(job.name)
        talk.put_rows("copy.jsonl", jsonl(ROWS))
        artifact = weights_pb2.TrainedWeights(artifact=f"{job.name}/artifacts/adapter")
        for rows, leaked in (("copy.jsonl", True), ("held.jsonl", False)):
            task = evaluation(evaluation_pb2.EvaluationSubject(weights=artifact), rows=rows)
            task.ClearField("model")
            found = await validated(talk, task)
            (only,) = found.evaluate.subjects
            assert (only.label, only.method, only.trained_on_rows) == ("facts", "lora", leaked)
            assert ("HELD_OUT_ROWS_LEAKED" in {one.code for one in found.remarks}) == leaked
            assert found.evaluate.model.path == "tiny"
            assert found.evaluate.few_shot.dataset.name == job.train.spec.dataset.name
            assert not found.evaluate.few_shot.HasField("examples")
