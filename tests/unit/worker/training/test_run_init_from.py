# SPDX-License-Identifier: Apache-2.0
"""Runs that start from trained weights: they begin exactly where the others ended, with a fresh optimizer."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from finetree_api.trainer.v1 import event_pb2
from finetree_worker.data.dataset import load_dataset
from finetree_worker.errors import Cancelled, ModelError
from finetree_worker.models.gguf import base_facts
from finetree_worker.models.load import load_tokenizer
from finetree_worker.plan import CheckpointPlan, Metric, Plan
from finetree_worker.training.run import load
from peft import PeftModel
from torch.nn.functional import cross_entropy
from worker_harness import (
    METHODS,
    artifact_weights,
    checkpoint_weights,
    difference,
    held_out,
    loop_of,
    pausing,
    run,
    tuned,
    weights,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*past_key_values:FutureWarning"),
    pytest.mark.filterwarnings("ignore:The PEFT config's `base_model_name_or_path`:UserWarning"),
]
CPU = torch.device("cpu")
IDS = torch.arange(40)[None] % 256


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    found: torch.Tensor = model.eval()(input_ids=IDS).logits
    return found


def of_method(plan: Plan, kind: str, **changes: Any) -> Plan:
    chosen = replace(plan, method=METHODS[kind], checkpoints=CheckpointPlan(every_steps=2, keep=9))
    return tuned(chosen, **{"epochs": None, "max_steps": 3, **changes})


def child(plan: Plan, folder: Path, init_from: Any, **changes: Any) -> Plan:
    """A run of a job of its own, on weights, with other settings of the optimization."""
    own = replace(plan, work=folder / "child", artifact=folder / "continued", init_from=init_from)
    return tuned(own, **{"seed": 7, "learning_rate": 1e-3, **changes})


@pytest.mark.parametrize("kind", ["full", "lora", "dora", "nf4", "prefix", "houlsby"])
def test_a_run_begins_bit_for_bit_where_the_other_ended(plan: Plan, tmp_path: Path, kind: str) -> None:
    chosen = of_method(plan, kind)
    loop = loop_of(chosen)
    untrained = logits(loop.subject.model)
    loop.run(lambda _: None)
    chosen.artifact.mkdir()
    tokenizer, base = load_tokenizer(chosen.base.folder), base_facts(chosen.base)
    chosen.method.save(loop.adapted, chosen.artifact, base=base, tokenizer=tokenizer, dtype=torch.float32)
    (chosen.artifact / "manifest.json").write_text('{"files": {}}')
    parent = logits(loop.subject.model)
    assert (parent - untrained).abs().max() > 1e-3
    goes_on = loop_of(child(chosen, tmp_path, artifact_weights(chosen)))
    assert torch.equal(logits(goes_on.subject.model), parent)
    assert goes_on.subject.trainable.keys() == loop.subject.trainable.keys()
    assert not goes_on.optimizer.state, "the optimizer is fresh"
    if kind in ("lora", "dora", "nf4"):
        found = {name: p for name, p in goes_on.subject.trainable.items() if "lora_B" in name}
        assert all(p.any() for p in found.values())


def test_the_first_loss_is_that_of_the_artifact_loaded_by_peft(plan: Plan, tmp_path: Path) -> None:
    chosen = replace(of_method(plan, "lora"), method=replace(METHODS["lora"], dropout=0.0))
    run(chosen)
    goes_on = child(chosen, tmp_path, artifact_weights(chosen))
    recorder = run(goes_on)
    steps = recorder.of(event_pb2.StepMetrics)
    fresh = run(replace(goes_on, init_from=None, work=tmp_path / "f", artifact=tmp_path / "fresh"))
    rates = [[step.learning_rate for step in each.of(event_pb2.StepMetrics)] for each in (recorder, fresh)]
    assert rates[0] == rates[1], "the schedule begins anew"
    assert any("starts from projects/p/jobs/j/artifacts/artifact on CPU" in line for line in recorder.messages)
    # Another program: peft's own layers on transformers' own model, row by row.
    model: Any = PeftModel.from_pretrained(load(chosen, CPU), str(chosen.artifact)).eval()
    rows = load_dataset(goes_on.data, load_tokenizer(plan.base.folder), lambda *_: None).train
    first, loss, learned = loop_of(replace(goes_on, work=tmp_path / "other")).batches.of(0), 0.0, 0
    assert {row.row for row in first} <= {row.row for row in rows}
    for row in first:
        with torch.no_grad():
            scores = model(input_ids=row.tokens[None].long()).logits[0, :-1]
        targets = row.tokens[1:].long().masked_fill(~row.is_target[1:], -100)
        loss += float(cross_entropy(scores, targets, ignore_index=-100, reduction="sum"))
        learned += row.targets
    assert steps[0].loss == pytest.approx(loss / learned, abs=1e-5)
    assert abs(steps[0].loss - fresh.of(event_pb2.StepMetrics)[0].loss) > 1e-3


def test_what_the_parent_measured_last_is_what_the_child_measures_first(
    plan: Plan, tmp_path: Path, write_rows: Callable[..., Path], chat_rows: list[Any]
) -> None:
    file = write_rows(chat_rows[:4], "held.jsonl")
    chosen = held_out(of_method(plan, "lora"), file, metrics=(Metric.LOSS,))
    parent = run(chosen).of(event_pb2.EvalMetrics)[-1]
    goes_on = held_out(
        child(chosen, tmp_path, artifact_weights(chosen)), file, metrics=(Metric.LOSS,), before_training=True
    )
    before, after = (each.loss for each in run(goes_on).of(event_pb2.EvalMetrics))
    assert before == parent.loss
    assert after != before


@pytest.mark.parametrize("kind", ["lora", "full-frozen"])
def test_a_run_begins_at_a_checkpoint_of_another(plan: Plan, tmp_path: Path, kind: str) -> None:
    chosen = of_method(plan, kind)
    run(chosen)
    goes_on = loop_of(child(chosen, tmp_path, checkpoint_weights(chosen, kind, 2)))
    saved = weights_of_checkpoint(chosen)
    assert difference({name: p.detach() for name, p in goes_on.subject.trainable.items()}, saved) == 0.0


def weights_of_checkpoint(plan: Plan) -> dict[str, torch.Tensor]:
    from worker_harness import weights_at

    return weights_at(plan, 2)


def test_an_adapter_goes_on_on_the_quantized_base(plan: Plan, tmp_path: Path) -> None:
    chosen = of_method(plan, "lora")
    run(chosen)
    quantized = child(replace(chosen, method=METHODS["nf4"]), tmp_path, artifact_weights(chosen))
    own = dict(loop_of(quantized).subject.trainable)
    stored = weights(chosen.artifact)
    assert all(torch.equal(own[name.replace(".weight", ".default.weight")].data, t) for name, t in stored.items())


def test_a_run_that_was_stopped_ends_in_the_same_weights(plan: Plan, tmp_path: Path) -> None:
    chosen = of_method(plan, "lora")
    run(chosen)
    straight = child(chosen, tmp_path, artifact_weights(chosen), max_steps=4)
    run(straight)
    stopped = replace(straight, work=tmp_path / "stopped", artifact=tmp_path / "resumed")
    with pytest.raises(Cancelled):
        run(stopped, pausing(3))
    recorder = run(stopped)
    assert [step.step for step in recorder.of(event_pb2.StepMetrics)] == [4]
    assert difference(weights(straight.artifact), weights(stopped.artifact)) == 0.0
    other = replace(stopped, init_from=None)
    assert other.numerics_hash() != stopped.numerics_hash(), "a run on other weights takes none of its checkpoints"


def test_weights_that_do_not_fit_fail_the_run_before_it_trains(plan: Plan, tmp_path: Path) -> None:
    chosen = of_method(plan, "lora")
    run(chosen)
    start = artifact_weights(chosen)
    wider = child(replace(chosen, method=replace(METHODS["lora"], rank=6)), tmp_path, start)
    with pytest.raises(ModelError, match="does not fit") as refused:
        run(wider)
    assert (refused.value.reason, refused.value.field) == ("WEIGHTS_MISMATCH", "init_from")
    start.base.fingerprint = "0" * 64
    with pytest.raises(ModelError) as refused:
        run(child(chosen, tmp_path, start))
    assert refused.value.reason == "WRONG_BASE"
    start.sha256 = "0" * 64
    with pytest.raises(ModelError) as refused:
        run(child(chosen, tmp_path, start))
    assert refused.value.reason == "WEIGHTS_CHANGED"
    assert not (tmp_path / "continued").exists()
