# SPDX-License-Identifier: Apache-2.0
"""Whole runs on a tiny model: equal gradients, equal weights after a resume, guards, artifacts."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from finetree_worker import checkpoint, events
from finetree_worker.errors import Cancelled, CheckpointError, StorageError
from finetree_worker.events import Signal
from finetree_worker.pace import Pace
from finetree_worker.plan import (
    CheckpointPlan,
    EvaluationPlan,
    FullMethod,
    LoraMethod,
    Metric,
    OptimizerName,
    Precision,
    TrainPlan,
)
from finetree_worker.train import Outcome, train
from safetensors.torch import load_file


@dataclass
class Recorder:
    """Keeps all events; `signals` maps a number of polls to what the control answers from then on."""

    events: list[Any] = field(default_factory=list)
    at_step: dict[int, Signal] = field(default_factory=dict)
    asked: Signal = Signal.NONE

    def emit(self, event: Any) -> None:
        self.events.append(event)
        if isinstance(event, events.StepMetrics):
            self.asked = self.at_step.get(event.step, self.asked)

    def poll(self) -> Signal:
        asked = self.asked
        if asked is Signal.CHECKPOINT:
            self.asked = Signal.NONE
        return asked

    def of(self, kind: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


def run(plan: TrainPlan, recorder: Recorder | None = None) -> tuple[Outcome, Recorder]:
    recorder = recorder or Recorder()
    return train(plan, recorder, recorder), recorder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = load_file(next(folder.glob("*.safetensors")))
    return found


def tuned(plan: TrainPlan, **changes: Any) -> TrainPlan:
    return replace(plan, optimization=replace(plan.optimization, **changes))


def assert_close(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor], tolerance: float) -> None:
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        torch.testing.assert_close(tensor, right[name], atol=tolerance, rtol=0, msg=name)


def test_a_run_lowers_the_loss_and_tells_its_story_in_order(plan: TrainPlan) -> None:
    outcome, recorder = run(tuned(plan, epochs=20.0))
    steps = recorder.of(events.StepMetrics)
    assert [step.step for step in steps] == list(range(1, 61))
    assert outcome.trained.final_loss is not None
    assert outcome.trained.final_loss < 0.7 * steps[0].loss
    assert steps[-1].epoch == 20.0
    assert steps[-1].remaining_seconds == 0
    assert all(step.memory_bytes > 0 and step.tokens_per_second > 0 for step in steps)
    # The kernel counts pages per core and adds them up only roughly.
    assert steps[-1].peak_memory_bytes > 0.98 * max(step.memory_bytes for step in steps)
    phases = [event.phase for event in recorder.of(events.PhaseProgress) if event.fraction == 1.0]
    assert phases == [events.Phase.LOAD_MODEL, events.Phase.TOKENIZE, events.Phase.TRAIN, events.Phase.SAVE]
    assert recorder.of(events.AttemptStarted)[0].trainable_parameters == sum(
        tensor.numel() for tensor in weights(plan.artifact).values()
    )


def test_a_second_run_on_the_same_data_tokenises_nothing_and_ends_in_the_same_weights(
    plan: TrainPlan, tmp_path: Path
) -> None:
    first = replace(tuned(plan, epochs=1.0), token_cache=tmp_path / "tokens", token_cache_bytes=1 << 20)
    second = replace(first, artifact=tmp_path / "b", work=tmp_path / "w")
    found = [run(chosen)[1].of(events.DatasetReport)[0].from_cache for chosen in (first, second)]
    assert found == [False, True]
    assert_close(weights(first.artifact), weights(second.artifact), 0.0)


@pytest.mark.parametrize("leaked", [0, 2])
def test_a_run_says_that_held_out_rows_are_training_rows(
    plan: TrainPlan, write_rows: Callable[..., Path], chat_rows: list[Any], leaked: int
) -> None:
    held = write_rows([{"prompt": "new", "completion": "n"}], "held.jsonl")
    if leaked:
        held = write_rows(chat_rows[:leaked], "held.jsonl")
    _, recorder = run(tuned(replace(plan, evaluation=EvaluationPlan(held)), epochs=None, max_steps=1))
    alerts = [alert.reason for alert in recorder.of(events.Alert)]
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

    monkeypatch.setattr("finetree_worker.loop.Pace", Recorded)
    _, recorder = run(tuned(plan, **length))
    steps = recorder.of(events.StepMetrics)
    assert asked == [(len(steps) - step.step, steps[-1].tokens - step.tokens) for step in steps]


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("micro", [1, 2])
def test_splitting_a_batch_changes_nothing_but_rounding(
    plan: TrainPlan, tmp_path: Path, micro: int, packing: bool
) -> None:
    """Rows of unequal lengths, dropout on, and a last batch of three rows."""
    whole = tuned(plan, packing=packing, optimizer=OptimizerName.SGD, learning_rate=0.5)
    split = replace(whole, artifact=tmp_path / "split", work=tmp_path / "split-work")
    # Packing bounds tokens, not rows: a bound of the longest row makes one or two rows a micro-batch.
    split = tuned(split, packing=packing, micro_batch_size=micro, sequence_length=100 if packing else 128)
    _, recorder = run(whole)
    _, split_recorder = run(split)
    assert_close(weights(whole.artifact), weights(split.artifact), 1e-5)
    for left, right in zip(recorder.of(events.StepMetrics), split_recorder.of(events.StepMetrics), strict=True):
        assert left.loss == pytest.approx(right.loss, abs=1e-5)
        assert left.grad_norm == pytest.approx(right.grad_norm, rel=1e-4)


def test_dropout_does_act(plan: TrainPlan, tmp_path: Path) -> None:
    """Equality above would be cheap if there were no dropout."""
    without = replace(plan, method=LoraMethod(rank=4, alpha=8.0, dropout=0.0), artifact=tmp_path / "b")
    run(plan)
    run(without)
    left, right = weights(plan.artifact), weights(without.artifact)
    assert max(float((left[name] - right[name]).abs().max()) for name in left) > 1e-3


@pytest.mark.parametrize("optimizer", [OptimizerName.ADAMW, OptimizerName.ADAMW_8BIT])
def test_a_resumed_run_ends_in_the_same_weights_bit_by_bit(
    plan: TrainPlan, tmp_path: Path, optimizer: OptimizerName
) -> None:
    straight = tuned(plan, optimizer=optimizer)
    broken = replace(straight, work=tmp_path / "other", artifact=tmp_path / "resumed")
    run(straight)
    for stop_after in (2, 5):
        with pytest.raises(Cancelled):
            run(broken, Recorder(at_step={stop_after: Signal.PAUSE}))
    _, recorder = run(broken)
    assert recorder.of(events.AttemptStarted)[0].restored_step == 5
    assert [step.step for step in recorder.of(events.StepMetrics)] == [6]
    left, right = weights(straight.artifact), weights(broken.artifact)
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_another_plan_does_not_resume_from_this_ones_checkpoint(plan: TrainPlan) -> None:
    with pytest.raises(Cancelled):
        run(plan, Recorder(at_step={2: Signal.PAUSE}))
    _, recorder = run(tuned(plan, learning_rate=1e-4))
    assert recorder.of(events.AttemptStarted)[0].restored_step == 0


def test_another_thread_count_resumes_with_a_warning(plan: TrainPlan) -> None:
    with pytest.raises(Cancelled):
        run(plan, Recorder(at_step={2: Signal.PAUSE}))
    _, recorder = run(replace(plan, threads=2))
    assert [alert.reason for alert in recorder.of(events.Alert)] == ["EXECUTION_PLAN_CHANGED"]


def test_a_checkpoint_on_demand_does_not_stop_the_run(plan: TrainPlan) -> None:
    _, recorder = run(plan, Recorder(at_step={3: Signal.CHECKPOINT}))
    assert [saved.step for saved in recorder.of(events.CheckpointSaved)] == [3]
    assert len(recorder.of(events.StepMetrics)) == 6


def test_cancel_writes_nothing(plan: TrainPlan) -> None:
    with pytest.raises(Cancelled):
        run(plan, Recorder(at_step={2: Signal.CANCEL}))
    assert not plan.artifact.exists()
    assert not plan.checkpoints_dir.exists()


def test_the_newest_damaged_checkpoint_is_passed_over(plan: TrainPlan) -> None:
    scheduled = replace(plan, checkpoints=CheckpointPlan(every_steps=1, keep=3))
    with pytest.raises(Cancelled):
        run(scheduled, Recorder(at_step={4: Signal.PAUSE}))
    newest = plan.checkpoints_dir / "step-00000004"
    (newest / "weights.safetensors").write_bytes((newest / "weights.safetensors").read_bytes()[:-8])
    (plan.checkpoints_dir / "step-00000009").mkdir()
    _, recorder = run(scheduled)
    assert recorder.of(events.AttemptStarted)[0].restored_step == 3


def test_rotation_keeps_the_newest_and_the_best(plan: TrainPlan, write_rows: Callable[..., Path]) -> None:
    held = write_rows([{"prompt": "held", "completion": "out"}], "eval.jsonl")
    kept = replace(
        tuned(plan, epochs=4.0, learning_rate=2.0),
        checkpoints=CheckpointPlan(every_steps=1, keep=2, keep_best=True),
        evaluation=EvaluationPlan(held, metrics=(Metric.LOSS,), every_steps=1),
    )
    _, recorder = run(kept)
    losses = {event.step: event.loss for event in recorder.of(events.EvalMetrics)}
    best = min((step for step in losses if 0 < step < 12), key=lambda step: (losses[step], step))
    left = {int(path.name.removeprefix("step-")) for path in plan.checkpoints_dir.glob("step-*")}
    assert left == {10, 11, best}
    assert best < 10


def test_a_full_disk_costs_the_checkpoint_and_not_the_run(plan: TrainPlan) -> None:
    # A file where the folder should be: the system refuses to write, as it does on a full disk.
    plan.work.mkdir()
    plan.checkpoints_dir.write_text("in the way")
    _, recorder = run(replace(plan, checkpoints=CheckpointPlan(every_steps=2)))
    assert [failed.reason for failed in recorder.of(events.CheckpointFailed)] == ["STORAGE_FAILED"] * 2
    assert plan.artifact.is_dir()
    with pytest.raises(StorageError):
        run(replace(plan, artifact=plan.artifact.with_name("b")), Recorder(at_step={2: Signal.PAUSE}))


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("method", [LoraMethod(rank=4), FullMethod(), FullMethod(frozen_layers=1)])
def test_what_is_trainable_changes_and_nothing_else(plan: TrainPlan, method: Any, checkpointing: bool) -> None:
    from finetree_worker.loop import Loop
    from finetree_worker.models import load_model, load_tokenizer
    from finetree_worker.steering import Steering
    from finetree_worker.train import adapt, data

    chosen = tuned(replace(plan, method=method), gradient_checkpointing=checkpointing, max_steps=2, epochs=None)
    model = load_model(plan.base.folder, torch.float32, torch.device("cpu"))
    adapted, subject = adapt(chosen, model, torch.device("cpu"))
    before = {name: p.detach().clone() for name, p in adapted.named_parameters()}
    dataset = data.load(chosen, load_tokenizer(plan.base.folder), lambda _: None)
    recorder = Recorder()
    Loop(chosen, subject, dataset.train, recorder, Steering(recorder)).run(lambda _: None)
    for name, parameter in adapted.named_parameters():
        assert torch.equal(before[name], parameter) != (name in subject.trainable), name
    assert not any("lm_head" in name for name in subject.trainable) or isinstance(method, FullMethod)


def test_gradient_checkpointing_changes_no_weight(plan: TrainPlan, tmp_path: Path) -> None:
    checkpointed = replace(tuned(plan, gradient_checkpointing=True), artifact=tmp_path / "b", work=tmp_path / "w")
    run(plan)
    run(checkpointed)
    assert_close(weights(plan.artifact), weights(checkpointed.artifact), 1e-6)


@pytest.mark.filterwarnings(
    "ignore:.*is_gradient_checkpointing:FutureWarning"
)  # plain peft's own, with transformers 5.24
def test_plain_peft_loads_the_adapter_with_equal_logits(plan: TrainPlan) -> None:
    from finetree_worker import models
    from finetree_worker.methods import lora
    from peft import PeftConfig, PeftModel, set_peft_model_state_dict
    from transformers import AutoModelForCausalLM

    run(plan)
    config = json.loads((plan.artifact / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "example/tiny"
    assert config["target_modules"] == sorted(
        ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    )
    assert str(plan.base.folder) not in (plan.artifact / "adapter_config.json").read_text()
    base = AutoModelForCausalLM.from_pretrained(plan.base.folder)
    plain = PeftModel.from_pretrained(base, plan.artifact, config=PeftConfig.from_pretrained(plan.artifact)).eval()
    ours = lora.apply(models.load_model(plan.base.folder, torch.float32, torch.device("cpu")), plan.method, 0).eval()
    set_peft_model_state_dict(ours, weights(plan.artifact))
    ids = torch.arange(60)[None] % 256
    with torch.no_grad():
        theirs, own, untrained = (m(input_ids=ids).logits for m in (plain, ours, base_of(plan)))
    torch.testing.assert_close(theirs, own, atol=1e-5, rtol=0)
    assert (theirs - untrained).abs().max() > 1e-2


def base_of(plan: TrainPlan) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(plan.base.folder).eval()


def test_plain_transformers_loads_a_full_model(plan: TrainPlan) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run(replace(plan, method=FullMethod()))
    model = AutoModelForCausalLM.from_pretrained(plan.artifact)
    tokenizer = AutoTokenizer.from_pretrained(plan.artifact)
    assert tokenizer.chat_template
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
    outcome, recorder = run(evaluated)
    assert outcome.exact_match_before == 0.0
    assert outcome.exact_match_after == 1.0
    before, after = recorder.of(events.EvalMetrics)
    assert (before.step, after.step, after.questions, after.correct) == (0, 120, 4, 4)
    assert after.loss < before.loss
    assert after.perplexity == pytest.approx(math.exp(after.loss))
    samples = recorder.of(events.Sample)
    assert [(s.prompt, s.expected, s.after) for s in samples] == [("say a", "aa", "aa"), ("say c", "cc", "cc")]
    assert all(sample.before is not None and sample.before != sample.after for sample in samples)


def test_a_pause_while_evaluating_at_the_end_keeps_the_training(
    plan: TrainPlan, write_rows: Callable[..., Path]
) -> None:
    held = write_rows([{"prompt": "held", "completion": "out"}], "eval.jsonl")
    evaluated = replace(plan, evaluation=EvaluationPlan(held, metrics=(Metric.LOSS,)))

    class PauseAfterTraining(Recorder):
        def emit(self, event: Any) -> None:
            super().emit(event)
            if isinstance(event, events.PhaseProgress) and event.phase is events.Phase.EVALUATE_AFTER:
                self.asked = Signal.PAUSE

    with pytest.raises(Cancelled):
        run(evaluated, PauseAfterTraining())
    _, recorder = run(evaluated)
    assert recorder.of(events.AttemptStarted)[0].restored_step == 6
    assert not recorder.of(events.StepMetrics)
    assert plan.artifact.is_dir()


@pytest.mark.parametrize("precision", [Precision.BF16, Precision.BF16_MIXED])
@pytest.mark.parametrize("method", [LoraMethod(rank=4), FullMethod()])
def test_half_precision_learns_too(plan: TrainPlan, method: Any, precision: Precision) -> None:
    outcome, recorder = run(replace(tuned(plan, precision=precision, epochs=8.0), method=method))
    assert outcome.trained.final_loss is not None
    assert outcome.trained.final_loss < recorder.of(events.StepMetrics)[0].loss
    stored = weights(plan.artifact)
    expected = torch.float32 if isinstance(method, LoraMethod) else torch.bfloat16
    assert {tensor.dtype for tensor in stored.values()} == {expected}


def test_a_checkpoint_holds_no_pickle_and_fits_only_its_layers(plan: TrainPlan) -> None:
    with pytest.raises(Cancelled):
        run(plan, Recorder(at_step={2: Signal.PAUSE}))
    folder = plan.checkpoints_dir / "step-00000002"
    assert {path.suffix for path in folder.iterdir()} == {".safetensors", ".json"}
    found = checkpoint.newest(plan.checkpoints_dir, plan.numerics_hash())
    assert found is not None
    with pytest.raises(CheckpointError):
        checkpoint.restore(found, {}, torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))]))
