# SPDX-License-Identifier: Apache-2.0
"""Model shapes that GGUF files can hold: what llama.cpp calls them, what it reads of them, and how it orders rows.

Names and rules are those of llama.cpp's own converter (convert_hf_to_gguf.py, checked against llama-cpp-python 0.3.36).
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import gguf
import torch
from torch import Tensor
from transformers import PreTrainedConfig

from finetree_worker.errors import PlanError

REASON = "EXPORT_ARCHITECTURE_UNSUPPORTED"
_SILU, _GELU_TANH = ("silu", "swish"), ("gelu_pytorch_tanh", "gelu_new")
_YARN_UNSAID = ("attention_factor", "mscale", "mscale_all_dim", "beta_fast", "beta_slow")
"""Settings of YaRN that change it and are not written; unset they are the same in transformers and llama.cpp."""
_LLAMA3_ARCHITECTURES = frozenset({gguf.MODEL_ARCH.LLAMA})
"""Architectures of which llama.cpp reads a frequency factor for each pair of dimensions (rope_freqs)."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """A shape of llama.cpp. `sliding_every` is the period of its layers with full attention; 0: all have it."""

    arch: gguf.MODEL_ARCH
    activations: tuple[str, ...] = _SILU
    permuted: bool = False
    """Whether rows of q and k are stored as pairs of neighbours, as in Meta's files, not as two halves of a head."""
    norm_offset: float = 0.0
    """What is added to the weights of norms: Gemma multiplies by 1 + weight, llama.cpp by what it reads."""
    tied: bool = False
    """Whether llama.cpp always takes the embeddings as output head."""
    sliding_every: int = 0

    @property
    def name(self) -> str:
        """Name in the file's `general.architecture`."""
        return str(gguf.MODEL_ARCH_NAMES[self.arch])


ARCHITECTURES: Mapping[str, Architecture] = {
    "llama": Architecture(gguf.MODEL_ARCH.LLAMA, permuted=True),
    "mistral": Architecture(gguf.MODEL_ARCH.LLAMA, permuted=True),
    "smollm3": Architecture(gguf.MODEL_ARCH.SMOLLM3, permuted=True),
    "qwen2": Architecture(gguf.MODEL_ARCH.QWEN2),
    "qwen3": Architecture(gguf.MODEL_ARCH.QWEN3),
    "gemma": Architecture(gguf.MODEL_ARCH.GEMMA, _GELU_TANH, norm_offset=1.0, tied=True),
    "gemma2": Architecture(gguf.MODEL_ARCH.GEMMA2, _GELU_TANH, norm_offset=1.0, tied=True, sliding_every=2),
    "gemma3_text": Architecture(gguf.MODEL_ARCH.GEMMA3, _GELU_TANH, norm_offset=1.0, tied=True, sliding_every=6),
}
"""By transformers' model_type. Mistral's layers are Llama's; SmolLM and SmolLM2 are of the type llama."""


def architecture_of(config: PreTrainedConfig) -> Architecture:
    """Return the shape of a model. Raises PlanError EXPORT_ARCHITECTURE_UNSUPPORTED for what a file could not say."""
    kind = str(config.model_type)
    found = ARCHITECTURES.get(kind)
    if found is None:
        have = ", ".join(sorted(ARCHITECTURES))
        raise _unsupported(f"Models of the type {kind!r} cannot be written as GGUF here; these can: {have}.")
    for problem in _problems(config, found):
        raise _unsupported(f"This {kind} model cannot be written as GGUF: {problem}.")
    return found


def _unsupported(text: str) -> PlanError:
    remedy = "Export a transformers folder; llama.cpp's own converter may know the shape."
    return PlanError(REASON, text, field="export.format", remedy=remedy)


def _problems(config: PreTrainedConfig, found: Architecture) -> list[str]:
    """Return what llama.cpp would compute otherwise than transformers, as parts of a sentence."""
    given = config.to_dict()
    problems = []
    activation = given.get("hidden_activation") or given.get("hidden_act")
    if activation not in found.activations:
        problems.append(f"its activation is {activation!r}, and llama.cpp computes {found.activations[0]!r}")
    if found.tied and not config.tie_word_embeddings:
        problems.append("its output head is not its embeddings, and llama.cpp takes them for it")
    if found.arch is gguf.MODEL_ARCH.QWEN3 and given.get("attention_bias"):
        problems.append("its attention has biases")
    if given.get("query_pre_attn_scalar") not in (None, *_query_scales(config)):
        problems.append(f"its attention scores are scaled by query_pre_attn_scalar {given['query_pre_attn_scalar']}")
    return [*problems, *_window_problems(given, found), *_position_problems(config, found)]


def _window_problems(given: Mapping[str, Any], found: Architecture) -> Iterator[str]:
    if given.get("use_sliding_window"):
        yield "its attention slides (use_sliding_window), which the file cannot say"
    if found.sliding_every and not _slides_as_known(given, found.sliding_every):
        yield "its layers slide in another order than llama.cpp's"


def _position_problems(config: PreTrainedConfig, found: Architecture) -> Iterator[str]:
    rope = rope_of(config)
    if found.arch is gguf.MODEL_ARCH.SMOLLM3 and not _no_rope_as_known(config.to_dict()):
        yield "its layers without rotary positions are not every fourth one"
    if float(rope.get("partial_rotary_factor") or 1.0) != 1.0:
        yield "only a part of a head is rotated"
    if any(rope.get(name) is not None for name in _YARN_UNSAID):
        yield "its positions are scaled by YaRN with settings of its own"
    kind = rope.get("rope_type", "default")
    if kind not in ("default", "linear", "yarn") and not (kind == "llama3" and found.arch in _LLAMA3_ARCHITECTURES):
        yield f"its positions are scaled by {kind!r}"


def _query_scales(config: PreTrainedConfig) -> tuple[float, ...]:
    """Return what llama.cpp scales the queries of a Gemma by: the head's dimensions, of the 27B ones their share."""
    share = config.hidden_size / config.num_attention_heads
    return (share,) if int(config.num_hidden_layers) in (46, 62) else (head_dim(config),)


def _slides_as_known(given: Mapping[str, Any], every: int) -> bool:
    kinds = given.get("layer_types") or []
    expected = ["full_attention" if i % every == every - 1 else "sliding_attention" for i in range(len(kinds))]
    return list(kinds) == expected


def _no_rope_as_known(given: Mapping[str, Any]) -> bool:
    layers = given.get("no_rope_layers") or []
    return list(layers) == [int((i + 1) % 4 != 0) for i in range(len(layers))]


def read_by_transformers(config: PreTrainedConfig) -> bool:
    """Return whether transformers takes all that it needs of a model out of its GGUF file.

    transformers 5.24 leaves scaled positions, the biases of Llama and the size of Qwen 3's heads out without a word.
    """
    given = config.to_dict()
    biased = config.model_type != "qwen2" and (given.get("attention_bias") or given.get("mlp_bias"))
    plain = rope_of(config).get("rope_type", "default") == "default"
    return config.model_type in ("llama", "mistral", "qwen2") and plain and not biased


def rope_of(config: PreTrainedConfig) -> dict[str, Any]:
    """Return the settings of the rotary positions of layers with full attention."""
    rope = dict(getattr(config, "rope_parameters", None) or {})
    inner = rope.get("full_attention")
    return dict(inner) if isinstance(inner, dict) else rope


def head_dim(config: PreTrainedConfig) -> int:
    """Return the dimensions of an attention head."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def add_parameters(writer: gguf.GGUFWriter, config: PreTrainedConfig, found: Architecture) -> None:
    """Write what llama.cpp needs to know of the model besides its tensors and its tokenizer."""
    given, head = config.to_dict(), head_dim(config)
    writer.add_context_length(int(config.max_position_embeddings))
    writer.add_embedding_length(int(config.hidden_size))
    writer.add_block_count(int(config.num_hidden_layers))
    writer.add_feed_forward_length(int(config.intermediate_size))
    writer.add_head_count(int(config.num_attention_heads))
    writer.add_head_count_kv(int(config.num_key_value_heads))
    writer.add_layer_norm_rms_eps(float(config.rms_norm_eps))
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_vocab_size(int(config.vocab_size))
    if found.permuted:
        writer.add_rope_dimension_count(head)
    _add_rope(writer, config)
    if given.get("attn_logit_softcapping"):
        writer.add_attn_logit_softcapping(float(given["attn_logit_softcapping"]))
    if given.get("final_logit_softcapping"):
        writer.add_final_logit_softcapping(float(given["final_logit_softcapping"]))
    if found.sliding_every:
        writer.add_sliding_window(int(given["sliding_window"]))


def _add_rope(writer: gguf.GGUFWriter, config: PreTrainedConfig) -> None:
    rope = rope_of(config)
    writer.add_rope_freq_base(float(rope.get("rope_theta", 10000.0)))
    layered = getattr(config, "rope_parameters", None) or {}
    if isinstance(local := layered.get("sliding_attention"), dict):
        writer.add_rope_freq_base_swa(float(local["rope_theta"]))
    if rope.get("rope_type") == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(float(rope["factor"]))
    elif rope.get("rope_type") == "yarn":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(float(rope["factor"]))
        original = rope.get("original_max_position_embeddings") or config.max_position_embeddings
        writer.add_rope_scaling_orig_ctx_len(int(original))


def frequency_factors(config: PreTrainedConfig) -> Tensor | None:
    """Return what llama.cpp divides the frequency of each pair of dimensions by, (head_dim / 2,); None for no scaling.

    Llama 3.1's rule: low frequencies by the factor, high ones by 1, those between by an interpolation of both.
    """
    rope = rope_of(config)
    if rope.get("rope_type") != "llama3":
        return None
    head, theta = head_dim(config), float(rope["rope_theta"])
    wavelengths = 2 * torch.pi * theta ** (torch.arange(0, head, 2, dtype=torch.float64) / head)
    original, factor = float(rope["original_max_position_embeddings"]), float(rope["factor"])
    low, high = float(rope["low_freq_factor"]), float(rope["high_freq_factor"])
    smooth = ((original / wavelengths - low) / (high - low)).clamp(0.0, 1.0)
    return (1 / ((1 - smooth) / factor + smooth)).to(torch.float32)


def paired(rows: Tensor, heads: int) -> Tensor:
    """Reorder rows (heads x head_dim, ...) from two halves of a head to pairs of neighbours, as llama.cpp rotates."""
    return rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def halved(rows: Tensor, heads: int) -> Tensor:
    """Undo `paired`."""
    return rows.reshape(heads, rows.shape[0] // heads // 2, 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def row_order(name: str, config: PreTrainedConfig, found: Architecture) -> int:
    """Return the number of heads by which the rows of a tensor (transformers' name) are paired; 0: they stay."""
    if not found.permuted:
        return 0
    if name.endswith(("q_proj.weight", "q_proj.bias")):
        return int(config.num_attention_heads)
    return int(config.num_key_value_heads) if name.endswith(("k_proj.weight", "k_proj.bias")) else 0


def tensor_names(config: PreTrainedConfig, found: Architecture) -> Callable[[str], str]:
    """Return the function from transformers' names of tensors to GGUF's, which raises PlanError for unknown ones."""
    table = gguf.get_tensor_name_map(found.arch, int(config.num_hidden_layers))

    def name_of(name: str) -> str:
        named = table.get_name(key=name, try_suffixes=(".weight", ".bias"))
        if named is None:
            raise _unsupported(f"The tensor {name[:80]!r} has no name in GGUF files of the shape {found.name}.")
        return str(named)

    return name_of
