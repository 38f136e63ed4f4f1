# SPDX-License-Identifier: Apache-2.0
"""What tests of the training share: runs of a plan, what they reported, and the weights that they left.

The training libraries are imported where they are used: not every test of the folder needs them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from finetree_api.trainer.v1 import artifact_pb2, event_pb2
from finetree_api.types.v1 import method_pb2, run_spec_pb2
from finetree_api.worker.v1 import worker_pb2
from finetree_worker.control import Signal, Steering
from finetree_worker.events.envelope import Stamp, envelope
from finetree_worker.events.eta import Eta
from finetree_worker.methods.adapter import Adapter, AdapterPlacement
from finetree_worker.methods.full import Full
from finetree_worker.methods.lora import Lora
from finetree_worker.methods.prefix import Prefix, PrefixInit
from finetree_worker.methods.qlora import Qlora, Quantization
from finetree_worker.plan import DataPlan, EvaluationPlan, LossOn, Method, Metric, Optimization, Plan

LORA = Lora(rank=4, alpha=8.0, dropout=0.2)
METHODS: dict[str, Method] = {
    "full": Full(),
    "full-frozen": Full(frozen_layers=1),
    "lora": LORA,
    "rslora": replace(LORA, rank_stabilized=True),
    "dora": replace(LORA, weight_decomposed=True),
    "nf4": Qlora(LORA),
    "nf4-single": Qlora(LORA, double_quantization=False),
    "fp4": Qlora(LORA, Quantization.FP4),
    "int8": Qlora(LORA, Quantization.INT8),
    "prefix": Prefix(6),
    "prefix-zero": Prefix(6, PrefixInit.ZERO),
    "pfeiffer": Adapter(8),
    "houlsby": Adapter(8, AdapterPlacement.HOULSBY),
    "parallel": Adapter(8, AdapterPlacement.PARALLEL),
    "qdora": Qlora(replace(LORA, weight_decomposed=True)),
}
"""Every method and the settings of its own that change what is computed."""


@dataclass
class Recorder:
    """Keeps all payloads; `at_step` says what the control asks for once a step is reported."""

    at_step: dict[int, Signal] = field(default_factory=dict)
    events: list[Any] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)
    asked: Signal = Signal.NONE
    outcome: Any = None

    def emit(self, payload: Any, *, message: str = "", level: int = 0) -> None:
        # Whatever is reported can be written to the journal.
        event = envelope(payload, Stamp(0, 0.0), attempt=1, message=message, level=level)
        assert event.message
        self.events.append(payload)
        self.messages.append(event.message)
        if isinstance(payload, event_pb2.StepMetrics):
            self.asked = self.at_step.get(payload.step, self.asked)

    def poll(self) -> Signal:
        asked = self.asked
        if asked is Signal.CHECKPOINT:
            self.asked = Signal.NONE
        return asked

    def of(self, kind: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    def alerts(self) -> list[str]:
        """Codes of the alerts in order, but for the one that a loaded machine causes (see events/test_slowdown.py)."""
        return [alert.code for alert in self.of(event_pb2.Alert) if alert.code != "SLOWER_THAN_EXPECTED"]


def pausing(step: int) -> Recorder:
    """A recorder that asks for a pause after a step."""
    return Recorder({step: Signal.PAUSE})


def run(plan: Plan, recorder: Recorder | None = None) -> Recorder:
    """Train; the outcome is the recorder's."""
    from finetree_worker.training.run import train

    recorder = recorder or Recorder()
    recorder.outcome = train(plan, recorder, recorder)
    return recorder


def tuned(plan: Plan, **changes: Any) -> Plan:
    """The plan with other settings of its training."""
    data = {name: changes.pop(name) for name in ("sequence_length", "loss_on") if name in changes}
    return replace(plan, optimization=replace(plan.optimization, **changes), data=replace(plan.data, **data))


def held_out(plan: Plan, file: Path | None = None, fraction: float = 0.0, **evaluation: Any) -> Plan:
    """The plan with rows that are not trained on, and what is measured on them."""
    wanted = EvaluationPlan(**evaluation)
    questions = Metric.EXACT_MATCH in wanted.metrics
    data = replace(plan.data, held_out=file, split_fraction=fraction, questions=questions)
    return replace(plan, data=data, evaluation=wanted)


def elsewhere(plan: Plan, folder: Path) -> Plan:
    """The plan as another run of it."""
    return replace(plan, work=folder / "work", artifact=folder / "artifact")


def loop_of(plan: Plan, recorder: Recorder | None = None) -> Any:
    """The loop of a plan, before its first step; `adapted` is its model as peft has it."""
    import torch
    from finetree_worker.data.dataset import load_dataset
    from finetree_worker.models.load import load_tokenizer
    from finetree_worker.training.run import adapt, load

    recorder, cpu = recorder or Recorder(), torch.device("cpu")
    adapted, subject = adapt(plan, load(plan, cpu), cpu)
    rows = load_dataset(plan.data, load_tokenizer(plan.base.folder), lambda *_: None).train
    return bare_loop(plan, subject, rows, recorder, adapted=adapted)


def bare_loop(plan: Plan, subject: Any, rows: Sequence[Any], recorder: Recorder, adapted: Any = None) -> Any:
    """A loop over a subject and rows of a test's own."""
    from finetree_worker.training.loop import Loop

    eta = Eta(plan.evaluation, plan.checkpoints)
    loop: Any = Loop(plan, subject, rows, reporter=recorder, steering=Steering(recorder), eta=eta)
    loop.adapted = adapted
    return loop


def weights(folder: Path) -> dict[str, Any]:
    """The tensors of an artifact."""
    from safetensors.torch import load_file

    return load_file(next(folder.glob("*.safetensors")))


SPECS: dict[str, dict[str, Any]] = {
    "full": {"full": method_pb2.FullFineTuning()},
    "full-frozen": {"full": method_pb2.FullFineTuning(frozen_layers=1)},
    "lora": {"lora": method_pb2.Lora(rank=4, alpha=8)},
    "dora": {"lora": method_pb2.Lora(rank=4, alpha=8, weight_decomposed=True)},
    "nf4": {"qlora": method_pb2.Qlora(lora=method_pb2.Lora(rank=4, alpha=8))},
    "prefix": {"prefix": method_pb2.PrefixTuning(virtual_tokens=6)},
    "houlsby": {"adapter": method_pb2.AdapterLayers(bottleneck_size=8, placement=method_pb2.ADAPTER_PLACEMENT_HOULSBY)},
}
"""Methods of METHODS as a spec has them."""


def artifact_weights(plan: Plan, folder: Path | None = None) -> worker_pb2.TaskWeights:
    """The artifact of a run, sealed, as the task of another job has it."""
    from finetree_data.weights.fingerprint import fingerprint
    from finetree_worker.process.artifacts import seal

    folder = folder or plan.artifact
    task = worker_pb2.Task(folders=worker_pb2.TaskFolders(artifact_dir=str(folder.parent)))
    name = f"projects/p/jobs/j/artifacts/{folder.name}"
    sealed = seal(artifact_pb2.Artifact(name=name, kind=plan.method.artifact), task)
    found = worker_pb2.TaskWeights(name="init_from", folder=str(folder), kind=sealed.kind, source=name)
    found.sha256, found.base.fingerprint = sealed.sha256, fingerprint(plan.base.folder)
    return found


def checkpoint_weights(plan: Plan, kind: str, step: int) -> worker_pb2.TaskWeights:
    """A checkpoint of a run of METHODS[kind], as the task of another job has it."""
    from finetree_data.weights.fingerprint import fingerprint
    from finetree_worker.atomic_files import manifest_hash

    folder = plan.checkpoints_dir / f"step-{step:08d}"
    found = worker_pb2.TaskWeights(name="init_from", folder=str(folder), checkpoint=True, kind=plan.method.artifact)
    found.spec.CopyFrom(run_spec_pb2.RunSpec(**SPECS[kind]))
    found.sha256, found.base.fingerprint = manifest_hash(folder), fingerprint(plan.base.folder)
    return found


def weights_at(plan: Plan, step: int) -> dict[str, Any]:
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
    from finetree_worker.tokenize.example import Example

    return [
        Example(i, torch.zeros(n, dtype=torch.int32), torch.ones(n, dtype=torch.bool)) for i, n in enumerate(lengths)
    ]


def optimization(**changes: Any) -> Optimization:
    """An epoch in batches of four rows."""
    return replace(Optimization(1e-3, 4, 4, epochs=1.0), **changes)


def scripted(values: Sequence[Any]) -> Callable[[int], Any]:
    """An evaluation that gives these values one after the other."""
    given = iter(values)
    return lambda _: next(given)


def data_plan(file: Path, length: int = 256, **changes: Any) -> DataPlan:
    """What reading a file of rows needs of a plan."""
    return DataPlan(file, file.parent, sequence_length=length, **changes)


def dataset_of(plan: DataPlan, tokenizer: Any) -> Any:
    """The rows of a plan as tokens, with their report."""
    from finetree_worker.data.dataset import load_dataset

    return load_dataset(plan, tokenizer, lambda *_: None)


def read_rows(path: Path, reading: Any = None, *, place: str = "dataset") -> tuple[Any, list[Any]]:
    """The format of a file's rows, and the rows."""
    from finetree_worker.tokenize.rows import Reading, RowSource, found_row_format, rows_of

    file = RowSource(path, reading or Reading()).open()
    rows = list(rows_of(file, place))
    return found_row_format(file), rows


def examples_of(
    rows: Sequence[Any], row_format: Any, tokenizer: Any, loss_on: LossOn = LossOn.COMPLETIONS
) -> list[Any]:
    """Rows as they are learned, without truncation."""
    from itertools import pairwise

    import torch
    from finetree_worker.tokenize.example import Example
    from finetree_worker.tokenize.tokenizer import RowTokenizer, blocks

    maker, examples = RowTokenizer(tokenizer, loss_on), []
    for some in blocks(rows):
        block = maker.block(some, maker.render(some, row_format))
        tokens, learned = torch.from_numpy(block.tokens), torch.from_numpy(block.learned)
        for row, (start, end) in zip(some, pairwise([0, *block.lengths.cumsum().tolist()]), strict=True):
            examples.append(Example(row.number, tokens[start:end], learned[start:end]))
    return examples


def example_of(row: Any, row_format: Any, tokenizer: Any, loss_on: LossOn = LossOn.COMPLETIONS) -> Any:
    """One row as it is learned."""
    (example,) = examples_of([row], row_format, tokenizer, loss_on)
    return example


def learned_text(example: Any, tokenizer: Any) -> str:
    """The text of the tokens that are learned."""
    return str(tokenizer.decode(example.tokens[example.is_target].tolist()))


def random_examples(lengths: Sequence[int]) -> list[Any]:
    """Rows of random tokens, the second half of each learned."""
    import torch
    from finetree_worker.tokenize.example import Example

    generator = torch.Generator().manual_seed(7)
    rows = []
    for row, length in enumerate(lengths, start=1):
        tokens = torch.randint(0, 256, (length,), generator=generator, dtype=torch.int32)
        rows.append(Example(row, tokens, torch.arange(length) >= length // 2))
    return rows


def headed_examples(*families: tuple[int, Sequence[int]]) -> list[Any]:
    """Rows of random tokens in families: (tokens that its rows begin with, tokens that follow in each).

    The second half of what follows is learned. A byte may repeat, so rows of a family can share some tokens more.
    """
    import torch
    from finetree_worker.tokenize.example import Example

    generator = torch.Generator().manual_seed(11)
    rows = []
    for shared, sizes in families:
        header = torch.randint(0, 256, (shared,), generator=generator, dtype=torch.int32)
        for size in sizes:
            tokens = torch.cat([header, torch.randint(0, 256, (size,), generator=generator, dtype=torch.int32)])
            rows.append(Example(len(rows) + 1, tokens, torch.arange(shared + size) >= shared + size // 2))
    return rows


def dequantized(model: Any) -> dict[str, Any]:
    """The weights that a quantized model computes with, by module name."""
    from peft.utils.integrations import dequantize_module_weight

    return {
        name: dequantize_module_weight(module).clone()
        for name, module in model.named_modules()
        if type(module).__name__ in {"Linear4bit", "Linear8bitLt"}
    }
