# SPDX-License-Identifier: Apache-2.0
"""A whole model as one GGUF file: written from a model of transformers, and read back into one."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf.constants import Keys
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from finetree_worker.export.gguf import architectures
from finetree_worker.export.gguf.architectures import ARCHITECTURES, Architecture
from finetree_worker.export.gguf.tokenizer import BYTES, Vocabulary
from finetree_worker.export.gguf.weights import FILE_TYPES, WeightType, in_place, rounded, stored, tensor_type

FREQUENCIES = "rope_freqs.weight"
"""Name of the tensor of frequency factors."""
_HEAD = "lm_head.weight"


@dataclass(frozen=True, slots=True)
class About:
    """What a file says of its model for people: names, never paths."""

    name: str
    base: str = ""
    revision: str = ""


def tensors_of(model: PreTrainedModel, found: Architecture) -> Iterator[tuple[str, str, Tensor]]:
    """Yield the tensors of a file: transformers' name, GGUF's, and the values in the file's order of rows."""
    config = model.config
    name_of = architectures.tensor_names(config, found)
    tied = bool(config.tie_word_embeddings)
    for name, tensor in model.state_dict().items():
        if name == _HEAD and tied:
            continue
        yield name, name_of(name), _to_file(tensor, name, config=config, found=found)


def _to_file(tensor: Tensor, name: str, *, config: PreTrainedConfig, found: Architecture) -> Tensor:
    if found.norm_offset and name.endswith("norm.weight"):
        return tensor.to(torch.float32) + found.norm_offset
    heads = architectures.row_order(name, config, found)
    return architectures.paired(tensor, heads) if heads else tensor


def _from_file(tensor: Tensor, name: str, *, config: PreTrainedConfig, found: Architecture) -> Tensor:
    if found.norm_offset and name.endswith("norm.weight"):
        return tensor - found.norm_offset
    heads = architectures.row_order(name, config, found)
    return architectures.halved(tensor, heads) if heads else tensor


def write(
    file: Path,
    model: PreTrainedModel,
    held: Vocabulary,
    *,
    about: About,
    weights: WeightType,
    on_fraction: Callable[[float], None],
) -> None:
    """Write a model with its tokenizer; each weight is rounded once. `on_fraction` gets 0..1 and may raise to stop.

    Raises PlanError (EXPORT_ARCHITECTURE_UNSUPPORTED, SETTING_NOT_SUPPORTED), OSError.
    """
    found = architectures.architecture_of(model.config)
    writer = gguf.GGUFWriter(file, found.name)
    try:
        describe(writer, about)
        writer.add_file_type(FILE_TYPES[weights])
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        architectures.add_parameters(writer, model.config, found)
        held.add_to(writer)
        _write_tensors(writer, model, found=found, weights=weights, on_fraction=on_fraction)
    finally:
        writer.close()


def describe(writer: gguf.GGUFWriter, about: About) -> None:
    """Write what a file says of itself for people."""
    writer.add_name(about.name)
    if about.base:
        writer.add_base_model_count(1)
        organization, _, name = about.base.partition("/")
        writer.add_base_model_name(0, name or organization)
        writer.add_base_model_organization(0, organization if name else "")
        writer.add_base_model_repo_url(0, f"https://huggingface.co/{about.base}")
        if about.revision:
            writer.add_base_model_version(0, about.revision)


def _write_tensors(
    writer: gguf.GGUFWriter,
    model: PreTrainedModel,
    *,
    found: Architecture,
    weights: WeightType,
    on_fraction: Callable[[float], None],
) -> None:
    """Write the keys, then one tensor after another: rounded, they are never all in memory beside the model."""
    scaling = architectures.frequency_factors(model.config)
    factors = None if scaling is None else scaling.numpy()
    if factors is not None:
        writer.add_tensor_info(FREQUENCIES, factors.shape, factors.dtype, factors.nbytes)
    kinds, total = {}, 0
    for _, stored_name, tensor in tensors_of(model, found):
        kind = kinds[stored_name] = tensor_type(stored_name, tuple(tensor.shape), weights)
        block, size = gguf.GGML_QUANT_SIZES[kind]
        shape, count = tuple(tensor.shape), tensor.numel()
        writer.add_tensor_info(stored_name, shape, np.dtype(np.float32), count // block * size, raw_dtype=kind)
        total += count
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    if factors is not None:
        writer.write_tensor_data(factors)
    done = 0
    for name, stored_name, tensor in tensors_of(model, found):
        writer.write_tensor_data(stored(tensor, kinds[stored_name], name))
        done += tensor.numel()
        on_fraction(done / total)


def round_like_file(model: PreTrainedModel, weights: WeightType) -> None:
    """Round a model's weights in memory to what a file would hold.

    Blocks lie within a row, so the order of rows changes nothing: this knows nothing of what a file does to them.
    """
    name_of = architectures.tensor_names(model.config, architectures.architecture_of(model.config))

    def round_to(name: str, tensor: Tensor) -> Tensor:
        return rounded(tensor, tensor_type(name_of(name), tuple(tensor.shape), weights), name)

    in_place(dict(model.named_parameters()), round_to)


class ModelFile:
    """A GGUF file of a model, opened for reading: what it says of model and tokenizer, and its tensors.

    Nothing else is asked: a program that gets the file alone finds just this. Raises ValueError or KeyError for a
    damaged file.
    """

    def __init__(self, file: Path) -> None:
        self._reader = gguf.GGUFReader(file)
        self._arch = str(self.value(Keys.General.ARCHITECTURE))
        self._tensors = {tensor.name: tensor for tensor in self._reader.tensors}

    def value(self, key: str, default: Any = None) -> Any:
        """Return the value of a key, with {arch} in it for the architecture's name; the default where it is not."""
        field = self._reader.get_field(key.format(arch=getattr(self, "_arch", "")))
        return default if field is None else field.contents()

    def vocabulary(self) -> Vocabulary:
        """Return the tokenizer that the file holds."""
        kind = str(self.value(Keys.Tokenizer.MODEL))
        names = {"bos": "bos", "eos": "eos", "eot": "eot", "padding": "padding", "unknown": "unknown"}
        special = {name: self.value(f"tokenizer.ggml.{key}_token_id") for name, key in names.items()}
        return Vocabulary(
            kind,
            tokens=list(self.value(Keys.Tokenizer.LIST)),
            types=list(self.value(Keys.Tokenizer.TOKEN_TYPE)),
            special={name: int(token) for name, token in special.items() if token is not None},
            add_bos=bool(self.value(Keys.Tokenizer.ADD_BOS, default=False)),
            chat_template=str(self.value(Keys.Tokenizer.CHAT_TEMPLATE, default="")),
            split=str(self.value(Keys.Tokenizer.PRE)) if kind == BYTES else "",
            merges=tuple(self.value(Keys.Tokenizer.MERGES, default=())),
            scores=tuple(self.value(Keys.Tokenizer.SCORES, default=())),
            add_space_prefix=bool(self.value(Keys.Tokenizer.ADD_PREFIX, default=False)),
        )

    def config(self) -> PreTrainedConfig:
        """Return the configuration that the file's keys and tensors amount to."""
        kind, found = self._kind()
        keys, names = Keys.LLM, self._tensors.keys()
        given: dict[str, Any] = {
            "vocab_size": len(self.value(Keys.Tokenizer.LIST)),
            "hidden_size": self.value(keys.EMBEDDING_LENGTH),
            "intermediate_size": self.value(keys.FEED_FORWARD_LENGTH),
            "num_hidden_layers": self.value(keys.BLOCK_COUNT),
            "num_attention_heads": self.value(Keys.Attention.HEAD_COUNT),
            "num_key_value_heads": self.value(Keys.Attention.HEAD_COUNT_KV),
            "head_dim": self.value(Keys.Attention.KEY_LENGTH),
            "max_position_embeddings": self.value(keys.CONTEXT_LENGTH),
            "rms_norm_eps": self.value(Keys.Attention.LAYERNORM_RMS_EPS),
            "tie_word_embeddings": "output.weight" not in names,
            "rope_parameters": self._rope(found),
            "bos_token_id": None,
            "eos_token_id": self.value(Keys.Tokenizer.EOS_ID),
            "pad_token_id": None,
        }
        biased = {"attention_bias": "blk.0.attn_q.bias" in names, "mlp_bias": "blk.0.ffn_up.bias" in names}
        capped = {
            "attn_logit_softcapping": self.value(keys.ATTN_LOGIT_SOFTCAPPING),
            "final_logit_softcapping": self.value(keys.FINAL_LOGIT_SOFTCAPPING),
        }
        given |= {name: value for name, value in biased.items() if value} | capped
        if found.sliding_every:
            given["sliding_window"] = self.value(Keys.Attention.SLIDING_WINDOW)
        if found.arch in (gguf.MODEL_ARCH.GEMMA2, gguf.MODEL_ARCH.GEMMA3):
            wide = int(given["num_hidden_layers"]) in (46, 62)
            share = given["hidden_size"] / given["num_attention_heads"]
            given["query_pre_attn_scalar"] = share if wide else given["head_dim"]
        config: PreTrainedConfig = AutoConfig.for_model(kind, **given)
        return config

    def _kind(self) -> tuple[str, Architecture]:
        return next((kind, found) for kind, found in ARCHITECTURES.items() if found.name == self._arch)

    def _rope(self, found: Architecture) -> dict[str, Any]:
        rope: dict[str, Any] = {"rope_type": "default", "rope_theta": float(self.value(Keys.Rope.FREQ_BASE, 10000.0))}
        scaling = self.value(Keys.Rope.SCALING_TYPE)
        if scaling in ("linear", "yarn"):
            rope |= {"rope_type": scaling, "factor": float(self.value(Keys.Rope.SCALING_FACTOR))}
        if scaling == "yarn":
            rope["original_max_position_embeddings"] = int(self.value(Keys.Rope.SCALING_ORIG_CTX_LEN))
        if found.arch is not gguf.MODEL_ARCH.GEMMA3:
            return rope
        local = float(self.value(Keys.Rope.FREQ_BASE_SWA, 10000.0))
        return {"full_attention": rope, "sliding_attention": {"rope_type": "default", "rope_theta": local}}

    def model(self) -> PreTrainedModel:
        """Return the model in float32, in evaluation mode."""
        _, found = self._kind()
        config = self.config()
        with torch.device("meta"):
            build: Any = AutoModelForCausalLM.from_config
            empty: PreTrainedModel = build(config, dtype=torch.float32)
        name_of = architectures.tensor_names(config, found)
        state = {}
        for name, meta in empty.state_dict().items():
            if name == _HEAD and config.tie_word_embeddings:
                continue
            tensor = self.tensor(name_of(name)).reshape(meta.shape)
            state[name] = _from_file(tensor, name, config=config, found=found).contiguous()
        read: Any = type(empty).from_pretrained
        model: Any = read(None, config=config, state_dict=state, dtype=torch.float32)
        if FREQUENCIES in self._tensors:
            model.model.rotary_emb.inv_freq.div_(self.tensor(FREQUENCIES))
        ready: PreTrainedModel = model.eval()
        return ready

    def tensor(self, name: str) -> Tensor:
        """Return a tensor's values in float32, in the file's order of rows."""
        held = self._tensors[name]
        return torch.from_numpy(gguf.quants.dequantize(held.data, held.tensor_type).copy())
