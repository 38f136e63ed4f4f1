# SPDX-License-Identifier: Apache-2.0
"""Loading a base model and its tokenizer from a folder."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    modeling_utils,
)

from finetree_worker.device_memory import GIB, free_cache, free_memory_bytes, is_out_of_memory
from finetree_worker.errors import MemoryExhaustedError, ModelError
from finetree_worker.models import checks
from finetree_worker.models.auto_class import auto_class_of

_STORED_AS = {torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32"}
"""Names in safetensors of the types that a base is loaded in."""


def load_model(
    folder: Path,
    dtype: torch.dtype,
    *,
    device: torch.device,
    quantization: BitsAndBytesConfig | None = None,
    attention: str = "sdpa",
) -> PreTrainedModel:
    """Load the language model in `folder`, and its vision tower where it has one, from safetensors only.

    Neither its code is run nor the network used. With `quantization` its linear layers are quantized on reading. The
    model's own dropout is turned off: its masks come from a stream, which a resumed run could not repeat. `attention`
    is transformers' name of an implementation.
    Raises ModelError: MODEL_NOT_FOUND, MODEL_UNREADABLE, or those of `checks`; MemoryExhaustedError
    OUT_OF_MEMORY_LOADING.
    """
    if not (folder / "config.json").is_file():
        raise ModelError(
            "MODEL_NOT_FOUND",
            f"There is no prepared model named {folder.name!r}.",
            field="model",
            remedy="Prepare the model first, or name a folder that holds config.json and safetensors files.",
        )
    checks.check_config(folder)
    stored = checks.check_weights(folder)
    try:
        copied = quantization is not None or stored != {_STORED_AS[dtype]}
        with _unmapped() if copied and device.type == "cpu" else nullcontext():
            loaded, info = _read(folder, dtype, attention=attention, placed=placement(device, quantization))
        checks.check_loaded(folder, info)
        if quantization is None:
            nn.Module.to(loaded, device)
    except (OSError, ValueError, KeyError, RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            raise _too_large(folder, device, dtype, quantized=quantization is not None) from error
        raise ModelError(
            "MODEL_UNREADABLE",
            f"The model {folder.name!r} cannot be loaded: {type(error).__name__}.",
            field="model",
            remedy="Only models with safetensors weights and an architecture of transformers itself can be trained.",
        ) from error
    _prepare(loaded)
    return loaded


def placement(device: torch.device, quantization: BitsAndBytesConfig | None) -> dict[str, Any]:
    """Return where transformers reads a quantized model to; any other is moved after reading."""
    if quantization is None:
        return {}
    place = f"cuda:{device.index or 0}" if device.type == "cuda" else device.type
    return {"quantization_config": quantization, "device_map": {"": place}}


def _read(
    folder: Path, dtype: torch.dtype, *, attention: str, placed: dict[str, Any]
) -> tuple[PreTrainedModel, dict[str, Any]]:
    read = auto_class_of(folder).from_pretrained
    found: tuple[PreTrainedModel, dict[str, Any]] = read(
        folder,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # named by check_loaded, not ignored
        dtype=dtype,
        # With None transformers uses torch's fused kernels where the architecture (not Gemma 2) allows them.
        attn_implementation=None if attention == "sdpa" else attention,
        use_safetensors=True,
        trust_remote_code=False,
        local_files_only=True,
        **placed,
    )
    return found


@contextmanager
def _unmapped() -> Iterator[None]:
    """Read each tensor into memory of its own instead of mapping the files.

    For weights that are converted on reading: the mapping's pages would stay beside the result until all are read, and
    as long as one tensor is a view of the file. Beside packed weights, the embeddings would keep all of the 16-bit ones
    in the process (SmolLM2-135M: 212 MB more). transformers 5.24 does so on some platforms, and has no argument for it.
    """
    untyped: Any = modeling_utils
    mapped = untyped.safe_open

    def read(file: str, *, framework: str, device: str, **_: object) -> Any:
        return mapped(file, framework=framework, device=device, backend="pread")

    untyped.safe_open = read
    try:
        yield
    finally:
        untyped.safe_open = mapped


def _too_large(folder: Path, device: torch.device, dtype: torch.dtype, *, quantized: bool) -> MemoryExhaustedError:
    stored = sum(file.stat().st_size for file in checks.weight_files(folder))
    free_cache(device)
    smaller = "" if quantized else "qlora, bfloat16 weights, " if dtype is torch.float32 else "qlora, "
    return MemoryExhaustedError(
        "OUT_OF_MEMORY_LOADING",
        f"The model {folder.name!r} does not fit in this device's memory: its files hold {stored / GIB:.2f} GiB, and "
        f"{free_memory_bytes(device) / GIB:.2f} GiB are free.",
        field="model",
        remedy=f"Use {smaller}a smaller model, or a device with more memory.",
    )


def _prepare(model: PreTrainedModel) -> None:
    """Turn off the model's own dropout, its caches, and packing for inference."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if hasattr(module, "support_avx512bf16_for_cpu"):
            # The first evaluation on a CPU with bfloat16 instructions would pack 4-bit weights again, for a kernel that
            # has no backward pass and rounds float32 inputs.
            quantized: Any = module
            quantized.support_avx512bf16_for_cpu = False
    model.config.use_cache = False


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer in `folder`.

    Raises ModelError: those of `check_config`, since transformers' error for an unknown model would not name the
    reason; TOKENIZER_UNREADABLE; TOKENIZER_UNSUPPORTED for one without an EOS token.
    """
    checks.check_config(folder)
    try:
        AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            "TOKENIZER_UNREADABLE",
            f"The tokenizer of {folder.name!r} cannot be loaded: {type(error).__name__}.",
            field="model",
            remedy="The model's folder must hold tokenizer.json and tokenizer_config.json.",
        ) from error
    if tokenizer.eos_token_id is None or not tokenizer.is_fast:
        raise ModelError(
            "TOKENIZER_UNSUPPORTED",
            f"The tokenizer of {folder.name!r} has no end-of-sequence token or no tokenizer.json.",
            field="model",
            remedy="Set eos_token in tokenizer_config.json, and convert the tokenizer to tokenizer.json.",
        )
    return tokenizer


def parameter_count(parameter: nn.Parameter) -> int:
    """Return the number of weights of a parameter: bitsandbytes packs two 4-bit ones in a byte."""
    state = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else int(torch.Size(state.shape).numel())
