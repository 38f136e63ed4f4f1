# SPDX-License-Identifier: Apache-2.0
"""The preflight: what does not fit is refused before the first step, and nothing else changes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from finetree_api.trainer.v1 import event_pb2
from finetree_api.types.v1 import check_pb2
from finetree_worker.errors import MemoryExhaustedError
from finetree_worker.plan import Checkpointing, OptimizerName, Plan
from finetree_worker.ranks.alone import Alone
from finetree_worker.training import gradients, optimizers
from finetree_worker.training.loss import target_loss
from finetree_worker.training.preflight import micro_batch
from finetree_worker.training.run import train
from worker_harness import METHODS, Recorder, difference, elsewhere, loop_of, optimization, run, tuned, weights

CUDA = torch.device("cuda")


@pytest.fixture
def no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory runs out in every forward pass."""

    def refusing(_: Any, batch: Any) -> torch.Tensor:
        raise torch.OutOfMemoryError(str(batch.tokens))

    monkeypatch.setattr(gradients, "target_loss", refusing)


def test_paged_state_is_neither_made_nor_counted_by_the_preflight(monkeypatch: pytest.MonkeyPatch) -> None:
    """It leaves the GPU when there is too little memory, so it never decides whether a run fits."""
    weight = torch.nn.Parameter(torch.ones(8, 8))
    paged = optimizers.build([weight], optimization(optimizer=OptimizerName.PAGED_ADAMW_8BIT), CUDA)
    monkeypatch.setattr(paged, "step", lambda: pytest.fail("the state was made"))
    micro_batch._make_state(paged)
    assert not paged.state


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
    monkeypatch.setattr(micro_batch, "check", lambda *_, **__: None)
    without = elsewhere(plan, tmp_path / "b")
    run(without)
    assert difference(weights(plan.artifact), weights(without.artifact)) == 0.0


@pytest.mark.parametrize(("packing", "rows"), [(True, 2), (True, 4), (False, 2)])
def test_the_preflight_runs_at_least_the_largest_micro_batch(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, packing: bool, rows: int
) -> None:
    seen: list[tuple[int, int]] = []

    def noted(model: Any, batch: Any) -> torch.Tensor:
        seen.append((batch.tokens, max(batch.lengths)))
        return target_loss(model, batch)

    monkeypatch.setattr(gradients, "target_loss", noted)
    recorder = run(tuned(plan, packing=packing, micro_batch_size=rows, sequence_length=110))
    assert recorder.of(event_pb2.PreflightReport)[0].tokens == seen[0][0]
    assert seen[0][0] >= max(tokens for tokens, _ in seen[1:])
    assert seen[0][1] == max(longest for _, longest in seen[1:])


@pytest.mark.parametrize("accumulating", [True, False])
def test_the_largest_micro_batch_runs_once_beside_all_that_a_later_one_has(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, accumulating: bool
) -> None:
    """The optimizer's state, and the gradients of an earlier micro-batch where a step has several."""
    seen: list[tuple[bool, bool]] = []
    check = micro_batch.check

    def watched(found: gradients.Gradients, optimizer: torch.optim.Optimizer, *rest: Any, **named: Any) -> None:
        trained, whole = list(found.subject.trainable.values()), found.one

        def noted(*arguments: Any, **more: Any) -> Any:
            seen.append((all(p.grad is not None for p in trained), all(p in optimizer.state for p in trained)))
            return whole(*arguments, **more)

        with monkeypatch.context() as inside:
            inside.setattr(found, "one", noted)
            check(found, optimizer, *rest, **named)

    monkeypatch.setattr(micro_batch, "check", watched)
    run(tuned(plan, packing=False, batch_size=4, micro_batch_size=2 if accumulating else 4))
    assert seen == [(accumulating, True)]


@pytest.mark.usefixtures("no_memory")
def test_a_run_that_cannot_fit_is_refused_with_numbers_before_its_first_step(plan: Plan) -> None:
    recorder = Recorder()
    with pytest.raises(MemoryExhaustedError) as caught:
        train(plan, recorder, recorder)
    assert (caught.value.reason, caught.value.category) == ("OUT_OF_MEMORY_PREFLIGHT", "CAPACITY")
    assert "GiB are free" in caught.value.message
    longest = recorder.of(event_pb2.DatasetReport)[0].longest_row_tokens
    assert f"one row of {longest} tokens" in caught.value.message
    (report,) = recorder.of(event_pb2.PreflightReport)
    assert report.checks[0].verdict == check_pb2.CHECK_VERDICT_FAIL
    assert "one row of" in report.checks[0].message or " rows of " in report.checks[0].message
    assert "1 rows" not in report.checks[0].message
    assert not recorder.of(event_pb2.StepMetrics)
    assert not plan.artifact.exists()


class Lockstep(Alone):
    """A rank that others would wait for in a pass."""

    lockstep = True


@pytest.mark.usefixtures("no_memory")
def test_ranks_in_lockstep_that_lack_memory_for_several_rows_are_told_a_smaller_micro_batch(plan: Plan) -> None:
    with pytest.raises(
        MemoryExhaustedError, match=r"^4 rows of \d+ tokens do not fit in this device's memory"
    ) as caught:
        train(plan, Recorder(), Recorder(), ranks=Lockstep())
    assert (caught.value.reason, caught.value.field) == ("OUT_OF_MEMORY_PREFLIGHT", "training.micro_batch_size")
    assert caught.value.remedy.startswith("Lower micro_batch_size below 4, ")


@pytest.mark.usefixtures("no_memory")
@pytest.mark.parametrize(
    ("kind", "checkpointing", "advice"),
    [
        ("lora", Checkpointing.OFF, "turn gradient checkpointing on, use qlora, or use a smaller model."),
        ("lora", Checkpointing.FULL, "use qlora, or use a smaller model."),
        ("nf4", Checkpointing.OFF, "turn gradient checkpointing on, or use a smaller model."),
        ("prefix", Checkpointing.OFF, "use qlora, or use a smaller model."),
    ],
)
def test_a_run_that_cannot_fit_is_advised_nothing_that_it_does_or_may_not_do(
    plan: Plan, kind: str, checkpointing: Checkpointing, advice: str
) -> None:
    asked = replace(tuned(plan, gradient_checkpointing=checkpointing), method=METHODS[kind])
    with pytest.raises(MemoryExhaustedError) as caught:
        run(asked)
    remedy = caught.value.remedy
    assert remedy.startswith("Lower sequence_length below ")
    assert remedy.partition(", ")[2] == advice


def test_on_a_gpu_what_can_move_to_the_host_is_advised_first(plan: Plan) -> None:
    gradients = loop_of(tuned(plan, gradient_checkpointing=Checkpointing.FULL)).gradients
    assert gradients.advice == "use qlora, or use a smaller model"
    gradients.subject = replace(gradients.subject, device=torch.device("cuda"))
    first, _, others = gradients.advice.partition(", ")
    assert first == "keep the inputs of layers in the host's memory (gradient_checkpointing: offloaded)"
    assert others == "use qlora, or use a smaller model"


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
