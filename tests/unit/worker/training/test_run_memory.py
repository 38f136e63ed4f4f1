# SPDX-License-Identifier: Apache-2.0
"""Out of memory: found before the first step, or survived without a change."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from finetree_api.trainer.v1 import event_pb2
from finetree_api.types.v1 import check_pb2
from finetree_worker.device_memory import is_out_of_memory
from finetree_worker.errors import Interrupted, MemoryExhaustedError
from finetree_worker.plan import CheckpointPlan, OptimizerName, Plan
from finetree_worker.tokenize.example import Example
from finetree_worker.training import gradients, preflight
from finetree_worker.training.gradients import Gradients
from finetree_worker.training.loop import Loop
from finetree_worker.training.loss import target_loss
from finetree_worker.training.run import train
from worker_harness import METHODS, Recorder, difference, elsewhere, run, tuned, weights

CPU_FULL = "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory:"


@pytest.mark.parametrize("optimizer", [OptimizerName.ADAMW, OptimizerName.ADAMW_8BIT, OptimizerName.SGD])
def test_the_preflight_leaves_no_trace(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: OptimizerName
) -> None:
    plan = tuned(plan, optimizer=optimizer, weight_decay=0.1)
    recorder = run(plan)
    report, steps = recorder.of(event_pb2.PreflightReport), recorder.of(event_pb2.StepMetrics)
    assert len(report) == 1
    assert recorder.events.index(report[0]) < recorder.events.index(steps[0])
    assert report[0].checks[0].verdict == check_pb2.CHECK_VERDICT_PASS
    assert report[0].checks[0].measured.expected == report[0].peak_memory_bytes
    assert report[0].checks[0].limit == report[0].peak_memory_bytes + report[0].free_memory_bytes
    assert report[0].peak_memory_bytes > 0
    assert report[0].free_memory_bytes > 0
    monkeypatch.setattr(preflight, "check", lambda *_, **__: None)
    without = elsewhere(plan, tmp_path / "b")
    run(without)
    assert difference(weights(plan.artifact), weights(without.artifact)) == 0.0


@pytest.mark.parametrize("packing", [True, False])
def test_the_preflight_runs_at_least_the_largest_micro_batch(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, packing: bool
) -> None:
    seen: list[tuple[int, int]] = []

    def noted(model: Any, batch: Any) -> torch.Tensor:
        seen.append((batch.tokens, max(batch.lengths)))
        return target_loss(model, batch)

    monkeypatch.setattr(gradients, "target_loss", noted)
    recorder = run(tuned(plan, packing=packing, micro_batch_size=2, sequence_length=110))
    assert recorder.of(event_pb2.PreflightReport)[0].tokens == seen[0][0]
    assert seen[0][0] >= max(tokens for tokens, _ in seen[2:])
    assert seen[0][1] == max(longest for _, longest in seen[2:])


def test_a_run_that_cannot_fit_is_refused_with_numbers_before_its_first_step(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusing(_: Any, batch: Any) -> torch.Tensor:
        raise torch.OutOfMemoryError(str(batch.tokens))

    monkeypatch.setattr(gradients, "target_loss", refusing)
    recorder = Recorder()
    with pytest.raises(MemoryExhaustedError) as caught:
        train(plan, recorder, recorder)
    assert (caught.value.reason, caught.value.category) == ("OUT_OF_MEMORY_PREFLIGHT", "CAPACITY")
    assert "GB are free" in caught.value.message
    longest = recorder.of(event_pb2.DatasetReport)[0].longest_row_tokens
    assert f"one row of {longest} tokens" in caught.value.message
    (report,) = recorder.of(event_pb2.PreflightReport)
    assert report.checks[0].verdict == check_pb2.CHECK_VERDICT_FAIL
    assert not recorder.of(event_pb2.StepMetrics)
    assert not plan.artifact.exists()


@pytest.mark.parametrize(
    ("kind", "checkpointing", "advice"),
    [
        ("lora", False, "turn gradient checkpointing on, use qlora, or use a smaller model."),
        ("lora", True, "use qlora, or use a smaller model."),
        ("nf4", False, "turn gradient checkpointing on, or use a smaller model."),
        ("prefix", False, "use qlora, or use a smaller model."),
    ],
)
def test_a_run_that_cannot_fit_is_advised_nothing_that_it_does_or_may_not_do(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, kind: str, checkpointing: bool, advice: str
) -> None:
    def refusing(_: Any, batch: Any) -> torch.Tensor:
        raise torch.OutOfMemoryError(str(batch.tokens))

    monkeypatch.setattr(gradients, "target_loss", refusing)
    asked = replace(tuned(plan, gradient_checkpointing=checkpointing), method=METHODS[kind])
    with pytest.raises(MemoryExhaustedError) as caught:
        run(asked)
    remedy = caught.value.remedy
    assert remedy.startswith("Lower sequence_length below ")
    assert remedy.partition(", ")[2] == advice


def test_an_optimizer_whose_state_does_not_fit_is_found_before_the_first_step(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusing(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("state")

    monkeypatch.setattr(torch.optim.SGD, "step", refusing)
    recorder = Recorder()
    with pytest.raises(MemoryExhaustedError) as caught:
        train(tuned(plan, optimizer=OptimizerName.SGD), recorder, recorder)
    assert caught.value.reason == "OUT_OF_MEMORY_PREFLIGHT"


def limited(tokens: int, from_call: int, error: BaseException) -> Callable[..., torch.Tensor]:
    """A target_loss that runs out of memory above so many tokens, once it was called so many times."""
    calls = 0

    def loss(model: Any, batch: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls > from_call and batch.tokens > tokens:
            raise error
        return target_loss(model, batch)

    return loss


@pytest.mark.parametrize(
    ("packing", "error", "from_call"),
    [
        pytest.param(True, torch.OutOfMemoryError("refused"), 0, id="packed, before the first step"),
        pytest.param(False, RuntimeError(CPU_FULL), 0, id="rows, before the first step"),
        pytest.param(True, MemoryError(), 4, id="packed, third step"),
        pytest.param(False, torch.OutOfMemoryError("refused"), 4, id="rows, third step"),
    ],
)
def test_running_out_of_memory_cuts_the_micro_batch_and_changes_nothing(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, packing: bool, error: BaseException, from_call: int
) -> None:
    """Two calls are the preflight's; dropout is on. Without packing rows must be cut, not tokens."""
    plan = tuned(plan, packing=packing, optimizer=OptimizerName.SGD, learning_rate=0.5)
    run(plan)
    monkeypatch.setattr(gradients, "target_loss", limited(128, from_call, error))
    split = elsewhere(plan, plan.work.parent / "split")
    recorder = run(split)
    changes = recorder.of(event_pb2.BatchSizeChanged)
    assert changes[0].step == (0 if from_call == 0 else 3)
    assert all(change.current < change.previous for change in changes)
    assert all((change.current_rows < change.previous_rows) is not packing for change in changes)
    assert [step.step for step in recorder.of(event_pb2.StepMetrics)] == [1, 2, 3, 4, 5, 6]
    assert difference(weights(plan.artifact), weights(split.artifact)) < 1e-5


def test_gradients_of_a_backward_pass_that_ran_out_of_memory_are_forgotten(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = tuned(plan, optimizer=OptimizerName.SGD, learning_rate=0.5, micro_batch_size=2)
    run(plan)
    whole, calls = Gradients.one, 0

    def halfway(self: Gradients, step: int, documents: Sequence[Example], targets: int) -> Any:
        nonlocal calls
        done = whole(self, step, documents, targets)
        calls += step == 2
        if step == 2 and calls == 1:
            raise torch.OutOfMemoryError("after its gradients were added")
        return done

    monkeypatch.setattr(Gradients, "one", halfway)
    split = elsewhere(plan, tmp_path / "split")
    assert len(run(split).of(event_pb2.BatchSizeChanged)) == 1
    assert difference(weights(plan.artifact), weights(split.artifact)) < 1e-5


def test_an_error_that_is_not_of_memory_is_not_taken_for_one(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: Any) -> torch.Tensor:
        message = "mat1 and mat2 shapes cannot be multiplied"
        raise RuntimeError(message)

    monkeypatch.setattr(gradients, "target_loss", failing)
    with pytest.raises(RuntimeError, match="mat1"):
        run(plan)


def test_the_cpu_allocators_refusal_is_recognised() -> None:

    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 50, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


def half_writing(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let memory run out in the update of a step (counted from 1), after the first weight was written."""
    whole = Loop._update

    def update(self: Loop, rate: float) -> None:
        if self.position.step + 1 == step:
            next(iter(self.subject.trainable.values())).data.fill_(7.0)
            monkeypatch.setattr(self.optimizer, "step", raising(torch.OutOfMemoryError("in the update")))
        whole(self, rate)

    monkeypatch.setattr(Loop, "_update", update)


def raising(error: BaseException) -> Callable[[], None]:
    def step() -> None:
        raise error

    return step


def test_an_update_that_ran_out_of_memory_is_undone_by_the_next_attempt(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its weights are half written: a checkpoint of them, or an artifact, would be of no step at all."""
    run(plan)
    broken = replace(elsewhere(plan, tmp_path / "b"), checkpoints=CheckpointPlan(every_steps=2))
    recorder = Recorder()
    with monkeypatch.context() as patch:
        half_writing(4, patch)
        with pytest.raises(Interrupted):
            run(broken, recorder)
    (alert,) = recorder.of(event_pb2.Alert)
    assert alert.code == "UPDATE_OUT_OF_MEMORY"
    assert "update of step 4; the run restarts from step 2" in alert.message
    assert [saved.step for saved in recorder.of(event_pb2.CheckpointSaved)] == [2]
    resumed = run(broken)
    assert resumed.of(event_pb2.AttemptStarted)[0].restored_step == 2
    assert difference(weights(plan.artifact), weights(broken.artifact)) == 0.0


@pytest.mark.parametrize("every", [0, 2])
def test_an_update_that_runs_out_of_memory_without_progress_ends_the_run(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, every: int
) -> None:
    plan = replace(plan, checkpoints=CheckpointPlan(every_steps=every))
    half_writing(4, monkeypatch)
    if every:
        with pytest.raises(Interrupted):
            run(plan)
    with pytest.raises(MemoryExhaustedError) as refused:
        run(plan)
    assert (refused.value.reason, refused.value.field) == ("OUT_OF_MEMORY_UPDATE", "optimizer")
    assert not plan.artifact.exists()
