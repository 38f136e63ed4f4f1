# SPDX-License-Identifier: Apache-2.0
"""What may be combined: each cell trains two steps, or estimator, trainer and worker refuse it with one reason.

Methods x packing x gradient checkpointing x attention x precision, each as a spec that goes the way of a real one. The
recommender has no rule of its own: it builds specs that pass the shared one, which its unit tests hold it to.
"""

import copy
import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from finetree_api.estimator.v1 import estimate_pb2
from finetree_api.trainer.v1 import event_pb2, job_pb2
from finetree_api.types.v1 import hardware_pb2, method_pb2, model_pb2, run_spec_pb2, training_pb2
from finetree_api.worker.v1 import worker_pb2
from finetree_estimator.catalog import price_book
from finetree_estimator.servicer import EstimatorServicer
from finetree_estimator.spec.resolve import Knowledge
from finetree_runtime.errors import InvalidArgument
from finetree_runtime.runspec.conflicts import combination_problem
from finetree_runtime.runspec.resolve import resolve_spec
from finetree_trainer.jobs import capabilities
from finetree_worker.control import Steering
from finetree_worker.data.dataset import load_dataset
from finetree_worker.errors import PlanError
from finetree_worker.events.eta import Eta
from finetree_worker.models.load import load_tokenizer
from finetree_worker.plan_from_task import train_plan
from finetree_worker.training.loop import Loop
from finetree_worker.training.run import adapt, load

# peft 0.21 calls transformers 5 by old names; 8-bit products say how they work at each one.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
    pytest.mark.filterwarnings("ignore:MatMul8bitLt:UserWarning"),
]

LORA = method_pb2.Lora(rank=2)
METHODS: dict[str, dict[str, Any]] = {
    "full": {"full": method_pb2.FullFineTuning()},
    "lora": {"lora": LORA},
    "dora": {"lora": method_pb2.Lora(rank=2, weight_decomposed=True)},
    "nf4": {"qlora": method_pb2.Qlora(lora=LORA)},
    "int8": {"qlora": method_pb2.Qlora(lora=LORA, quantization=method_pb2.QUANTIZATION_INT8)},
    "prefix": {"prefix": method_pb2.PrefixTuning(virtual_tokens=4)},
    "adapter": {"adapter": method_pb2.AdapterLayers(bottleneck_size=4)},
}
CELLS = list(
    itertools.product(
        (training_pb2.PACKING_ON, training_pb2.PACKING_OFF),
        (training_pb2.GRADIENT_CHECKPOINTING_OFF, training_pb2.GRADIENT_CHECKPOINTING_FULL),
        (training_pb2.ATTENTION_KERNEL_SDPA, training_pb2.ATTENTION_KERNEL_EAGER),
        (training_pb2.PRECISION_BF16, training_pb2.PRECISION_BF16_MIXED, training_pb2.PRECISION_FP32),
    )
)
SHAPE = model_pb2.ModelShape(hidden_size=32, layers=2, intermediate_size=64, attention_heads=4, vocab_size=260)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import transformers
    from tokenizers import Tokenizer, pre_tokenizers
    from tokenizers.models import BPE

    transformers.utils.logging.disable_progress_bar()
    inner = Tokenizer(BPE({letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    folder = tmp_path_factory.mktemp("combinations") / "tiny"
    transformers.PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<end>").save_pretrained(folder)
    config = transformers.LlamaConfig(
        vocab_size=260,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        bos_token_id=None,
        eos_token_id=None,
    )
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    return folder


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    file = tmp_path / "rows.jsonl"
    written = [json.dumps({"prompt": f"say {c}{'x' * n}", "completion": c * 3}) for n, c in enumerate("abcd")]
    file.write_text("\n".join(written) + "\n", encoding="utf-8")
    return file


def spec_of(method: str, cell: tuple[Any, ...]) -> run_spec_pb2.RunSpec:
    packing, checkpointing, attention, precision = cell
    return run_spec_pb2.RunSpec(
        model=model_pb2.ModelSource(shape=SHAPE),
        training=training_pb2.Training(
            packing=packing, max_steps=2, effective_batch_size=4, micro_batch_size=2, sequence_length=64
        ),
        gradient_checkpointing=checkpointing,
        attention=attention,
        precision=precision,
        hardware=hardware_pb2.Hardware(accelerator="rtx-4090"),
        **METHODS[method],
    )


class Trainer:
    """Trains plans; what cells share (a loaded base, the tokenized rows) is made once."""

    def __init__(self, quiet: Any) -> None:
        self.quiet = quiet
        self.bases: dict[Any, Any] = {}
        self.rows: Any = None

    def losses(self, plan: Any) -> list[float | None]:
        """Losses of a run of the plan."""
        cpu, optimization = torch.device("cpu"), plan.optimization
        key = optimization.precision, optimization.attention
        if key not in self.bases:
            self.bases[key] = load(plan, cpu)
        if self.rows is None:
            self.rows = load_dataset(plan.data, load_tokenizer(plan.base.folder), lambda *_: None).train
        _, subject = adapt(plan, copy.deepcopy(self.bases[key]), cpu)
        self.quiet.events.clear()
        eta = Eta(plan.evaluation, plan.checkpoints)
        loop = Loop(plan, subject, self.rows, reporter=self.quiet, steering=Steering(self.quiet), eta=eta)
        loop.run(lambda _: None)
        return [step.loss for step in self.quiet.of(event_pb2.StepMetrics)]


@pytest.mark.parametrize("method", METHODS)
def test_every_cell_trains_or_is_refused_by_all_with_one_reason(
    method: str, base: Path, rows: Path, tmp_path: Path, quiet: Any
) -> None:
    estimator = EstimatorServicer(Knowledge(price_book.packaged()))
    trainer, refused = Trainer(quiet), 0
    for cell in CELLS:
        spec = spec_of(method, cell)
        resolved = resolve_spec(spec).spec
        capabilities.require_method(resolved)
        capabilities.require_settings(resolved)
        task = worker_pb2.Task(
            attempt=1,
            train=job_pb2.TrainTask(spec=resolved),
            folders=worker_pb2.TaskFolders(work_dir=str(tmp_path / "work"), artifact_dir=str(tmp_path / "artifacts")),
            base=worker_pb2.TaskBaseModel(model_dir=str(base)),
            dataset_file=str(rows),
            threads=1,
        )
        request = estimate_pb2.EstimateRunRequest(spec=spec)
        problem = combination_problem(resolved)
        if problem is None:
            assert estimator.estimate(request).resolved_spec == resolved, cell
            losses = trainer.losses(train_plan(task))
            assert len(losses) == 2, cell
            assert all(loss is not None and math.isfinite(loss) for loss in losses), cell
            continue
        refused += 1
        with pytest.raises(InvalidArgument) as estimated:
            estimator.estimate(request)
        with pytest.raises(PlanError) as planned:
            train_plan(task)
        assert estimated.value.reason == planned.value.reason == problem.reason, cell
        assert planned.value.field == problem.field_path, cell
    assert refused == (len(CELLS) // 2 if method == "prefix" else 0)
