# SPDX-License-Identifier: Apache-2.0
"""The loop's guards: order of rows, accumulation, memory, divergence, early stopping."""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from finetree_worker import checkpoint, data, evaluate, events, gradients, optimizers, preflight
from finetree_worker.batches import BUCKET_BATCHES, Batches
from finetree_worker.errors import Cancelled, DivergedError, MemoryExhaustedError
from finetree_worker.events import Signal
from finetree_worker.gradients import Gradients
from finetree_worker.loop import Loop
from finetree_worker.loss import target_loss
from finetree_worker.models import load_model, load_tokenizer
from finetree_worker.packing import Example
from finetree_worker.plan import (
    CheckpointPlan,
    EvaluationPlan,
    FullMethod,
    LoraMethod,
    Metric,
    Optimization,
    OptimizerName,
    Schedule,
    TrainPlan,
)
from finetree_worker.steering import Steering
from finetree_worker.train import adapt, train
from safetensors.torch import load_file

CPU = torch.device("cpu")
CPU_FULL = "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory:"


@dataclass
class Recorder:
    """Keeps all events; `pause_after` is the step after which the control asks for a pause."""

    pause_after: int = 0
    events: list[Any] = field(default_factory=list)
    asked: Signal = Signal.NONE

    def emit(self, event: Any) -> None:
        self.events.append(event)
        if isinstance(event, events.StepMetrics) and event.step == self.pause_after:
            self.asked = Signal.PAUSE

    def poll(self) -> Signal:
        return self.asked

    def of(self, kind: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


def run(plan: TrainPlan, pause_after: int = 0) -> Recorder:
    recorder = Recorder(pause_after)
    train(plan, recorder, recorder)
    return recorder


def tuned(plan: TrainPlan, **changes: Any) -> TrainPlan:
    return replace(plan, optimization=replace(plan.optimization, **changes))


def elsewhere(plan: TrainPlan, folder: Path) -> TrainPlan:
    return replace(plan, work=folder / "work", artifact=folder / "artifact")


def loop_of(plan: TrainPlan, recorder: Recorder | None = None) -> Loop:
    recorder = recorder or Recorder()
    model = load_model(plan.base.folder, torch.float32, CPU)
    _, subject = adapt(plan, model, CPU)
    rows = data.load(plan, load_tokenizer(plan.base.folder), lambda _: None).train
    return Loop(plan, subject, rows, recorder, Steering(recorder))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = load_file(next(folder.glob("*.safetensors")))
    return found


def difference(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> float:
    assert left.keys() == right.keys()
    return max(float((left[name].detach() - right[name].detach()).abs().max()) for name in left)


def rows_of(lengths: Sequence[int]) -> list[Example]:
    return [
        Example(i, torch.zeros(n, dtype=torch.int32), torch.ones(n, dtype=torch.bool)) for i, n in enumerate(lengths)
    ]


def optimization(**changes: Any) -> Optimization:
    return replace(Optimization(1e-3, 4, 4, 128, epochs=1.0), **changes)


# ------------------------------------------------------------------------------------------------- order of the rows


@pytest.mark.parametrize("packing", [True, False])
def test_an_epoch_visits_every_row_once_whatever_the_order(packing: bool) -> None:
    batches = Batches(optimization(packing=packing, epochs=3.0), rows_of([1 + i * 7 % 50 for i in range(43)]))
    for epoch in range(3):
        seen = [row.row for step in range(11) for row in batches.of(epoch * 11 + step)]
        assert sorted(seen) == list(range(43))
    assert [r.row for r in batches.of(0)] != [r.row for r in batches.of(11)]
    assert len(batches.of(10)) == 3


def test_without_packing_the_rows_of_a_batch_are_of_like_length_and_the_batches_in_random_order() -> None:
    rows = rows_of([1 + i * 37 % 101 for i in range(4 * BUCKET_BATCHES * 2)])

    def spread(packing: bool) -> float:
        batches = Batches(optimization(packing=packing), rows)
        lengths = [[len(row) for row in batches.of(step)] for step in range(batches.total)]
        return sum(max(held) - min(held) for held in lengths) / len(lengths)

    assert spread(packing=False) < 0.1 * spread(packing=True)
    batches = Batches(optimization(packing=False), rows)
    longest = [max(map(len, batches.of(step))) for step in range(BUCKET_BATCHES)]
    assert longest not in (sorted(longest), sorted(longest, reverse=True))


def test_the_longest_rows_are_those_that_the_run_visits() -> None:
    rows = rows_of([*range(1, 40), 90])
    assert [len(row) for row in Batches(optimization(), rows).longest_first()] == [90, 39, 38, 37]
    seed = next(s for s in range(50) if 39 not in [r.row for r in Batches(optimization(seed=s), rows).of(0)])
    short = Batches(optimization(epochs=None, max_steps=1, seed=seed), rows)
    assert sorted(row.row for row in short.longest_first()) == sorted(row.row for row in short.of(0))


@pytest.mark.parametrize("packing", [True, False])
def test_a_run_with_three_interruptions_sees_the_rows_of_a_straight_one(
    plan: TrainPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packing: bool
) -> None:
    """Reshuffling after a resume would show rows twice, and never."""
    seen: list[tuple[int, ...]] = []
    plan = tuned(plan, packing=packing, micro_batch_size=2)
    monkeypatch.setattr(preflight, "check", lambda *_: None)
    monkeypatch.setattr(
        gradients,
        "target_loss",
        lambda model, batch: (seen.append(batch.rows), target_loss(model, batch))[1],
    )
    run(plan)
    straight, broken = list(seen), elsewhere(plan, tmp_path / "b")
    seen.clear()
    for stop in (1, 3, 4):
        with pytest.raises(Cancelled):
            run(broken, pause_after=stop)
    run(broken)
    assert seen == straight
    assert difference(weights(plan.artifact), weights(broken.artifact)) == 0.0


# ------------------------------------------------------------------------------------------------------ accumulation


@pytest.mark.parametrize("method", [LoraMethod(rank=4, dropout=0.2), FullMethod()], ids=["lora", "full"])
@pytest.mark.parametrize("packing", [True, False])
def test_gradients_do_not_hang_on_how_a_batch_is_split(plan: TrainPlan, method: Any, packing: bool) -> None:
    """8 x 1, 2 x 4 and 1 x 8 rows of unequal lengths, and a last window of three: per token, not a mean of means."""
    plan = replace(tuned(plan, packing=packing, batch_size=8, micro_batch_size=8), method=method)
    loop = loop_of(plan)
    rows = loop.batches.examples
    assert len({row.targets for row in rows}) > 5
    for window in (rows[:8], rows[8:]):
        found = [_gradients(loop, replace(loop.plan), window, micro) for micro in (8, 2, 1)]
        for split in found[1:]:
            largest = max(float(gradient.abs().max()) for gradient in found[0].values())
            assert difference(found[0], split) < 1e-6 * max(1.0, largest)


def _gradients(loop: Loop, plan: TrainPlan, rows: Sequence[Example], micro: int) -> dict[str, torch.Tensor]:
    from finetree_worker.attention import by_document

    # With packing tokens bound a micro-batch: so many that about `micro` rows share it.
    longest = max(map(len, rows))
    split = tuned(plan, micro_batch_size=micro, sequence_length=longest)
    recorder = Recorder()
    loop.subject.model.train()
    made = Gradients(split, loop.subject, recorder, Steering(recorder))
    with by_document(loop.subject.model):
        made.add(3, rows)
    found = {name: p.grad.clone() for name, p in loop.subject.trainable.items() if p.grad is not None}
    made.forget()
    return found


# ------------------------------------------------------------------------------------------------------------ memory


@pytest.mark.parametrize("optimizer", [OptimizerName.ADAMW, OptimizerName.ADAMW_8BIT, OptimizerName.SGD])
def test_the_preflight_leaves_no_trace(
    plan: TrainPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: OptimizerName
) -> None:
    plan = tuned(plan, optimizer=optimizer, weight_decay=0.1)
    recorder = run(plan)
    report, steps = recorder.of(events.PreflightReport), recorder.of(events.StepMetrics)
    assert len(report) == 1
    assert recorder.events.index(report[0]) < recorder.events.index(steps[0])
    assert report[0].fits
    assert report[0].peak_memory_bytes > 0
    assert report[0].free_memory_bytes > 0
    monkeypatch.setattr(preflight, "check", lambda *_: None)
    without = elsewhere(plan, tmp_path / "b")
    run(without)
    assert difference(weights(plan.artifact), weights(without.artifact)) == 0.0


@pytest.mark.parametrize("packing", [True, False])
def test_the_preflight_runs_at_least_the_largest_micro_batch(
    plan: TrainPlan, monkeypatch: pytest.MonkeyPatch, packing: bool
) -> None:
    seen: list[tuple[int, int]] = []

    def noted(model: Any, batch: Any) -> torch.Tensor:
        seen.append((batch.tokens, max(batch.lengths)))
        return target_loss(model, batch)

    monkeypatch.setattr(gradients, "target_loss", noted)
    recorder = run(tuned(plan, packing=packing, micro_batch_size=2, sequence_length=110))
    assert recorder.of(events.PreflightReport)[0].tokens == seen[0][0]
    assert seen[0][0] >= max(tokens for tokens, _ in seen[2:])
    assert seen[0][1] == max(longest for _, longest in seen[2:])


def test_a_run_that_cannot_fit_is_refused_with_numbers_before_its_first_step(
    plan: TrainPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusing(_: Any, batch: Any) -> torch.Tensor:
        raise torch.OutOfMemoryError(str(batch.tokens))

    monkeypatch.setattr(gradients, "target_loss", refusing)
    recorder = Recorder()
    with pytest.raises(MemoryExhaustedError) as caught:
        train(plan, recorder, recorder)
    assert (caught.value.reason, caught.value.category) == ("OUT_OF_MEMORY_PREFLIGHT", "CAPACITY")
    assert "GB are free" in caught.value.message
    longest = recorder.of(events.DatasetReport)[0].longest_row_tokens
    assert f"one row of {longest} tokens" in caught.value.message
    assert [report.fits for report in recorder.of(events.PreflightReport)] == [False]
    assert not recorder.of(events.StepMetrics)
    assert not plan.artifact.exists()


def test_an_optimizer_whose_state_does_not_fit_is_found_before_the_first_step(
    plan: TrainPlan, monkeypatch: pytest.MonkeyPatch
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
    plan: TrainPlan, monkeypatch: pytest.MonkeyPatch, packing: bool, error: BaseException, from_call: int
) -> None:
    """Two calls are the preflight's; dropout is on. Without packing rows must be cut, not tokens."""
    plan = tuned(plan, packing=packing, optimizer=OptimizerName.SGD, learning_rate=0.5)
    run(plan)
    monkeypatch.setattr(gradients, "target_loss", limited(128, from_call, error))
    split = elsewhere(plan, plan.work.parent / "split")
    recorder = run(split)
    changes = recorder.of(events.BatchSizeChanged)
    assert changes[0].step == (0 if from_call == 0 else 3)
    assert all(change.tokens_after < change.tokens_before for change in changes)
    assert all((change.rows_after < change.rows_before) is not packing for change in changes)
    assert [step.step for step in recorder.of(events.StepMetrics)] == [1, 2, 3, 4, 5, 6]
    assert difference(weights(plan.artifact), weights(split.artifact)) < 1e-5


def test_gradients_of_a_backward_pass_that_ran_out_of_memory_are_forgotten(
    plan: TrainPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
    assert len(run(split).of(events.BatchSizeChanged)) == 1
    assert difference(weights(plan.artifact), weights(split.artifact)) < 1e-5


def test_an_error_that_is_not_of_memory_is_not_taken_for_one(plan: TrainPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: Any) -> torch.Tensor:
        message = "mat1 and mat2 shapes cannot be multiplied"
        raise RuntimeError(message)

    monkeypatch.setattr(gradients, "target_loss", failing)
    with pytest.raises(RuntimeError, match="mat1"):
        run(plan)


def test_the_cpu_allocators_refusal_is_recognised() -> None:
    from finetree_worker.telemetry import is_out_of_memory

    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 50, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


# -------------------------------------------------------------------------------------------------------- divergence


def poisoned(steps: set[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the loss of these steps (counted from 0) not a number."""
    whole = Gradients.one

    def one(self: Gradients, step: int, documents: Sequence[Example], targets: int) -> Any:
        done = whole(self, step, documents, targets)
        if step in steps:
            for parameter in self._subject.trainable.values():
                if parameter.grad is not None:
                    parameter.grad.fill_(math.nan)
            return replace(done, loss=math.nan)
        return done

    monkeypatch.setattr(Gradients, "one", one)


def test_a_step_that_is_not_a_number_is_skipped_told_and_moves_nothing(
    plan: TrainPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    poisoned({2}, monkeypatch)
    plan = replace(plan, checkpoints=CheckpointPlan(every_steps=1, keep=9))
    recorder = run(plan)
    assert [(a.reason, a.step) for a in recorder.of(events.Alert)] == [("NON_FINITE_LOSS", 3)]
    assert [step.loss is None for step in recorder.of(events.StepMetrics)] == [False] * 2 + [True] + [False] * 3
    before, after = (weights_at(plan, step) for step in (2, 3))
    assert difference(before, after) == 0.0
    assert difference(after, weights_at(plan, 4)) > 0.0
    assert all(bool(tensor.isfinite().all()) for tensor in weights(plan.artifact).values())


def weights_at(plan: TrainPlan, step: int) -> dict[str, torch.Tensor]:
    return load_file(plan.checkpoints_dir / f"step-{step:08d}" / "weights.safetensors")


@pytest.mark.parametrize("limit", [1, 3])
def test_a_run_gives_up_after_as_many_bad_steps_in_a_row_as_it_was_told(
    plan: TrainPlan, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    poisoned({0, 3, 4, 5} if limit == 3 else {3}, monkeypatch)
    recorder = Recorder()
    with pytest.raises(DivergedError) as caught:
        train(tuned(plan, non_finite_limit=limit), recorder, recorder)
    assert caught.value.reason == "DIVERGED"
    assert len(recorder.of(events.StepMetrics)) == (6 if limit == 3 else 4)
    assert not plan.artifact.exists()


def test_an_exploding_run_ends_as_diverged(plan: TrainPlan) -> None:
    wild = tuned(
        plan, learning_rate=1e30, warmup_ratio=0.0, max_grad_norm=0.0, epochs=10.0, optimizer=OptimizerName.SGD
    )
    recorder = Recorder()
    with pytest.raises(DivergedError):
        train(wild, recorder, recorder)
    assert [alert.reason for alert in recorder.of(events.Alert)] == ["NON_FINITE_LOSS"] * 5
    assert all(step.loss is None or math.isfinite(step.loss) for step in recorder.of(events.StepMetrics))


# ---------------------------------------------------------------------------------------------------- early stopping


def scripted(losses: Sequence[float | None]) -> Callable[[int], float | None]:
    values = iter(losses)
    return lambda _: next(values)


@dataclass(frozen=True)
class Story:
    """Losses of the evaluations, and the steps that training ends at and that counts."""

    losses: tuple[float | None, ...]
    last: int
    best: int
    delta: float = 0.0


@pytest.mark.parametrize(
    "story",
    [
        pytest.param(Story((3.0, 2.0, 2.5, 2.4, 0.0), 4, 2), id="stops"),
        pytest.param(Story((3.0, 2.0, 2.5, 1.9, 2.0, 1.8), 6, 6), id="patience is renewed"),
        pytest.param(Story((3.0, 2.99, 2.98, 0.0), 3, 3, delta=0.1), id="gains below delta"),
        pytest.param(Story((3.0, None, None, 0.0), 3, 1), id="no finite loss"),
        pytest.param(Story((3.0, 2.0, 1.0, 0.9, 0.8, 5.0), 6, 5), id="the last is not the best"),
    ],
)
def test_training_stops_when_patience_is_over_and_the_best_weights_count(plan: TrainPlan, story: Story) -> None:
    stopping = EvaluationPlan(every_steps=1, early_stopping_patience=2, early_stopping_min_delta=story.delta)
    plan = replace(plan, evaluation=stopping)
    recorder = Recorder()
    loop = loop_of(plan, recorder)
    loop.run(scripted(story.losses))
    last, best = story.last, story.best
    assert len(recorder.of(events.StepMetrics)) == last
    now = {name: p.detach().clone() for name, p in loop.subject.trainable.items()}
    restored = recorder.of(events.BestRestored)
    if restored:
        assert (restored[0].step, restored[0].best_step, restored[0].early) == (last, best, last < 6)
        assert difference(now, weights_at(plan, best)) == 0.0
    else:
        assert last == best == 6


def test_a_run_that_stopped_early_does_not_go_on_when_it_is_resumed(plan: TrainPlan) -> None:
    plan = replace(plan, evaluation=EvaluationPlan(every_steps=1, early_stopping_patience=1))
    first = loop_of(plan)
    first.run(scripted([1.0, 2.0]))
    first.save_checkpoint(must=True)
    recorder = Recorder()
    second = loop_of(plan, recorder)
    assert second.restore() == 2
    second.run(scripted([]))
    assert not recorder.of(events.StepMetrics)
    assert [event.best_step for event in recorder.of(events.BestRestored)] == [1]
    assert difference(dict(second.subject.trainable), weights_at(plan, 1)) == 0.0


def test_the_best_checkpoint_is_what_is_published(plan: TrainPlan, write_rows: Callable[..., Path]) -> None:
    held = write_rows([{"prompt": "held", "completion": "out"}], "eval.jsonl")
    plan = replace(
        tuned(plan, epochs=20.0, learning_rate=2.0),
        evaluation=EvaluationPlan(held, metrics=(Metric.LOSS,), every_steps=1, early_stopping_patience=3),
    )
    recorder = run(plan)
    *during, after = recorder.of(events.EvalMetrics)
    best = min(during, key=lambda event: event.loss)
    assert len(during) == best.step + 3
    assert after.loss == pytest.approx(best.loss, rel=1e-5)
    published, kept = weights(plan.artifact), weights_at(plan, best.step)
    assert sorted(map(float, (t.norm() for t in published.values()))) == sorted(
        map(float, (t.norm() for t in kept.values()))
    )


# ----------------------------------------------------------------------------------- schedules, decay, clipping, told


@pytest.mark.parametrize("total", [1, 7, 100])
@pytest.mark.parametrize("warmup", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("schedule", list(Schedule))
def test_the_learning_rate_follows_its_closed_form(schedule: Schedule, warmup: float, total: int) -> None:
    plan = optimization(schedule=schedule, warmup_ratio=warmup, learning_rate=2.0)
    warm = math.ceil(warmup * total)
    rates = [optimizers.learning_rate(plan, step, total) for step in range(total)]
    for step, rate in enumerate(rates):
        done = (step - warm) / max(1, total - warm)
        after = {
            Schedule.CONSTANT: 2.0,
            Schedule.LINEAR: 2.0 * (1 - done),
            Schedule.COSINE: 1.0 + math.cos(math.pi * done),
        }[schedule]
        assert rate == pytest.approx(2.0 * (step + 1) / warm if step < warm else after)
    assert max(rates) <= 2.0
    assert min(rates) > 0.0, "no step is for nothing"


@pytest.mark.parametrize("name", [OptimizerName.ADAMW])
def test_matrices_decay_and_vectors_do_not(name: OptimizerName) -> None:
    matrix, vector = torch.nn.Parameter(torch.ones(4, 4)), torch.nn.Parameter(torch.ones(4))
    optimizer = optimizers.build([matrix, vector], optimization(optimizer=name, weight_decay=0.1), CPU)
    for parameter in (matrix, vector):
        parameter.grad = torch.zeros_like(parameter)
    for group in optimizer.param_groups:
        group["lr"] = 0.5
    optimizer.step()
    torch.testing.assert_close(matrix.detach(), torch.full((4, 4), 1 - 0.5 * 0.1))
    assert torch.equal(vector.detach(), torch.ones(4))


@pytest.mark.parametrize("limit", [1e-3, 1e6])
def test_a_step_is_as_long_as_the_clipped_gradient(plan: TrainPlan, limit: float) -> None:
    plan = tuned(plan, optimizer=OptimizerName.SGD, max_grad_norm=limit, warmup_ratio=0.0, max_steps=1, epochs=None)
    recorder = Recorder()
    loop = loop_of(plan, recorder)
    before = {name: p.detach().clone() for name, p in loop.subject.trainable.items()}
    loop.run(scripted([]))
    moved = torch.cat([(p.detach() - before[name]).flatten() for name, p in loop.subject.trainable.items()]).norm()
    step = recorder.of(events.StepMetrics)[0]
    assert step.grad_norm > 1e-2
    assert float(moved) == pytest.approx(step.learning_rate * min(limit, step.grad_norm), rel=1e-3)


def test_steps_tell_their_padding_and_checkpoints_their_hash(plan: TrainPlan) -> None:
    recorder = run(replace(tuned(plan, micro_batch_size=1, packing=False), checkpoints=CheckpointPlan(every_steps=2)))
    previous = 0
    batches = loop_of(tuned(plan, micro_batch_size=1, packing=False)).batches
    for step in recorder.of(events.StepMetrics):
        places = sum(-(-len(row) // 32) * 32 for row in batches.of(step.step - 1))
        assert step.padding_share == pytest.approx(1 - (step.tokens - previous) / places)
        previous = step.tokens
    for saved in recorder.of(events.CheckpointSaved):
        manifest = (plan.checkpoints_dir / saved.name / "manifest.json").read_bytes()
        assert saved.sha256 == hashlib.sha256(manifest).hexdigest()


# -------------------------------------------------------------------------------------------------------- evaluation


def test_evaluation_never_holds_more_logits_for_more_rows(tiny: Callable[..., Any]) -> None:
    """Gathering the logits of all rows is how an evaluation runs out of memory after the training fitted."""
    import weakref

    model, alive, most = tiny("llama"), [], 0

    def count(_module: Any, _args: Any, output: torch.Tensor) -> None:
        nonlocal most
        alive.append(weakref.ref(output))
        most = max(most, sum(held().numel() for held in alive if held() is not None))

    model.get_output_embeddings().register_forward_hook(count)
    rows = rows_of([40] * 8)
    evaluate.score(model, rows, 80, lambda _: None)
    few, most = most, 0
    evaluate.score(model, rows * 10, 80, lambda _: None)
    assert len(alive) == 4 + 40
    assert most == few


def test_token_accuracy_is_that_of_the_whole_logits(tiny: Callable[..., Any]) -> None:
    model, generator = tiny("llama"), torch.Generator().manual_seed(1)
    # What the model itself finds most probable, every third token moved: neither all right nor all wrong.
    tokens = torch.randint(0, 256, (1, 60), generator=generator)
    with torch.no_grad():
        for at in range(1, 60):
            if at % 3:
                tokens[0, at] = model(input_ids=tokens[:, :at]).logits[0, -1].argmax()
        right = model(input_ids=tokens).logits[0, :-1].argmax(-1) == tokens[0, 1:]
    example = Example(1, tokens[0].int(), torch.ones(60, dtype=torch.bool))
    score = evaluate.score(model, [example], 64, lambda _: None)
    assert score.accuracy == pytest.approx(float(right.float().mean()))
    assert 0.5 < score.accuracy < 1.0


def test_an_evaluation_that_runs_out_of_memory_goes_on_in_smaller_parts(
    tiny: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, rows = tiny("llama"), rows_of([40, 30, 20, 10])
    whole = evaluate.score(model, rows, 1000, lambda _: None)
    inner = evaluate.target_score

    def refusing(model: Any, batch: Any) -> Any:
        if len(batch.rows) > 1:
            raise torch.OutOfMemoryError("refused")
        return inner(model, batch)

    monkeypatch.setattr(evaluate, "target_score", refusing)
    assert evaluate.score(model, rows, 1000, lambda _: None).loss == pytest.approx(whole.loss, rel=1e-5)

    def hopeless(*_: Any) -> Any:
        raise torch.OutOfMemoryError("refused")

    monkeypatch.setattr(evaluate, "target_score", hopeless)
    with pytest.raises(MemoryExhaustedError):
        evaluate.score(model, rows, 1000, lambda _: None)


def test_a_loss_that_is_not_a_number_is_never_the_best(plan: TrainPlan, write_rows: Callable[..., Path]) -> None:
    loop = loop_of(plan)
    assert not loop._is_best(None)
    assert loop.position.best_loss is None
    assert evaluate.perplexity(math.nan) is None
    assert checkpoint.best_step(plan.checkpoints_dir) is None
