# SPDX-License-Identifier: Apache-2.0
"""A serving task as frozen values."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import torch
from finetree_api.trainer.v1 import serving_pb2
from finetree_api.worker.v1 import worker_pb2
from transformers import BitsAndBytesConfig

from finetree_worker.device_memory import GIB
from finetree_worker.errors import MemoryExhaustedError, PlanError
from finetree_worker.generate.engine import Limits
from finetree_worker.methods.qlora import QUANTIZATIONS, Qlora
from finetree_worker.methods.weights import Weights
from finetree_worker.models import checks
from finetree_worker.plan import BaseModel, Precision
from finetree_worker.plan_from_task import device_kind
from finetree_worker.spec_values import PRECISIONS, not_supported, value_of

DEFAULT_LEASE_SECONDS = 600.0
"""Lease where the task states none."""
DEFAULT_PARALLEL = 8
"""Answers that are decoded together where the task states no number."""
_TYPES = {Precision.BF16: torch.bfloat16, Precision.FP32: torch.float32}


@dataclass(frozen=True, slots=True)
class ServePlan:
    """A base model to keep loaded, and the targets that are loaded with it."""

    base: BaseModel
    dtype: torch.dtype
    quantization: BitsAndBytesConfig | None
    targets: tuple[tuple[serving_pb2.ServeTarget, Weights], ...]
    limits: Limits
    device: Literal["cpu", "cuda"] = "cpu"
    threads: int = 1
    lease_seconds: float = DEFAULT_LEASE_SECONDS
    """Seconds without the service after which it ends; while it is there, the service counts."""

    @classmethod
    def from_task(cls, task: worker_pb2.Task) -> Self:
        """Read a task. Raises PlanError: SETTING_NOT_SUPPORTED, UNRESOLVED_SPEC for a target that was not located."""
        asked = task.serve
        precision = value_of(asked, "precision", PRECISIONS)
        if precision not in _TYPES:
            raise not_supported("precision", str(precision.value))
        located = {each.name: Weights.from_message(each) for each in task.weights}
        for index, target in enumerate(asked.targets):
            if target.name not in located:
                raise PlanError(
                    "UNRESOLVED_SPEC", f"The target {target.name} has no folder.", field=f"targets[{index}]"
                )
        lease = asked.lease.ToNanoseconds() / 1e9 if asked.HasField("lease") else DEFAULT_LEASE_SECONDS
        return cls(
            base=BaseModel(Path(task.base.model_dir), task.base.hub_id, task.base.hub_revision),
            dtype=_TYPES[precision],
            quantization=_quantization(asked, _TYPES[precision]),
            targets=tuple((target, located[target.name]) for target in asked.targets),
            limits=Limits(
                parallel=asked.max_parallel if asked.HasField("max_parallel") else DEFAULT_PARALLEL,
                context=asked.max_context_tokens if asked.HasField("max_context_tokens") else 0,
            ),
            device=device_kind(task),
            threads=max(1, task.threads),
            lease_seconds=lease,
        )

    def weight_bytes(self) -> int:
        """Return the bytes of the base in memory, from the headers of its files. Raises ModelError as `checks`."""
        total = 0.0
        for name, shape in checks.weight_shapes(self.base.folder).items():
            count = torch.Size(shape).numel()
            packed = self.quantization is not None and len(shape) == 2 and "embed" not in name and "lm_head" not in name
            total += count * (_packed_bytes(self.quantization) if packed else self.dtype.itemsize)
        return int(total)

    def check_memory(self, free: int) -> None:
        """Refuse a base that the free bytes do not hold; 0: unknown.

        Raises MemoryExhaustedError OUT_OF_MEMORY_PREFLIGHT.
        """
        needed = self.weight_bytes()
        if free and needed > free:
            raise MemoryExhaustedError(
                "OUT_OF_MEMORY_PREFLIGHT",
                f"The base model needs {needed / GIB:.2f} GiB, and {free / GIB:.2f} GiB of the device's memory "
                "are free.",
                field="model",
                remedy="Set quantization or PRECISION_BF16, wait for what runs beside it, or serve a smaller model.",
            )


def _quantization(asked: serving_pb2.ServeTask, dtype: torch.dtype) -> BitsAndBytesConfig | None:
    if not asked.HasField("quantization"):
        return None
    return Qlora(quantized_as=value_of(asked, "quantization", QUANTIZATIONS)).quantization(dtype)


def _packed_bytes(quantization: Any) -> float:
    """Return bytes of a weight: half or one, and the scales (QLoRA, section 3: 0.127 bits with double quantization)."""
    return 1.0 if quantization.load_in_8bit else 0.516
