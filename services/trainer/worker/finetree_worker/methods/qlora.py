# SPDX-License-Identifier: Apache-2.0
"""QLoRA (Dettmers et al. 2023, arXiv:2305.14314): LoRA on a base whose linear layers bitsandbytes holds in 4 or 8 bits.

The base is read from 16-bit or 32-bit safetensors and quantised as it is loaded; the embeddings, the norms, the output
head and what is no linear layer (the fused experts of a mixture, its routers) stay as they are. Adapters are float32
and have the format of plain LoRA, so they load on the unquantised base too.
"""

from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import BitsAndBytesConfig, PreTrainedModel

from finetree_worker.methods import lora
from finetree_worker.plan import BaseModel, QloraMethod, Quantization


def quantization(method: QloraMethod, dtype: torch.dtype) -> BitsAndBytesConfig:
    """How the base is to be loaded; products are computed in `dtype`, 8-bit ones by bitsandbytes' own rules."""
    build: Any = BitsAndBytesConfig  # transformers leaves it untyped
    if method.quantization is Quantization.INT8:
        eight: BitsAndBytesConfig = build(load_in_8bit=True)
        return eight
    four: BitsAndBytesConfig = build(
        load_in_4bit=True,
        bnb_4bit_quant_type=method.quantization.value,
        bnb_4bit_use_double_quant=method.double_quantization,
        bnb_4bit_compute_dtype=dtype,
        bnb_4bit_quant_storage=torch.uint8,
    )
    return four


def apply(model: PreTrainedModel, method: QloraMethod, seed: int) -> PeftModel:
    """Add adapters to the quantised linear layers of a model that was loaded with `quantization`."""
    return lora.apply(model, method.lora, seed, field="qlora.lora")


def save(model: PeftModel, folder: Path, method: QloraMethod, base: BaseModel) -> None:
    """Write the adapter as plain LoRA does: the base that it names is the unquantised one."""
    lora.save(model, folder, method.lora, base)
