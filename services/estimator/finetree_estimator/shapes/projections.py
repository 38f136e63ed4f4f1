# SPDX-License-Identifier: Apache-2.0
"""Module names of the projections of a decoder layer in transformers' models, by family.

Read from the modules of transformers 5.24 (a test builds every family and compares). The number of
LoRA parameters depends on them: fused projections share one adapter.
"""

from dataclasses import dataclass, replace
from enum import Enum


class Role(Enum):
    """Role of a projection."""

    QUERY = "query"
    KEY = "key"
    VALUE = "value"
    QKV = "query, key and value"
    OUTPUT_GATE = "gate of the attention output"
    MIXED = "input of a convolution"
    LATENT_QUERY = "latent of the queries"
    QUERY_OF_LATENT = "query, of its latent"
    LATENT_KEY = "latent of keys and values, and the rotated part of the keys"
    KEY_OF_LATENT = "key and value, of their latent"
    OUTPUT = "attention output"
    GATE = "gate"
    UP = "up"
    GATE_UP = "gate and up"
    DOWN = "down"
    INPUT_GATE = "gate of the layer's input"
    INPUT = "layer's input"

    # Members are equal by identity; an enum's own hash calls back into Python, some hundred times a run.
    __hash__ = object.__hash__


LATENT_ROLES = frozenset({Role.LATENT_QUERY, Role.QUERY_OF_LATENT, Role.LATENT_KEY, Role.KEY_OF_LATENT})
"""Projections of latent attention beside its output."""
ATTENTION_ROLES = LATENT_ROLES | {
    *(Role.QUERY, Role.KEY, Role.VALUE, Role.QKV),
    *(Role.OUTPUT_GATE, Role.MIXED, Role.OUTPUT),
}
"""Projections of attention; the others are the MLP's, and those of a layer's input beside the stream."""
MLP_ROLES = frozenset({Role.GATE, Role.UP, Role.GATE_UP, Role.DOWN})
"""Projections of an MLP."""

Modules = tuple[tuple[str, Role], ...]
"""Paths of projections below their parent, in forward order."""


LAYER_INPUTS: Modules = (("per_layer_input_gate", Role.INPUT_GATE), ("per_layer_projection", Role.INPUT))
"""Projections of a layer's input beside the stream (Gemma 4)."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Modules of a decoder layer by path inside the layer."""

    attention: Modules
    mlp: Modules
    mixer: Modules = ()
    """Projections of a layer with linear attention or a convolution in place of attention, those of gates left out."""
    experts: str = "mlp.experts"
    """Module with the stacked parameters `gate_up_proj` and `down_proj` of all routed experts."""
    shared: str = "mlp.shared_expert"
    """Module of the expert that every token uses, with the projections of a Llama MLP."""
    scaled_norms: bool = True
    """Whether norms have parameters."""
    embedding_norm: bool = False
    """Whether a norm follows the embeddings."""
    expanded_keys: bool = False
    """Whether keys and values are repeated to one per query head before caching, which widens prefixes."""


_LINEAR: Modules = (
    ("linear_attn.in_proj_qkv", Role.QKV),
    ("linear_attn.in_proj_z", Role.OUTPUT_GATE),
    ("linear_attn.out_proj", Role.OUTPUT),
)
_JOINT_LINEAR: Modules = (("linear_attn.in_proj_qkvz", Role.QKV), ("linear_attn.out_proj", Role.OUTPUT))
"""Qwen3-Next's, whose one projection gives the output's gate too."""
_QKVO: Modules = (
    ("self_attn.q_proj", Role.QUERY),
    ("self_attn.k_proj", Role.KEY),
    ("self_attn.v_proj", Role.VALUE),
    ("self_attn.o_proj", Role.OUTPUT),
)
_CONVOLUTION: Modules = (("conv.in_proj", Role.MIXED), ("conv.out_proj", Role.OUTPUT))
_LATENT: Modules = (
    ("self_attn.q_proj", Role.QUERY),
    ("self_attn.q_a_proj", Role.LATENT_QUERY),
    ("self_attn.q_b_proj", Role.QUERY_OF_LATENT),
    ("self_attn.kv_a_proj_with_mqa", Role.LATENT_KEY),
    ("self_attn.kv_b_proj", Role.KEY_OF_LATENT),
    ("self_attn.o_proj", Role.OUTPUT),
)
"""DeepSeek's: queries come from the stream, or from a latent of theirs."""
GATED_MLP: Modules = (("gate_proj", Role.GATE), ("up_proj", Role.UP), ("down_proj", Role.DOWN))
"""Projections of a Llama MLP and of a shared expert."""
EXPERTS: Modules = (("gate_up_proj", Role.GATE_UP), ("down_proj", Role.DOWN))
"""Parameters of transformers' expert modules: one tensor of gate and up, one of down, each of all experts."""


def _below(parent: str, modules: Modules) -> Modules:
    return tuple((f"{parent}.{path}", role) for path, role in modules)


def _fused(attention: str, mlp: str, names: tuple[str, str, str, str]) -> Layout:
    """Layout with one projection for queries, keys and values, and an MLP without gate."""
    qkv, output, up, down = names
    return Layout(
        ((f"{attention}.{qkv}", Role.QKV), (f"{attention}.{output}", Role.OUTPUT)),
        ((f"{mlp}.{up}", Role.UP), (f"{mlp}.{down}", Role.DOWN)),
    )


LLAMA = Layout(_QKVO, _below("mlp", GATED_MLP))
"""Layout of most families, assumed where the family is unknown."""
_FUSED_MLP: Modules = (("mlp.gate_up_proj", Role.GATE_UP), ("mlp.down_proj", Role.DOWN))
_NEOX_NAMES = ("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h")
_GPT2 = _fused("attn", "mlp", ("c_attn", "c_proj", "c_fc", "c_proj"))
_FALCON = _fused("self_attention", "mlp", _NEOX_NAMES)
_GRANITE_MOE = Layout(_QKVO, _below("mlp", GATED_MLP), experts="block_sparse_moe.experts")

LAYOUTS: dict[str, Layout] = {
    **dict.fromkeys(("llama", "mistral", "ministral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text"), LLAMA),
    # Experts stand beside the MLP, which every token uses.
    "gemma4_text": Layout(_QKVO, _below("mlp", GATED_MLP), experts="experts", shared="mlp"),
    "gemma4_unified_text": LLAMA,
    **dict.fromkeys(("smollm3", "granite", "stablelm", "olmo2", "olmo3", "cohere", "cohere2", "internlm3"), LLAMA),
    **dict.fromkeys(("ernie4_5", "seed_oss", "exaone4", "hunyuan_v1_dense", "nemotron"), LLAMA),
    **dict.fromkeys(("mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "phimoe", "gpt_oss"), LLAMA),
    **dict.fromkeys(("qwen3_5_text", "qwen3_5_moe_text"), replace(LLAMA, mixer=_LINEAR)),
    **dict.fromkeys(
        ("lfm2", "lfm2_moe"),
        Layout(
            (*_QKVO[:3], ("self_attn.out_proj", Role.OUTPUT)),
            (("feed_forward.w1", Role.GATE), ("feed_forward.w3", Role.UP), ("feed_forward.w2", Role.DOWN)),
            mixer=_CONVOLUTION,
            experts="feed_forward.experts",
        ),
    ),
    **dict.fromkeys(
        ("deepseek_v2", "deepseek_v3", "glm4_moe_lite"),
        Layout(_LATENT, _below("mlp", GATED_MLP), shared="mlp.shared_experts"),
    ),
    "qwen3_next": replace(LLAMA, mixer=_JOINT_LINEAR),
    "glm4_moe": Layout(_QKVO, _below("mlp", GATED_MLP), shared="mlp.shared_experts"),
    "llama4_text": Layout(
        _QKVO,
        _below("feed_forward", GATED_MLP),
        experts="feed_forward.experts",
        shared="feed_forward.shared_expert",
    ),
    "granitemoe": _GRANITE_MOE,
    "olmo": Layout(_QKVO, _below("mlp", GATED_MLP), scaled_norms=False),
    **dict.fromkeys(("glm", "glm4"), Layout(_QKVO, _FUSED_MLP)),
    "phi3": Layout((("self_attn.qkv_proj", Role.QKV), ("self_attn.o_proj", Role.OUTPUT)), _FUSED_MLP),
    "phi": Layout(
        (*_QKVO[:3], ("self_attn.dense", Role.OUTPUT)),
        (("mlp.fc1", Role.UP), ("mlp.fc2", Role.DOWN)),
    ),
    "opt": Layout(
        (*_QKVO[:3], ("self_attn.out_proj", Role.OUTPUT)),
        (("fc1", Role.UP), ("fc2", Role.DOWN)),
    ),
    "gptj": Layout(
        (*((path.replace("self_attn", "attn"), role) for path, role in _QKVO[:3]), ("attn.out_proj", Role.OUTPUT)),
        (("mlp.fc_in", Role.UP), ("mlp.fc_out", Role.DOWN)),
    ),
    "starcoder2": Layout(_QKVO, (("mlp.c_fc", Role.UP), ("mlp.c_proj", Role.DOWN))),
    "gpt_neox": _fused("attention", "mlp", _NEOX_NAMES),
    "falcon": replace(_FALCON, expanded_keys=True),
    "bloom": replace(_FALCON, embedding_norm=True),
    **dict.fromkeys(("gpt2", "gpt_bigcode"), _GPT2),
    "mpt": _fused("attn", "ffn", ("Wqkv", "out_proj", "up_proj", "down_proj")),
}
"""Layout by config.json's model_type."""


MISREAD_MLPS = frozenset({"qwen3_next", "glm4_moe", "glm4_moe_lite", "deepseek_v2", "deepseek_v3"})
"""Families whose shared experts and dense layers have names that PEFT takes for experts' (peft 0.21).

No adapter of theirs could be loaded again, so that presets leave them out.
"""


def layout(family: str) -> Layout:
    """Look up the layout of a family; Llama's where it is unknown."""
    return LAYOUTS.get(family, LLAMA)


def ends_with(path: str, name: str) -> bool:
    """Whether a module's path ends with the whole components of `name`."""
    return path == name or path.endswith(f".{name}")


def roles_of(name: str) -> frozenset[Role]:
    """Roles of modules with this name in any family, for models of unknown family."""
    return frozenset(role for path, role in _MODULES if ends_with(path, name))


_MODULES = frozenset(module for known in LAYOUTS.values() for module in known.attention + known.mixer + known.mlp)
"""Paths of the projections of all families."""
