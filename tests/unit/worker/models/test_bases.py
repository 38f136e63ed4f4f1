# SPDX-License-Identifier: Apache-2.0
"""A base that is kept from task to task: results are those of a base of one's own, and what a task leaves is undone."""

import gc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from finetree_api.trainer.v1 import event_pb2
from finetree_worker.control import Signal
from finetree_worker.errors import Cancelled
from finetree_worker.models.bases import Bases
from finetree_worker.plan import Checkpointing, Metric, Plan, Precision
from finetree_worker.training.run import adapt, load, train
from worker_harness import METHODS, Recorder, elsewhere, held_out, run, tuned

CPU = torch.device("cpu")
OF_THE_RUN = frozenset({"README.md", "training.json"})
"""Files of an artifact that say when and how fast it was made."""
PREDECESSORS = {
    "lora": "parallel",
    "prefix": "dora",
    "houlsby": "prefix",
    "nf4": "qdora",
    "int8": "int8",
}
"""Methods, and one of another kind that has left something else in the base before."""


def run_on(bases: Bases, plan: Plan, recorder: Recorder | None = None) -> Recorder:
    recorder = recorder or Recorder()
    recorder.outcome = train(plan, recorder, recorder, bases)
    return recorder


def losses(recorder: Recorder) -> list[float]:
    return [metrics.loss for kind in (event_pb2.StepMetrics, event_pb2.EvalMetrics) for metrics in recorder.of(kind)]


def files(folder: Path) -> dict[str, bytes]:
    found = {file.name: file.read_bytes() for file in folder.iterdir() if file.name not in OF_THE_RUN}
    return {name: content for name, content in found.items() if not name.startswith(".")}


def base_of(plan: Plan, bases: Bases) -> Any:
    return load(plan, CPU, bases)


@pytest.mark.parametrize("kind", PREDECESSORS)
def test_a_run_on_a_base_that_another_run_has_used_is_equal_to_the_last_bit(
    kind: str, plan: Plan, tmp_path: Path
) -> None:
    chosen = tuned(replace(plan, method=METHODS[kind]), precision=Precision.BF16)
    chosen = held_out(chosen, fraction=0.2, before_training=True, metrics=(Metric.LOSS,))
    before = replace(elsewhere(chosen, tmp_path / "before"), method=METHODS[PREDECESSORS[kind]])
    recomputed = Checkpointing.OFF if PREDECESSORS[kind] == "prefix" else Checkpointing.FULL
    before = tuned(before, gradient_checkpointing=recomputed, seed=5)
    alone = run(elsewhere(chosen, tmp_path / "alone"))
    bases = Bases(keep=True)

    run_on(bases, before)
    assert bases.settle()
    second = run_on(bases, elsewhere(chosen, tmp_path / "second"))
    assert bases.settle()

    (started,) = second.of(event_pb2.AttemptStarted)
    assert started.base_reused
    assert "; the base was loaded already" in second.messages[second.events.index(started)]
    assert bases.loads == 1
    assert losses(second) == losses(alone)
    made = files(tmp_path / "second" / "artifact")
    assert len(made) >= 4
    assert made == files(tmp_path / "alone" / "artifact")


def test_a_cancelled_run_leaves_the_base_as_it_was(plan: Plan, tmp_path: Path) -> None:
    bases = Bases(keep=True)
    with pytest.raises(Cancelled):
        run_on(bases, plan, Recorder({2: Signal.CANCEL}))
    assert bases.settle()
    second = run_on(bases, elsewhere(plan, tmp_path / "second"))
    assert losses(second) == losses(run(elsewhere(plan, tmp_path / "alone")))
    assert bases.loads == 1


def _in_place(model: Any) -> None:
    with torch.no_grad():
        model.get_input_embeddings().weight[3, 5] += 1e-3


def _through_data(model: Any) -> None:
    model.model.norm.weight.data[0] = 1.5


@pytest.mark.parametrize("write", [_in_place, _through_data])
def test_a_base_whose_weights_were_written_is_loaded_anew(write: Callable[[Any], None], plan: Plan) -> None:
    bases = Bases(keep=True)
    clean = [parameter.clone() for parameter in base_of(plan, bases).parameters()]
    write(base_of(plan, bases))
    assert not bases.settle()
    again = base_of(plan, bases)
    assert (bases.loads, bases.reused) == (2, False)
    assert all(torch.equal(left, right) for left, right in zip(clean, again.parameters(), strict=True))


def test_everything_else_that_was_changed_is_put_back(plan: Plan) -> None:
    bases = Bases(keep=True)
    model = base_of(plan, bases)
    layer, norm = model.model.layers[0], model.model.norm
    before = {name: type(module) for name, module in model.named_modules()}
    adapt(tuned(plan, gradient_checkpointing=Checkpointing.FULL), model, CPU)
    layer.register_forward_hook(lambda *_: None)
    layer.forward = lambda *_: None
    norm.weight.data = norm.weight.data.to(torch.bfloat16)
    model.config.use_cache = True
    model.set_attn_implementation("eager")
    model.train()
    assert bases.settle()
    assert {name: type(module) for name, module in model.named_modules()} == before
    assert not layer._forward_hooks
    assert "forward" not in vars(layer)
    assert norm.weight.dtype is torch.float32
    assert not model.config.use_cache
    assert model.config._attn_implementation == "sdpa"
    assert not model.is_activation_checkpointing
    assert not model.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


def test_another_base_and_one_that_is_trained_take_its_place(plan: Plan, tmp_path: Path) -> None:
    bases = Bases(keep=True)
    first = base_of(plan, bases)
    assert base_of(plan, bases) is first
    for changed in (tuned(plan, precision=Precision.BF16), replace(plan, method=METHODS["nf4"]), plan):
        assert bases.settle()
        base_of(changed, bases)
        assert not bases.reused
    assert bases.loads == 4
    # A file that was written again, with the same bytes.
    assert bases.settle()
    config = plan.base.folder / "config.json"
    config.write_bytes(config.read_bytes())
    base_of(plan, bases)
    assert not bases.reused
    run_on(bases, replace(elsewhere(plan, tmp_path / "full"), method=METHODS["full"]))
    assert not bases.settle()


def test_runs_on_one_base_leave_nothing_behind(plan: Plan, tmp_path: Path) -> None:
    """Counted in tensors and modules that are alive: after the third run as many as after the first."""
    bases, counts = Bases(keep=True), []
    for number in range(3):
        run_on(bases, tuned(elsewhere(plan, tmp_path / str(number)), seed=number))
        assert bases.settle()
        gc.collect()
        alive = [each for each in gc.get_objects() if isinstance(each, torch.Tensor | torch.nn.Module)]
        tensors = [each for each in alive if isinstance(each, torch.Tensor)]
        counts.append((len(alive), sum(tensor.nbytes for tensor in tensors)))
    assert counts[0] == counts[1] == counts[2]
