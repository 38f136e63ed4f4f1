# SPDX-License-Identifier: Apache-2.0
"""`finetree evaluate`, and `Client.evaluate`, against the SDK's fake suite."""

import asyncio
import json
from collections.abc import Iterator

import pytest
from finetree import AsyncClient, Client, InvalidArgument, JobFailed, NotFound
from finetree.testing import Script, Suite
from finetree_api.trainer.v1 import evaluation_pb2, job_pb2
from finetree_cli import __main__ as entry

F1, LOSS = evaluation_pb2.EVALUATION_METRIC_F1, evaluation_pb2.EVALUATION_METRIC_LOSS
BETTER, NOT_WORTH_IT = (
    evaluation_pb2.EVALUATION_CONCLUSION_BETTER,
    evaluation_pb2.EVALUATION_CONCLUSION_NOT_WORTH_IT,
)


def report(conclusion: int = BETTER) -> evaluation_pb2.EvaluationReport:
    word = evaluation_pb2.EvaluationConclusion.Name(conclusion).removeprefix("EVALUATION_CONCLUSION_")
    made = evaluation_pb2.EvaluationReport(
        headline=f"{word}: mine: F1 0.900, base 0.100, difference +0.800 [+0.700, +0.900]",
        conclusions=[evaluation_pb2.SubjectConclusion(label="mine", conclusion=conclusion, text="F1 0.900")],
        decided_by=F1,
        rows=40,
        rows_in_file=50,
        resamples=10_000,
        confidence=0.95,
    )
    for label, value in (("base", 0.1), ("mine", 0.9)):
        model = made.models.add(label=label)
        model.metrics.add(metric=F1, value=value, low=value - 0.05, high=value + 0.05, rows=40)
        model.metrics.add(metric=LOSS, rows=40)
    made.comparisons.add(
        label="mine",
        against="base",
        metric=F1,
        difference=0.8,
        low=0.7,
        high=0.9,
        verdict=evaluation_pb2.EVALUATION_VERDICT_BETTER,
        rows=40,
        differing_rows=32,
    )
    made.cautions.add(code="GENERAL_LOSS_GREW", message="mine: the loss on general texts grew.")
    sample = made.samples.add(row=7, prompt="Code of\nFrance?\x1b[2J", expected="FRA")
    sample.answers.add(label="base", text="Paris " * 60)
    sample.answers.add(label="mine", text="FRA", correct=True)
    return made


@pytest.fixture(scope="module")
def server() -> Iterator[Suite]:
    with Suite() as running:
        yield running


@pytest.fixture
def suite(server, monkeypatch) -> Suite:
    monkeypatch.setenv("FINETREE_ADDRESS", server.address)
    server.trainer.script = Script(steps=1, evaluation=report())
    return server


@pytest.fixture
def job(suite) -> str:
    """A job that has made an adapter."""
    with Client(suite.address) as client:
        data = client.upload_dataset([{"prompt": "a", "completion": "b"}])
        spec = {"model": {"name": "smollm2-135m-instruct"}, "dataset": {"name": data.name}, "lora": {}}
        client.prepare(model={"name": "smollm2-135m-instruct"}).wait(timeout=60)
        made = client.train(spec)
        made.wait(timeout=60)
        return made.name.rpartition("/")[2]


@pytest.fixture
def file(tmp_path) -> str:
    path = tmp_path / "held.jsonl"
    path.write_text('{"prompt": "c", "completion": "d"}\n')
    return str(path)


def finetree(capsys, *words: str) -> tuple[int, str, str]:
    code = entry.run(list(words))
    said = capsys.readouterr()
    return code, said.out, said.err


def last(suite: Suite) -> evaluation_pb2.EvaluateTask:
    with Client(suite.address) as client:
        return next(iter(client.list_jobs(tasks=["evaluate"]))).evaluate


def test_the_job_is_called_by_its_subjects_in_short(suite, job, file, capsys):
    for given, shown in ((f"mine={job}", "mine"), (job, job[-12:])):
        code, _, err = finetree(capsys, "evaluate", given, "--data", file)
        assert code == 0, err
        with Client(suite.address) as client:
            assert next(iter(client.list_jobs(tasks=["evaluate"]))).display_name == f"evaluate {shown}"


def test_the_first_line_is_the_verdict_then_come_intervals_and_answers(suite, job, file, capsys):
    code, out, _ = finetree(capsys, "evaluate", f"mine={job}", "--data", file)
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == report().headline
    assert "caution GENERAL_LOSS_GREW" in out
    for fact in (
        "40 of 50",
        "0.900 [0.850, 0.950]",
        "+0.800 [+0.700, +0.900]",
        "32 of 40",
        "F1 (decides)",
        "not finite",
    ):
        assert fact in out, fact
    assert "Row 7: Code of France?" in out
    assert "\x1b[2J" not in out
    assert max(len(line) for line in lines) <= 200


def test_flags_become_the_task(suite, job, file, tmp_path, capsys):
    examples = tmp_path / "examples.jsonl"
    examples.write_text('{"prompt": "e", "completion": "f"}\n')
    words = [f"mine={job}", "path:folder", f"projects/default/jobs/{job}/checkpoints/4", "--data", file]
    words += ["--metric", "exact-match", "--decide-by", "f1", "--few-shot", "3", "--examples", str(examples)]
    words += ["--max-rows", "9", "--max-new-tokens", "8", "--samples", "0", "--seed", "5"]
    words += ["--model", "smollm2-135m-instruct"]
    code, _, err = finetree(capsys, "evaluate", *words)
    assert code == 0, err
    task = last(suite)
    assert [one.weights.WhichOneof("source") for one in task.subjects] == ["artifact", "path", "checkpoint"]
    assert task.subjects[0].label == "mine"
    assert task.subjects[0].weights.artifact == f"projects/default/jobs/{job}/artifacts/adapter"
    assert list(task.metrics) == [evaluation_pb2.EVALUATION_METRIC_EXACT_MATCH]
    assert task.decide_by == F1
    assert (task.few_shot.examples, task.max_rows, task.max_new_tokens, task.samples, task.seed) == (3, 9, 8, 0, 5)
    assert task.model.name == "smollm2-135m-instruct"


def test_columns_are_stated_with_the_upload(suite, job, file, capsys):
    """The fake suite reads no columns of other names, and says which it was told."""
    words = ["--data", file, "--choices", "options", "--column", "prompt=asked"]
    code, _, err = finetree(capsys, "evaluate", job, *words)
    assert code == 5
    assert "choices is 'options'" in err or "prompt is 'asked'" in err


@pytest.mark.parametrize(
    ("conclusion", "required", "code"),
    [(BETTER, "better", 0), (NOT_WORTH_IT, "better", 3), (NOT_WORTH_IT, "not-worse", 0), (2, "not-worse", 3)],
)
def test_a_pipeline_may_require_a_conclusion(suite, job, file, capsys, conclusion, required, code):  # noqa: PLR0917 - fixtures and parameters
    suite.trainer.script = Script(steps=1, evaluation=report(conclusion))
    found, out, err = finetree(capsys, "evaluate", job, "--data", file, "--require", required, "--json")
    assert found == code
    if code:
        assert "--require" in err
    assert json.loads(out)["report"]["headline"] == report(conclusion).headline


@pytest.mark.parametrize(
    ("words", "fact"),
    [
        (["JOB", "--data", "missing.jsonl"], "no such file"),
        (["=JOB", "--data", "FILE"], "LABEL=SUBJECT"),
        (["JOB", "--data", "FILE", "--column", "colour=x"], "unknown part"),
        (["JOB", "--data", "FILE", "--require", "better", "--detach"], "--detach"),
        (["JOB", "JOB", "--data", "FILE"], "named twice"),
        (["0190d000-0000-7000-8000-000000000000", "--data", "FILE"], "no job"),
    ],
)
def test_bad_input_is_2_and_says_what_to_do(suite, job, file, capsys, words, fact):  # noqa: PLR0917 - likewise
    given = [word.replace("JOB", job).replace("FILE", file) for word in words]
    code, _, err = finetree(capsys, "evaluate", *given)
    assert code == 2
    assert fact in err.replace("\n", " ")


def test_detached_it_prints_the_job(suite, job, file, capsys):
    code, out, _ = finetree(capsys, "evaluate", job, "--data", file, "--detach")
    assert code == 0
    assert out.startswith("projects/default/jobs/")


def test_a_job_that_fails_is_told_by_its_reason(suite, job, file, capsys):
    suite.trainer.script = Script(
        outcome="FAILED",
        reason="NO_QUESTIONS",
        problem="no row ends in an answer",
        category=job_pb2.FAILURE_CATEGORY_USER,
    )
    code, _, err = finetree(capsys, "evaluate", job, "--data", file)
    assert code == 2
    assert "NO_QUESTIONS" in err


def test_both_clients_evaluate_and_wait_for_the_report(suite, job):
    rows = [{"prompt": "c", "completion": "d"}]
    with Client(suite.address) as client:
        held = client.upload_dataset(rows).name
        made = client.evaluate({"weights": job, "label": "mine"}, dataset=held, examples=0, metrics=["loss"])
        assert client.evaluation_report(made.name, timeout=60) == report()
        with pytest.raises(InvalidArgument, match="twice") as refused:
            client.evaluate(job, job, dataset=held)
        assert refused.value.reason == "SUBJECT_REPEATED"
        with pytest.raises(NotFound) as missing:
            client.evaluation_report(job, timeout=60)
        assert missing.value.reason == "REPORT_NOT_FOUND"
        suite.trainer.script = Script(outcome="FAILED")
        failed = client.evaluate(job, dataset=held)
        with pytest.raises(JobFailed):
            client.evaluation_report(failed.name, timeout=60)
    suite.trainer.script = Script(steps=1, evaluation=report())

    async def asynchronously() -> evaluation_pb2.EvaluationReport:
        async with AsyncClient(suite.address) as client:
            made = await client.evaluate(job, dataset=held, request_id="the-same")
            again = await client.evaluate(job, dataset=held, request_id="the-same")
            assert made.name == again.name
            return await client.evaluation_report(made.name, timeout=60)

    assert asyncio.run(asynchronously()) == report()
