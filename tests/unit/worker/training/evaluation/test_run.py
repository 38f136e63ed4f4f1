# SPDX-License-Identifier: Apache-2.0
"""Whole evaluations of tiny models: what they tell, what they leave, and what they refuse."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from finetree_api.trainer.v1 import artifact_pb2, evaluation_pb2, event_pb2, job_pb2
from finetree_api.types.v1 import training_data_pb2, training_pb2
from finetree_api.worker.v1 import worker_pb2
from finetree_worker.control import Signal
from finetree_worker.errors import Cancelled, DataError, ModelError
from finetree_worker.models import bases
from finetree_worker.models.bases import Bases
from finetree_worker.models.load import load_model, load_tokenizer
from finetree_worker.plan import Metric, Plan
from finetree_worker.process.artifacts import seal
from finetree_worker.training.evaluation.plan import evaluation_plan
from finetree_worker.training.evaluation.run import evaluate
from finetree_worker.training.run import adapt, load
from google.protobuf import json_format
from worker_harness import METHODS, Recorder, held_out, run, tuned

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*past_key_values:FutureWarning"),
    pytest.mark.filterwarnings("ignore:The PEFT config's `base_model_name_or_path`:UserWarning"),
]
LOSS, F1 = evaluation_pb2.EVALUATION_METRIC_LOSS, evaluation_pb2.EVALUATION_METRIC_F1
GENERAL = evaluation_pb2.EVALUATION_METRIC_GENERAL_LOSS
CHAT = [
    {"messages": [{"role": "user", "content": f"number {i}"}, {"role": "assistant", "content": "x" * (1 + i % 4)}]}
    for i in range(12)
]
QUIZ = [{"question": f"Which is {i}?", "choices": ["yes", "no", "perhaps so"], "answer": i % 3} for i in range(8)]


def sealed(folder: Path, artifact: str, kind: int) -> worker_pb2.TaskWeights:
    """The weights of an artifact, as the service hands them to a task."""
    task = worker_pb2.Task(folders=worker_pb2.TaskFolders(artifact_dir=str(folder.parent)))
    name = f"projects/p/jobs/{artifact}/artifacts/{folder.name}"
    made = seal(artifact_pb2.Artifact(name=name, kind=kind), task)
    return worker_pb2.TaskWeights(
        name=artifact, folder=str(folder), kind=made.kind, sha256=made.sha256, source=made.name
    )


@pytest.fixture
def trained(plan: Plan, tmp_path: Path) -> Callable[..., worker_pb2.TaskWeights]:
    """Trains with a method and returns the weights; with no steps, they are as the method begins."""

    def train(kind: str, name: str, steps: int = 12, **changes: Any) -> worker_pb2.TaskWeights:
        chosen = replace(tuned(plan, epochs=None, max_steps=max(1, steps), **changes), method=METHODS[kind])
        chosen = replace(chosen, artifact=tmp_path / name / "adapter", work=tmp_path / name / "work")
        if steps:
            run(chosen)
        else:
            adapted, _ = adapt(chosen, load(chosen, torch.device("cpu")), torch.device("cpu"))
            chosen.artifact.mkdir(parents=True)
            tokenizer = load_tokenizer(chosen.base.folder)
            chosen.method.save(adapted, chosen.artifact, base=chosen.base, tokenizer=tokenizer, dtype=torch.float32)
            hashes = {file.name: _sha256(file) for file in chosen.artifact.iterdir() if file.is_file()}
            (chosen.artifact / "manifest.json").write_text(json.dumps({"files": hashes}))
        return sealed(chosen.artifact, name, chosen.method.artifact)

    return train


def _sha256(file: Path) -> str:
    import hashlib

    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.fixture
def task(base_folder: Path, tmp_path: Path, write_rows: Callable[..., Path]) -> Callable[..., worker_pb2.Task]:
    """Makes a task in float32 for some weights and rows."""

    def make(
        weights: Sequence[worker_pb2.TaskWeights],
        rows: list[Any] = CHAT,
        examples: list[Any] | None = None,
        attempt: int = 1,
        **asked: Any,
    ) -> worker_pb2.Task:
        settings = {"max_new_tokens": 5, "resamples": 1000, "precision": training_pb2.PRECISION_FP32} | asked
        subjects = [evaluation_pb2.EvaluationSubject(label=one.name, method="lora") for one in weights]
        folder = tmp_path / "evaluation"
        return worker_pb2.Task(
            job="projects/p/jobs/e",
            attempt=attempt,
            evaluate=evaluation_pb2.EvaluateTask(subjects=subjects, **settings),
            weights=weights,
            base=worker_pb2.TaskBaseModel(model_dir=str(base_folder), hub_id="example/tiny"),
            evaluation_file=str(write_rows(rows, "held.jsonl")),
            dataset_file=str(write_rows(examples, "examples.jsonl")) if examples is not None else "",
            folders=worker_pb2.TaskFolders(
                work_dir=str(folder / "work"), artifact_dir=str(folder / "out"), checkpoint_dir=str(folder / "kept")
            ),
        )

    return make


def evaluated(task: worker_pb2.Task, recorder: Recorder | None = None) -> tuple[Recorder, Any]:
    recorder = recorder or Recorder()
    evaluate(evaluation_plan(task), recorder, recorder)
    (report,) = recorder.of(evaluation_pb2.EvaluationReport)
    return recorder, report


def values(report: Any, label: str) -> dict[int, Any]:
    model = next(model for model in report.models if model.label == label)
    return {one.metric: one for one in model.metrics}


def between(report: Any, one: str, other: str) -> dict[int, Any]:
    return {each.metric: each for each in report.comparisons if (each.label, each.against) == (one, other)}


def test_what_learned_the_rows_is_better_and_what_learned_nothing_equals_the_base(
    trained: Callable[..., Any], task: Callable[..., worker_pb2.Task], chat_rows: list[Any]
) -> None:
    learned, idle = trained("lora", "learned", steps=25), trained("lora", "idle", steps=0)
    asked = task([learned, idle], examples=[*chat_rows, *CHAT[:2]], decide_by=LOSS, few_shot={"examples": 2})
    recorder, report = evaluated(asked)
    assert report.headline.startswith("BETTER: learned; NOT_")
    assert [model.label for model in report.models] == ["base", "base with 2 examples", "learned", "idle"]
    better = between(report, "learned", "base")[LOSS]
    assert better.low < better.difference < better.high < 0
    assert better.verdict == evaluation_pb2.EVALUATION_VERDICT_BETTER
    assert better.rows == better.differing_rows == 12
    # LoRA's second matrix is zero before the first step: every number is the base's, to the last bit.
    for metric, one in between(report, "idle", "base").items():
        assert (one.difference, one.low, one.high, one.differing_rows) == (0.0, 0.0, 0.0, 0), metric
        assert one.verdict == evaluation_pb2.EVALUATION_VERDICT_NOT_TOLD_APART
        assert values(report, "idle")[metric].value == values(report, "base")[metric].value
    assert set(values(report, "idle")) == {1, 2, 3, 4, 5, 9}
    assert set(values(report, "base with 2 examples")) == {1, 2, 3, 4, 5}, "examples have no part in general texts"
    assert len(report.example_rows) == 2
    assert set(report.example_rows) <= set(range(1, 12)), "held-out rows are no examples"
    _check_story(recorder, report)
    _check_artifact(Path(asked.folders.artifact_dir) / "evaluation", report)


def _check_story(recorder: Recorder, report: Any) -> None:
    ended = [event.phase for event in recorder.of(event_pb2.PhaseProgress) if event.fraction == 1.0]
    names = [job_pb2.JobPhase.Name(phase).removeprefix("JOB_PHASE_") for phase in ended]
    assert names == ["LOAD_MODEL", "TOKENIZE", "EVALUATE", "SAVE"]
    fractions = [e.fraction for e in recorder.of(event_pb2.PhaseProgress) if e.phase == job_pb2.JOB_PHASE_EVALUATE]
    assert fractions == sorted(fractions)
    assert len(fractions) > 10
    assert any("answers of learned" in line for line in recorder.messages)
    forecasts = recorder.of(event_pb2.Forecast)
    assert forecasts
    assert all(one.eta_seconds.low <= one.eta_seconds.expected <= one.eta_seconds.high for one in forecasts)
    (rows,) = recorder.of(event_pb2.DatasetReport)
    assert rows.split == training_data_pb2.SPLIT_EVALUATION
    assert rows.profile.examples == 12
    (ready,) = recorder.of(event_pb2.ArtifactReady)
    assert ready.artifact.kind == artifact_pb2.ARTIFACT_KIND_EVALUATION
    assert recorder.events.index(ready) < recorder.events.index(report)


def _check_artifact(folder: Path, report: Any) -> None:
    """The report is on disk, and every number of it can be computed again from the answers."""
    read = json_format.Parse((folder / "report.json").read_text(), evaluation_pb2.EvaluationReport())
    assert read == report
    lines = [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]
    assert [line["row"] for line in lines] == list(range(1, 13))
    assert [line["expected"] for line in lines] == [row["messages"][1]["content"] for row in CHAT]
    for model in report.models:
        own = [line["models"][model.label] for line in lines]
        tokens = sum(one["learned_tokens"] for one in own)
        found = {one.metric: one.value for one in model.metrics}
        assert found[LOSS] == pytest.approx(sum(one["nats"] for one in own) / tokens)
        assert found[F1] == pytest.approx(sum(one["f1"] for one in own) / len(own))
        assert all("answer" in one for one in own)
    assert [sample.row for sample in report.samples] == [1, 3, 5, 8, 10]
    assert [answer.label for answer in report.samples[0].answers] == [model.label for model in report.models]


def test_every_method_has_the_loss_that_its_own_training_measured(
    plan: Plan,
    task: Callable[..., worker_pb2.Task],
    write_rows: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loaded: list[Path] = []

    def counted(folder: Path, *arguments: Any, **settings: Any) -> Any:
        loaded.append(folder)
        return load_model(folder, *arguments, **settings)

    monkeypatch.setattr(bases, "load_model", counted)
    rows = write_rows(CHAT, "held.jsonl")
    weights, losses = [], {}
    for kind in ("lora", "prefix", "houlsby", "full"):
        chosen = replace(tuned(plan, epochs=None, max_steps=2), method=METHODS[kind])
        chosen = replace(chosen, artifact=plan.artifact.parent / kind / "made", work=plan.work / kind)
        metrics = run(held_out(chosen, rows, metrics=(Metric.LOSS,))).of(event_pb2.EvalMetrics)
        losses[kind] = metrics[-1]
        weights.append(sealed(chosen.artifact, kind, chosen.method.artifact))
    asked = task(weights, metrics=[LOSS, 3])
    loaded.clear()
    _, report = evaluated(asked)
    assert loaded == [plan.base.folder, Path(weights[3].folder)], "the base once, and the whole model"
    for kind, measured in losses.items():
        found = values(report, kind)
        assert found[LOSS].value == pytest.approx(measured.loss, rel=1e-4), kind
        assert found[3].value == pytest.approx(measured.token_accuracy, abs=1e-6), kind
    assert len({round(values(report, kind)[LOSS].value, 6) for kind in losses}) == 4
    assert set(values(report, "lora")) == {LOSS, 3}
    pairs = {(one.label, one.against) for one in report.comparisons}
    assert len(pairs) == 4 + 6
    # Nobody asked for answers, and none was generated.
    assert not report.samples
    # Each on a base that is loaded for it alone: the same numbers, to the last bit.
    monkeypatch.setattr(Bases, "settle", Bases.drop)
    shutil.rmtree(Path(asked.folders.artifact_dir))
    loaded.clear()
    _, apart = evaluated(asked)
    assert len(loaded) == 5
    for one in (*report.models, *apart.models):
        one.seconds = 0
    assert apart == report


def test_questions_with_choices_are_answered_by_likelihood(
    trained: Callable[..., Any], task: Callable[..., worker_pb2.Task]
) -> None:
    source = training_data_pb2.DatasetSource(path="held.jsonl")
    source.reading.columns.choices = "choices"
    rows = task([trained("lora", "idle", steps=0)], QUIZ, dataset=source, metrics=[LOSS, 6, 7, 8])
    _, report = evaluated(rows)
    assert report.decided_by == evaluation_pb2.EVALUATION_METRIC_CHOICE_ACCURACY
    lines = (Path(rows.folders.artifact_dir) / "evaluation" / "answers.jsonl").read_text().splitlines()
    right = 0
    for line in map(json.loads, lines):
        assert line["expected"] == line["choices"][line["expected_choice"]]
        likelihoods = [choice["log_likelihood"] for choice in line["models"]["base"]["choices"]]
        best = likelihoods.index(max(likelihoods))
        assert best == line["models"]["base"]["choice"]
        right += best == line["expected_choice"]
        assert [choice["characters"] for choice in line["models"]["base"]["choices"]] == [3, 2, 10]
    found = values(report, "base")
    assert found[evaluation_pb2.EVALUATION_METRIC_CHOICE_ACCURACY].value == right / 8
    assert {6, 7, 8} <= set(found)
    assert F1 not in found, "a choice is taken, no answer is written"
    assert report.samples[0].answers[0].text in QUIZ[0]["choices"]


def test_an_attempt_after_a_killed_one_measures_the_rest_and_ends_in_the_same_report(
    trained: Callable[..., Any], task: Callable[..., worker_pb2.Task]
) -> None:
    weights, chosen = [trained("lora", "learned", steps=1), trained("lora", "idle", steps=0)], [LOSS, F1]
    asked = task(weights, metrics=chosen)

    class Stopped(Recorder):
        def emit(self, payload: Any, *, message: str = "", level: int = 0) -> None:
            super().emit(payload, message=message, level=level)
            if "answers of idle" in message:
                self.asked = Signal.CANCEL

    stopped = Stopped()
    with pytest.raises(Cancelled):
        evaluated(asked, stopped)
    assert not (Path(asked.folders.artifact_dir) / "evaluation").exists()
    kept = sorted(file.name for file in Path(asked.folders.checkpoint_dir).iterdir())
    assert kept == ["evaluated-0.json", "evaluated-1.json"]
    again, report = evaluated(task(weights, attempt=2, metrics=chosen))
    assert not any("of base" in line or "of learned" in line for line in again.messages)
    assert not list(Path(asked.folders.checkpoint_dir).iterdir())
    for file in (Path(asked.folders.artifact_dir) / "evaluation").iterdir():
        file.unlink()
    (Path(asked.folders.artifact_dir) / "evaluation").rmdir()
    _, straight = evaluated(task(weights, metrics=chosen))
    assert [one.seconds > 0 for one in report.models] == [False, False, True]
    for one in (*report.models, *straight.models):
        one.seconds = 0
    assert report == straight


def test_other_rows_are_measured_anew(trained: Callable[..., Any], task: Callable[..., worker_pb2.Task]) -> None:
    """What was kept belongs to the file: rows under the same path may have changed between two attempts."""
    from finetree_worker.training.evaluation.metrics import RowScore
    from finetree_worker.training.evaluation.results import Results

    weights = [trained("lora", "idle", steps=0)]
    asked = task(weights, metrics=[LOSS])
    kept = Results(Path(asked.folders.checkpoint_dir), "other")
    kept.save(0, ([RowScore(1.0, 1, 1)], []))
    assert kept.load(0) is not None
    _, report = evaluated(asked)
    assert report.models[0].seconds > 0
    assert report.rows == 12


def test_a_few_rows_are_chosen_by_content(trained: Callable[..., Any], task: Callable[..., worker_pb2.Task]) -> None:
    weights = [trained("lora", "idle", steps=0)]
    asked = task(weights, max_rows=7, metrics=[LOSS])
    _, report = evaluated(asked)
    assert (report.rows, report.rows_in_file) == (7, 12)
    folder = Path(asked.folders.artifact_dir) / "evaluation"
    first = {json.loads(line)["prompt"] for line in (folder / "answers.jsonl").read_text().splitlines()}
    backwards = task(weights, CHAT[::-1], max_rows=7, metrics=[LOSS], attempt=2)
    evaluated(backwards)
    folder = folder.with_name("evaluation-2")
    assert {json.loads(line)["prompt"] for line in (folder / "answers.jsonl").read_text().splitlines()} == first


@pytest.mark.parametrize(
    ("rows", "asked", "reason"),
    [
        ([{"text": "Some words."}] * 3, {"metrics": [F1]}, "NO_QUESTIONS"),
        ([{"text": "Some words."}] * 3, {"few_shot": {"examples": 1}}, "NO_QUESTIONS"),
        (CHAT, {"metrics": [6]}, "NO_CHOICES"),
        (CHAT, {"decide_by": 7}, "NO_CHOICES"),
        (CHAT, {"few_shot": {"examples": 3}}, "TOO_FEW_EXAMPLES"),
        (CHAT, {"sequence_length": 12}, "NO_TARGET_LEFT"),
        (QUIZ, {}, "MALFORMED_ROW"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    task: Callable[..., worker_pb2.Task], rows: list[Any], asked: dict[str, Any], reason: str
) -> None:
    with pytest.raises(DataError) as refused:
        evaluated(task([], rows, examples=CHAT[:2], **asked))
    assert refused.value.reason == reason


def test_examples_that_nobody_asked_for_are_left_out_where_there_are_too_few(
    trained: Callable[..., Any], task: Callable[..., worker_pb2.Task]
) -> None:
    asked = task([trained("lora", "idle", steps=0)], examples=CHAT[:2], metrics=[LOSS])
    asked.evaluate.subjects[0].trained_on_rows = True
    recorder, report = evaluated(asked)
    assert [model.label for model in report.models] == ["base", "idle"]
    codes = {caution.code for caution in report.cautions}
    assert codes == {"NO_EXAMPLES", "HELD_OUT_ROWS_LEAKED", "FEW_ROWS"}
    assert set(recorder.alerts()) == codes


def test_weights_that_have_changed_are_refused(
    trained: Callable[..., Any], task: Callable[..., worker_pb2.Task]
) -> None:
    weights = trained("lora", "idle", steps=0)
    weights.sha256 = "0" * 64
    with pytest.raises(ModelError) as refused:
        evaluated(task([weights], metrics=[LOSS]))
    assert refused.value.reason == "WEIGHTS_CHANGED"
