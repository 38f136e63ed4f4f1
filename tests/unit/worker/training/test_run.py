# SPDX-License-Identifier: Apache-2.0
"""Whole runs on a tiny model: the story they tell, what they change, what they leave."""

import hashlib
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from finetree_worker.events import types
from finetree_worker.events.pace import Pace
from finetree_worker.plan import CheckpointPlan, EvaluationPlan, FullMethod, LoraMethod, Metric, Precision, TrainPlan
from worker_harness import difference, loop_of, run, tuned, weights


def test_a_run_lowers_the_loss_and_tells_its_story_in_order(plan: TrainPlan) -> None:
    recorder = run(tuned(plan, epochs=20.0))
    steps = recorder.of(types.StepMetrics)
    assert [step.step for step in steps] == list(range(1, 61))
    assert recorder.outcome.trained.final_loss is not None
    assert recorder.outcome.trained.final_loss < 0.7 * steps[0].loss
    assert steps[-1].epoch == 20.0
    assert steps[-1].remaining_seconds == 0
    assert all(step.memory_bytes > 0 and step.tokens_per_second > 0 for step in steps)
    # The kernel counts pages per core and adds them up only roughly.
    assert steps[-1].peak_memory_bytes > 0.98 * max(step.memory_bytes for step in steps)
    phases = [event.phase for event in recorder.of(types.PhaseProgress) if event.fraction == 1.0]
    assert phases == [types.Phase.LOAD_MODEL, types.Phase.TOKENIZE, types.Phase.TRAIN, types.Phase.SAVE]
    assert recorder.of(types.AttemptStarted)[0].trainable_parameters == sum(
        tensor.numel() for tensor in weights(plan.artifact).values()
    )


def test_a_second_run_on_the_same_data_tokenises_nothing_and_ends_in_the_same_weights(
    plan: TrainPlan, tmp_path: Path
) -> None:
    first = replace(tuned(plan, epochs=1.0), token_cache=tmp_path / "tokens", token_cache_bytes=1 << 20)
    second = replace(first, artifact=tmp_path / "b", work=tmp_path / "w")
    found = [run(chosen).of(types.DatasetReport)[0].from_cache for chosen in (first, second)]
    assert found == [False, True]
    assert difference(weights(first.artifact), weights(second.artifact)) == 0.0


@pytest.mark.parametrize("leaked", [0, 2])
def test_a_run_says_that_held_out_rows_are_training_rows(
    plan: TrainPlan, write_rows: Callable[..., Path], chat_rows: list[Any], leaked: int
) -> None:
    held = write_rows([{"prompt": "new", "completion": "n"}], "held.jsonl")
    if leaked:
        held = write_rows(chat_rows[:leaked], "held.jsonl")
    recorder = run(tuned(replace(plan, evaluation=EvaluationPlan(held)), epochs=None, max_steps=1))
    alerts = [alert.reason for alert in recorder.of(types.Alert)]
    assert alerts == ["HELD_OUT_ROWS_LEAKED"] * bool(leaked)


@pytest.mark.parametrize("length", [{"epochs": 2.5}, {"epochs": None, "max_steps": 7}], ids=["epochs", "steps"])
def test_the_tokens_that_remain_are_known_from_the_first_step_on(
    plan: TrainPlan, monkeypatch: pytest.MonkeyPatch, length: dict[str, Any]
) -> None:
    asked: list[tuple[int, int]] = []

    class Recorded(Pace):
        def remaining(self, steps: int, tokens: int) -> float:
            asked.append((steps, tokens))
            return super().remaining(steps, tokens)

    monkeypatch.setattr("finetree_worker.training.loop.Pace", Recorded)
    recorder = run(tuned(plan, **length))
    steps = recorder.of(types.StepMetrics)
    assert asked == [(len(steps) - step.step, steps[-1].tokens - step.tokens) for step in steps]


def test_gradient_checkpointing_changes_no_weight(plan: TrainPlan, tmp_path: Path) -> None:
    checkpointed = replace(tuned(plan, gradient_checkpointing=True), artifact=tmp_path / "b", work=tmp_path / "w")
    run(plan)
    run(checkpointed)
    assert difference(weights(plan.artifact), weights(checkpointed.artifact)) < 1e-6


def base_of(plan: TrainPlan) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(plan.base.folder).eval()


def test_plain_transformers_loads_a_full_model(plan: TrainPlan) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run(replace(plan, method=FullMethod()))
    model = AutoModelForCausalLM.from_pretrained(plan.artifact)
    tokenizer = AutoTokenizer.from_pretrained(plan.artifact)
    assert tokenizer.chat_template
    # The tokenizer has fewer tokens than the model has rows: nobody resizes it, or adapters would fit no more.
    assert len(tokenizer) < model.get_input_embeddings().num_embeddings == model.config.vocab_size
    assert model.config.vocab_size == base_of(plan).config.vocab_size
    ids = torch.arange(40)[None]
    with torch.no_grad():
        assert (model(input_ids=ids).logits - base_of(plan)(input_ids=ids).logits).abs().max() > 1e-2
    assert str(plan.base.folder) not in (plan.artifact / "config.json").read_text()


def test_evaluation_before_and_after_with_samples(plan: TrainPlan, write_rows: Callable[..., Path]) -> None:
    rows = [{"prompt": f"say {c}", "completion": c * 2} for c in "abcd"]
    evaluated = replace(
        tuned(plan, epochs=60.0, learning_rate=5e-3, batch_size=2),
        method=FullMethod(),
        dataset=write_rows(rows),
        evaluation=EvaluationPlan(
            write_rows(rows, "eval.jsonl"),
            metrics=(Metric.LOSS, Metric.EXACT_MATCH),
            max_new_tokens=4,
            samples=2,
            before_training=True,
        ),
    )
    recorder = run(evaluated)
    assert recorder.outcome.exact_match_before == 0.0
    assert recorder.outcome.exact_match_after == 1.0
    before, after = recorder.of(types.EvalMetrics)
    assert (before.step, after.step, after.questions, after.correct) == (0, 120, 4, 4)
    assert after.loss < before.loss
    assert after.perplexity == pytest.approx(math.exp(after.loss))
    samples = recorder.of(types.Sample)
    assert [(s.prompt, s.expected, s.after) for s in samples] == [("say a", "aa", "aa"), ("say c", "cc", "cc")]
    assert all(sample.before is not None and sample.before != sample.after for sample in samples)


@pytest.mark.parametrize("precision", [Precision.BF16, Precision.BF16_MIXED])
@pytest.mark.parametrize("method", [LoraMethod(rank=4), FullMethod()])
def test_half_precision_learns_too(plan: TrainPlan, method: Any, precision: Precision) -> None:
    recorder = run(replace(tuned(plan, precision=precision, epochs=4.0), method=method))
    assert recorder.outcome.trained.final_loss is not None
    assert recorder.outcome.trained.final_loss < recorder.of(types.StepMetrics)[0].loss
    stored = weights(plan.artifact)
    expected = torch.float32 if isinstance(method, LoraMethod) else torch.bfloat16
    assert {tensor.dtype for tensor in stored.values()} == {expected}


def test_steps_tell_their_padding_and_checkpoints_their_hash(plan: TrainPlan) -> None:
    recorder = run(replace(tuned(plan, micro_batch_size=1, packing=False), checkpoints=CheckpointPlan(every_steps=2)))
    previous = 0
    batches = loop_of(tuned(plan, micro_batch_size=1, packing=False)).batches
    for step in recorder.of(types.StepMetrics):
        places = sum(-(-len(row) // 32) * 32 for row in batches.of(step.step - 1))
        assert step.padding_share == pytest.approx(1 - (step.tokens - previous) / places)
        previous = step.tokens
    for saved in recorder.of(types.CheckpointSaved):
        manifest = (plan.checkpoints_dir / saved.name / "manifest.json").read_bytes()
        assert saved.sha256 == hashlib.sha256(manifest).hexdigest()
