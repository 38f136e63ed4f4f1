# SPDX-License-Identifier: Apache-2.0
"""What tests of the training core share: runs of a plan, what they told, and the weights that they left.

The training libraries are imported where they are used: not every test of the folder needs them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from finetree_worker.events import types
from finetree_worker.events.types import Signal
from finetree_worker.plan import (
    AdapterMethod,
    BaseModel,
    EvaluationPlan,
    FullMethod,
    LoraMethod,
    Method,
    Optimization,
    Placement,
    PrefixInit,
    PrefixMethod,
    QloraMethod,
    Quantization,
    TrainPlan,
)

LORA = LoraMethod(rank=4, alpha=8.0, dropout=0.2)
METHODS: dict[str, Method] = {
    "full": FullMethod(),
    "full-frozen": FullMethod(frozen_layers=1),
    "lora": LORA,
    "rslora": replace(LORA, rank_stabilized=True),
    "dora": replace(LORA, weight_decomposed=True),
    "nf4": QloraMethod(LORA),
    "nf4-single": QloraMethod(LORA, double_quantization=False),
    "fp4": QloraMethod(LORA, Quantization.FP4),
    "int8": QloraMethod(LORA, Quantization.INT8),
    "prefix": PrefixMethod(6),
    "prefix-zero": PrefixMethod(6, PrefixInit.ZERO),
    "pfeiffer": AdapterMethod(8),
    "houlsby": AdapterMethod(8, Placement.HOULSBY),
    "parallel": AdapterMethod(8, Placement.PARALLEL),
    "qdora": QloraMethod(replace(LORA, weight_decomposed=True)),
}
"""Every method and the settings of its own that change what is computed."""


@dataclass
class Recorder:
    """Keeps all events; `at_step` says what the control asks for once a step is told."""

    at_step: dict[int, Signal] = field(default_factory=dict)
    events: list[Any] = field(default_factory=list)
    asked: Signal = Signal.NONE
    outcome: Any = None

    def emit(self, event: Any) -> None:
        self.events.append(event)
        if isinstance(event, types.StepMetrics):
            self.asked = self.at_step.get(event.step, self.asked)

    def poll(self) -> Signal:
        asked = self.asked
        if asked is Signal.CHECKPOINT:
            self.asked = Signal.NONE
        return asked

    def of(self, kind: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


def pausing(step: int) -> Recorder:
    """A recorder that asks for a pause after a step."""
    return Recorder({step: Signal.PAUSE})


def run(plan: TrainPlan, recorder: Recorder | None = None) -> Recorder:
    """Train; the outcome is the recorder's."""
    from finetree_worker.training.run import train

    recorder = recorder or Recorder()
    recorder.outcome = train(plan, recorder, recorder)
    return recorder


def tuned(plan: TrainPlan, **changes: Any) -> TrainPlan:
    """The plan with another optimization."""
    return replace(plan, optimization=replace(plan.optimization, **changes))


def elsewhere(plan: TrainPlan, folder: Path) -> TrainPlan:
    """The plan as another run of it."""
    return replace(plan, work=folder / "work", artifact=folder / "artifact")


def loop_of(plan: TrainPlan, recorder: Recorder | None = None) -> Any:
    """The loop of a plan, before its first step; `adapted` is its model as peft has it."""
    import torch
    from finetree_worker.control import Steering
    from finetree_worker.data.dataset import load_dataset
    from finetree_worker.models.load import load_tokenizer
    from finetree_worker.training.loop import Loop
    from finetree_worker.training.run import adapt, load

    recorder, cpu = recorder or Recorder(), torch.device("cpu")
    adapted, subject = adapt(plan, load(plan, cpu), cpu)
    rows = load_dataset(plan, load_tokenizer(plan.base.folder), lambda _: None).train
    loop: Any = Loop(plan, subject, rows, recorder, Steering(recorder))
    loop.adapted = adapted
    return loop


def weights(folder: Path) -> dict[str, Any]:
    """The tensors of an artifact."""
    from safetensors.torch import load_file

    return load_file(next(folder.glob("*.safetensors")))


def weights_at(plan: TrainPlan, step: int) -> dict[str, Any]:
    """The trained tensors of a checkpoint."""
    from safetensors.torch import load_file

    return load_file(plan.checkpoints_dir / f"step-{step:08d}" / "weights.safetensors")


def difference(left: dict[str, Any], right: dict[str, Any]) -> float:
    """The largest difference of any number of two sets of tensors."""
    assert left.keys() == right.keys()
    return max(float((left[name].detach() - right[name].detach()).abs().max()) for name in left)


def rows_of(lengths: Sequence[int]) -> list[Any]:
    """Rows of so many tokens, all of them learned."""
    import torch
    from finetree_worker.data.packing import Example

    return [
        Example(i, torch.zeros(n, dtype=torch.int32), torch.ones(n, dtype=torch.bool)) for i, n in enumerate(lengths)
    ]


def optimization(**changes: Any) -> Optimization:
    """An epoch in batches of four rows."""
    return replace(Optimization(1e-3, 4, 4, 128, epochs=1.0), **changes)


def scripted(values: Sequence[Any]) -> Callable[[int], Any]:
    """An evaluation that gives these values one after the other."""
    given = iter(values)
    return lambda _: next(given)


def data_plan(file: Path, length: int = 256, packing: bool = True, **evaluation: Any) -> TrainPlan:
    """What reading a file of rows needs of a plan."""
    return TrainPlan(
        BaseModel(file.parent),
        file,
        LoraMethod(),
        Optimization(1e-3, 4, 4, length, epochs=1.0, packing=packing),
        file.parent,
        file.parent / "artifact",
        EvaluationPlan(**evaluation),
    )


def tokenised(plan: TrainPlan, tokenizer: Any) -> Any:
    """The rows of a plan as tokens, with their report."""
    from finetree_worker.data.dataset import load_dataset

    return load_dataset(plan, tokenizer, lambda _: None)
