# SPDX-License-Identifier: Apache-2.0
"""Whole runs on a tiny model: the story they tell, what they change, what they leave."""

import hashlib
import math
from collections.abc import Callable
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from finetree_api.trainer.v1 import event_pb2, job_pb2
from finetree_api.types.v1 import evidence_pb2
from finetree_worker import device_memory
from finetree_worker.data.packing import collate
from finetree_worker.data.prefixes import Sharing
from finetree_worker.events.eta import MIN_STEPS, Pace
from finetree_worker.methods.full import Full
from finetree_worker.methods.lora import Lora
from finetree_worker.methods.qlora import Qlora
from finetree_worker.plan import Checkpointing, CheckpointPlan, Expected, Metric, Plan, Precision, Price
from finetree_worker.training.run import adapt, load, weight_dtype
from worker_harness import difference, held_out, loop_of, run, tuned, weights


def test_a_run_lowers_the_loss_and_tells_its_story_in_order(plan: Plan) -> None:
    recorder = run(tuned(plan, epochs=20.0))
    steps = recorder.of(event_pb2.StepMetrics)
    assert [step.step for step in steps] == list(range(1, 61))
    assert recorder.outcome.final_loss is not None
    assert recorder.outcome.final_loss < 0.7 * steps[0].loss
    assert steps[-1].epoch == 20.0
    assert steps[-1].eta_seconds.expected == 0
    assert all(step.memory_bytes > 0 and step.tokens_per_second > 0 for step in steps)
    # The kernel counts pages per core and adds them up only roughly.
    assert steps[-1].peak_memory_bytes > 0.98 * max(step.memory_bytes for step in steps)
    phases = [event.phase for event in recorder.of(event_pb2.PhaseProgress) if event.fraction == 1.0]
    names = [job_pb2.JobPhase.Name(phase).removeprefix("JOB_PHASE_") for phase in phases]
    assert names == ["LOAD_MODEL", "TOKENIZE", "TRAIN", "SAVE"]
    (started,) = recorder.of(event_pb2.AttemptStarted)
    trained = sum(tensor.numel() for tensor in weights(plan.artifact).values())
    assert started.environment["trainable_parameters"] == str(trained)
    assert (started.environment["threads"], started.environment["precision"]) == ("1", "fp32")
    assert started.environment["torch"] == metadata.version("torch")
    assert started.reason == event_pb2.ATTEMPT_REASON_FIRST


def test_a_run_that_is_slower_than_estimated_says_within_twenty_steps_what_was_measured(plan: Plan) -> None:
    """For real, on whatever this machine is: an estimate from a matrix rate that no processor has."""
    fast = evidence_pb2.Interval(low=1e-9, expected=1e-9, high=1e-9)
    expected = Expected(fast, forward_rate=1e18, backward_rate=1e18)
    recorder = run(replace(tuned(plan, epochs=5.0), expected=expected))
    kinds = [(type(event), getattr(event, "step", 0)) for event in recorder.events]
    alert = next(event for event in recorder.of(event_pb2.Alert) if event.code == "SLOWER_THAN_EXPECTED")
    following = kinds[recorder.events.index(alert) + 1]
    assert following[0] is event_pb2.StepMetrics
    assert following[1] <= 20
    # Something else that it measured, such as another process, or else the rate, measured again.
    assert "nothing that was measured explains it" not in alert.message
    assert "estimated were 1e-09 s" in alert.message


def test_a_run_says_where_it_runs_what_it_has_cost_and_whose_checkpoint_it_saved(plan: Plan) -> None:
    placement = job_pb2.Placement(node="node-1", device_ids=["cpu"])
    priced = replace(plan, job="projects/p/jobs/j", attempt=2, placements=(placement,), price=Price(3600.0, "EUR"))
    recorder = run(replace(priced, checkpoints=CheckpointPlan(every_steps=4)))
    (started,), (saved,) = recorder.of(event_pb2.AttemptStarted), recorder.of(event_pb2.CheckpointSaved)
    assert (list(started.placements), started.reason) == ([placement], event_pb2.ATTEMPT_REASON_RECOVERED)
    assert any(line.startswith("attempt 2 starts on CPU with ") for line in recorder.messages)
    assert saved.name == "projects/p/jobs/j/checkpoints/4"
    costs = [step.cost_so_far for step in recorder.of(event_pb2.StepMetrics)]
    assert {cost.currency_code for cost in costs} == {"EUR"}
    spent = [cost.units + cost.nanos / 1e9 for cost in costs]
    seconds = sum(step.step_seconds for step in recorder.of(event_pb2.StepMetrics))
    assert spent == sorted(spent)
    assert spent[-1] == pytest.approx(seconds, rel=1e-6)


def test_a_second_run_on_the_same_data_tokenizes_nothing_and_ends_in_the_same_weights(
    plan: Plan, tmp_path: Path
) -> None:
    cached = replace(plan.data, token_cache=tmp_path / "tokens", token_cache_bytes=1 << 20)
    first = replace(tuned(plan, epochs=1.0), data=cached)
    second = replace(first, artifact=tmp_path / "b", work=tmp_path / "w")
    found = [run(chosen).of(event_pb2.DatasetReport)[0].tokens_from_cache for chosen in (first, second)]
    assert found == [False, True]
    assert difference(weights(first.artifact), weights(second.artifact)) == 0.0


@pytest.mark.parametrize("leaked", [0, 2])
def test_a_run_says_that_held_out_rows_are_training_rows(
    plan: Plan, write_rows: Callable[..., Path], chat_rows: list[Any], leaked: int
) -> None:
    held = write_rows([{"prompt": "new", "completion": "n"}], "held.jsonl")
    if leaked:
        held = write_rows(chat_rows[:leaked], "held.jsonl")
    recorder = run(tuned(held_out(plan, held), epochs=None, max_steps=1))
    assert recorder.alerts() == ["HELD_OUT_ROWS_LEAKED"] * bool(leaked)


@pytest.mark.parametrize("length", [{"epochs": 2.5}, {"epochs": None, "max_steps": 7}], ids=["epochs", "steps"])
def test_the_tokens_that_remain_are_known(plan: Plan, monkeypatch: pytest.MonkeyPatch, length: dict[str, Any]) -> None:
    asked: list[tuple[int, int]] = []

    class Recorded(Pace):
        def remaining(self, steps: int, tokens: int) -> float:
            asked.append((steps, tokens))
            return super().remaining(steps, tokens)

    monkeypatch.setattr("finetree_worker.events.eta.Pace", Recorded)
    recorder = run(tuned(plan, **length))
    steps = recorder.of(event_pb2.StepMetrics)
    left = [(len(steps) - step.step, steps[-1].processed_tokens - step.processed_tokens) for step in steps]
    assert asked == left[MIN_STEPS - 1 :]


@pytest.mark.parametrize("how", [Checkpointing.FULL, Checkpointing.OFFLOADED])
def test_gradient_checkpointing_changes_no_weight(plan: Plan, tmp_path: Path, how: Checkpointing) -> None:
    checkpointed = replace(tuned(plan, gradient_checkpointing=how), artifact=tmp_path / "b", work=tmp_path / "w")
    run(plan)
    run(checkpointed)
    assert difference(weights(plan.artifact), weights(checkpointed.artifact)) < 1e-6


@pytest.mark.parametrize(
    ("kind", "how", "offload"),
    [
        ("cuda", Checkpointing.FULL, False),
        ("cuda", Checkpointing.OFFLOADED, True),
        ("cpu", Checkpointing.OFFLOADED, False),
    ],
)
def test_inputs_of_layers_move_to_the_host_from_a_gpu_alone(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, kind: str, how: Checkpointing, offload: bool
) -> None:
    """transformers' own switch, as a GPU's run sets it; on a CPU its copies would ask for memory that none can pin."""
    model, asked = load(plan, torch.device("cpu")), []
    enable = model.activation_checkpointing_enable

    def seen(kwargs: dict[str, Any], *, offload: bool) -> None:
        asked.append(offload)
        enable(kwargs)

    monkeypatch.setattr(model, "activation_checkpointing_enable", seen)
    adapt(tuned(plan, gradient_checkpointing=how), model, torch.device(kind))
    assert asked == [offload]


def test_evaluation_before_and_after_with_samples(plan: Plan, write_rows: Callable[..., Path]) -> None:
    rows = [{"prompt": f"say {c}", "completion": c * 2} for c in "abcd"]
    evaluated = held_out(
        tuned(plan, epochs=60.0, learning_rate=5e-3, batch_size=2),
        write_rows(rows, "eval.jsonl"),
        metrics=(Metric.LOSS, Metric.EXACT_MATCH),
        max_new_tokens=4,
        samples=2,
        before_training=True,
    )
    data = replace(evaluated.data, train=write_rows(rows))
    recorder = run(replace(evaluated, method=Full(), data=data))
    before, after = recorder.of(event_pb2.EvalMetrics)
    assert (before.step, after.step, after.examples) == (0, 120, 4)
    assert (before.exact_match, after.exact_match) == (0.0, 1.0)
    assert after.loss < before.loss
    assert after.perplexity == pytest.approx(math.exp(after.loss))
    samples = recorder.of(event_pb2.Sample)
    assert [(s.prompt, s.expected, s.after) for s in samples] == [("say a", "aa", "aa"), ("say c", "cc", "cc")]
    assert all(sample.exact_match and sample.before and sample.before != sample.after for sample in samples)


@pytest.mark.parametrize("precision", [Precision.BF16, Precision.BF16_MIXED])
@pytest.mark.parametrize("method", [Lora(rank=4), Full()])
def test_half_precision_learns_too(plan: Plan, method: Any, precision: Precision) -> None:
    recorder = run(replace(tuned(plan, precision=precision, epochs=4.0), method=method))
    assert recorder.outcome.final_loss is not None
    assert recorder.outcome.final_loss < recorder.of(event_pb2.StepMetrics)[0].loss
    stored = weights(plan.artifact)
    expected = torch.float32 if isinstance(method, Lora) else torch.bfloat16
    assert {tensor.dtype for tensor in stored.values()} == {expected}


def test_steps_tell_their_padding_and_checkpoints_their_hash(plan: Plan) -> None:
    recorder = run(replace(tuned(plan, micro_batch_size=1, packing=False), checkpoints=CheckpointPlan(every_steps=2)))
    previous = 0
    batches = loop_of(tuned(plan, micro_batch_size=1, packing=False)).batches
    for step in recorder.of(event_pb2.StepMetrics):
        places = sum(-(-len(row) // 32) * 32 for row in batches.of(step.step - 1))
        assert step.padding_fraction == pytest.approx(1 - (step.processed_tokens - previous) / places)
        assert step.shared_tokens == 0
        previous = step.processed_tokens
    for saved in recorder.of(event_pb2.CheckpointSaved):
        manifest = (plan.checkpoints_dir / f"step-{saved.step:08d}" / "manifest.json").read_bytes()
        assert saved.sha256 == hashlib.sha256(manifest).hexdigest()


def test_steps_tell_the_tokens_that_rows_shared(plan: Plan) -> None:
    """The rows' questions begin alike. Padding is of what was computed; processed tokens are the rows' own."""
    recorder, batches = run(plan), loop_of(plan).batches
    tokens = 0
    for step in recorder.of(event_pb2.StepMetrics):
        rows = batches.of(step.step - 1)
        tokens += sum(map(len, rows))
        batch = collate(rows, Sharing())  # all rows of a step fit in a micro-batch
        assert step.shared_tokens == sum(map(len, rows)) - batch.tokens > 0
        assert step.padding_fraction == pytest.approx(1 - batch.tokens / batch.token_ids.numel())
        assert step.processed_tokens == tokens


@pytest.mark.parametrize(("precision", "told"), [(Precision.BF16, True), (Precision.FP32, False)])
def test_a_run_says_that_bfloat16_is_emulated(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, precision: Precision, told: bool
) -> None:
    monkeypatch.setattr(device_memory, "emulates_bfloat16", lambda _: True)
    recorder = run(tuned(plan, precision=precision, max_steps=1, epochs=None))
    assert recorder.alerts() == ["BFLOAT16_EMULATED"] * told


@pytest.mark.parametrize(
    ("method", "precision", "loaded", "stored"),
    [
        (Full(), Precision.BF16, torch.bfloat16, torch.bfloat16),
        (Full(), Precision.BF16_MIXED, torch.float32, torch.bfloat16),
        (Full(), Precision.FP16_MIXED, torch.float32, torch.float16),
        (Full(), Precision.FP32, torch.float32, torch.float32),
        (Lora(), Precision.BF16, torch.bfloat16, torch.bfloat16),
        (Lora(), Precision.BF16_MIXED, torch.bfloat16, torch.bfloat16),
        (Lora(), Precision.FP16_MIXED, torch.float16, torch.float16),
        (Qlora(), Precision.FP16_MIXED, torch.float16, torch.float16),
    ],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_weights_have_the_type_of_the_precision(
    plan: Plan, method: Any, precision: Precision, loaded: torch.dtype, stored: torch.dtype
) -> None:
    chosen = replace(tuned(plan, precision=precision), method=method)
    assert (weight_dtype(chosen), weight_dtype(chosen, stored=True)) == (loaded, stored)
