# SPDX-License-Identifier: Apache-2.0
"""QLoRA (Dettmers et al. 2023, arXiv:2305.14314): LoRA on a base whose linear layers have 4 or 8 bits (bitsandbytes).

The base is read from 16-bit or 32-bit safetensors and quantized as it is loaded; the embeddings, the norms, the output
head and all that is not a linear layer (the fused experts of a mixture, its routers) stay as they are. Adapters are
float32 and have the format of plain LoRA, so they load on the unquantized base too.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from finetree_api.trainer.v1 import artifact_pb2
from finetree_api.types.v1 import method_pb2, run_spec_pb2
from peft import PeftModel
from peft.utils.integrations import dequantize_bnb_weight, get_bnb_param_type
from torch import Tensor, nn
from transformers import BitsAndBytesConfig, PreTrainedModel, PreTrainedTokenizerBase

from finetree_worker.methods.lora import Lora
from finetree_worker.plan import BaseModel, Method, Plan
from finetree_worker.portable import Portable
from finetree_worker.spec_values import not_supported, stated, value_of


class Quantization(StrEnum):
    """Number format of the frozen base: 4-bit NormalFloat, 4-bit float, 8-bit integers."""

    NF4 = "nf4"
    FP4 = "fp4"
    INT8 = "int8"


QUANTIZATIONS = {
    method_pb2.QUANTIZATION_UNSPECIFIED: Quantization.NF4,
    method_pb2.QUANTIZATION_NF4: Quantization.NF4,
    method_pb2.QUANTIZATION_FP4: Quantization.FP4,
    method_pb2.QUANTIZATION_INT8: Quantization.INT8,
}


@dataclass(frozen=True, slots=True)
class Qlora(Method):
    """Low-rank adapters on a quantized base; `double_quantization` quantizes the 4-bit blocks' scales as well."""

    name: ClassVar[str] = "qlora"
    title: ClassVar[str] = "QLoRA"
    peft_type: ClassVar[str] = Lora.peft_type

    lora: Lora = field(default_factory=Lora)
    quantized_as: Quantization = Quantization.NF4
    double_quantization: bool = True

    @classmethod
    def from_spec(cls, spec: run_spec_pb2.RunSpec) -> Self:
        """Read RunSpec.qlora. Raises PlanError SETTING_NOT_SUPPORTED."""
        if spec.qlora.lora.include_experts:
            # The experts' stacked matrices are not quantized, so adapters on them would not be QLoRA's.
            raise not_supported("qlora.lora.include_experts", "true")
        return cls(
            lora=Lora.from_settings(spec.qlora.lora, "qlora.lora"),
            quantized_as=value_of(spec.qlora, "quantization", QUANTIZATIONS, parent="qlora."),
            **stated(spec.qlora, "double_quantization"),
        )

    @property
    def undivided(self) -> str:
        """Return why 8-bit bases stay whole: bitsandbytes 0.50 keeps their scales as attributes of the parameter."""
        return "bitsandbytes keeps the scales of 8-bit weights beside the whole of them" if self._eight_bit else ""

    @property
    def _eight_bit(self) -> bool:
        return self.quantized_as is Quantization.INT8

    def quantization(self, dtype: torch.dtype) -> BitsAndBytesConfig:
        """Return the quantization for loading; products are computed in `dtype`, 8-bit ones by bitsandbytes' rules."""
        build: Any = BitsAndBytesConfig  # transformers leaves it untyped
        if self._eight_bit:
            eight: BitsAndBytesConfig = build(load_in_8bit=True)
            return eight
        four: BitsAndBytesConfig = build(
            load_in_4bit=True,
            bnb_4bit_quant_type=self.quantized_as.value,
            bnb_4bit_use_double_quant=self.double_quantization,
            bnb_4bit_compute_dtype=dtype,
            bnb_4bit_quant_storage=torch.uint8,
        )
        return four

    def apply(self, model: PreTrainedModel, plan: Plan) -> tuple[PeftModel, PreTrainedModel]:
        """Add adapters to the quantized linear layers of a model that was loaded with `quantization`."""
        return self.lora.apply_at(model, plan.optimization.seed, "qlora.lora")

    def blank(self, model: PreTrainedModel) -> PeftModel:
        """Add adapters, A random and B zero."""
        return self.lora.apply_at(model, 0, "qlora.lora")[0]

    def save(
        self, trained: Any, folder: Path, *, base: BaseModel, tokenizer: PreTrainedTokenizerBase, dtype: torch.dtype
    ) -> None:
        """Write the adapter like plain LoRA: the base that it names is the unquantized one."""
        self.lora.save(trained, folder, base=base, tokenizer=tokenizer, dtype=dtype)

    def portable(self, trained: Any, base: BaseModel) -> Portable:
        """Return peft's names of the adapter's weights."""
        return self.lora.portable(trained, base)

    def compatibility(self, folder: Path, base: Path) -> artifact_pb2.Compatibility:
        """Return whether peft loads the artifact."""
        return self.lora.compatibility(folder, base)

    def memory_savings(self, *, checkpointing: bool) -> Sequence[str]:
        """Return settings that would lower memory; the base is quantized already."""
        return [] if checkpointing else ["turn gradient checkpointing on"]


def weight_of(layer: Any) -> Tensor:
    """Return what a linear layer multiplies with, (out, in); one of bitsandbytes' is unpacked, and left as it is."""
    weight: nn.Parameter = layer.weight
    if not get_bnb_param_type(weight):
        return weight
    # peft's function for a module puts another weight in its place on a CPU.
    return dequantize_bnb_weight(weight, state=getattr(layer, "state", None))


METHOD = Qlora
