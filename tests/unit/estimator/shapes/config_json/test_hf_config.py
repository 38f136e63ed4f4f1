# SPDX-License-Identifier: Apache-2.0
import json
from dataclasses import replace

import pytest
from finetree_api.types.v1 import model_pb2
from finetree_estimator.catalog.models import model
from finetree_estimator.catalog.price_book import packaged
from finetree_estimator.shapes.architecture import Shape
from finetree_estimator.shapes.config_json import hf_config
from finetree_estimator.shapes.config_json.settings import ConfigError
from finetree_estimator.shapes.consistency import contradiction
from finetree_estimator.shapes.families import FAMILIES
from finetree_estimator.shapes.parameters import count
from finetree_estimator.spec.resolve import Knowledge, read_model
from finetree_runtime.errors import InvalidArgument
from google.protobuf import json_format
from hypothesis import given, settings
from hypothesis import strategies as st

SMALL = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "vocab_size": 128,
    "max_position_embeddings": 512,
}
LLAMA = SMALL | {"model_type": "llama", "num_key_value_heads": 2}
QWEN3 = {
    "model_type": "qwen3", "hidden_size": 1024, "num_hidden_layers": 28, "intermediate_size": 3072,
    "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936,
    "tie_word_embeddings": True, "max_position_embeddings": 40960,
}  # fmt: skip
GEMMA2 = {
    "model_type": "gemma2", "hidden_size": 2304, "num_hidden_layers": 26, "intermediate_size": 9216,
    "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "vocab_size": 256000,
    "max_position_embeddings": 8192,
}  # fmt: skip
# As OpenAI wrote it: other names, and no width of the MLP.
GPT2 = {
    "model_type": "gpt2", "n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024, "n_ctx": 1024,
    "vocab_size": 50257,
}  # fmt: skip
# As the multimodal releases write it: only what differs from the defaults of the text model.
GEMMA3 = {
    "model_type": "gemma3",
    "vision_config": {
        "model_type": "siglip_vision_model", "hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27,
        "num_attention_heads": 16, "image_size": 896, "patch_size": 14, "vision_use_head": False,
    },
    "text_config": {
        "model_type": "gemma3_text", "hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34,
        "max_position_embeddings": 131072, "sliding_window": 1024,
    },
}  # fmt: skip
FALCON = {
    "model_type": "falcon", "hidden_size": 4544, "num_hidden_layers": 32, "num_attention_heads": 71,
    "multi_query": True, "parallel_attn": True, "bias": False, "alibi": False, "vocab_size": 65024,
    "new_decoder_architecture": False, "max_position_embeddings": 2048,
}  # fmt: skip
MIXTURE = {
    "model_type": "qwen2_moe", "hidden_size": 2048, "num_hidden_layers": 24, "intermediate_size": 5632,
    "num_attention_heads": 16, "num_key_value_heads": 16, "num_experts": 60, "num_experts_per_tok": 4,
    "moe_intermediate_size": 1408, "shared_expert_intermediate_size": 5632, "vocab_size": 151936,
    "max_position_embeddings": 8192, "decoder_sparse_step": 1,
}  # fmt: skip


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (QWEN3, "qwen3-0.6b"),
        (GEMMA2, "gemma-2-2b"),
        (GPT2, "gpt2"),
        (GEMMA3, "gemma-3-4b"),
        (FALCON, "falcon-7b"),
        (MIXTURE, "qwen1.5-moe-a2.7b"),
    ],
)
def test_a_publishers_config_gives_the_catalogs_shape(config, name):
    assert hf_config.parse(config).shape == model(name).shape


def test_a_known_family_needs_no_note_and_an_unknown_one_is_read_with_a_warning():
    known = hf_config.parse(LLAMA)
    guessed = hf_config.parse(LLAMA | {"model_type": "mystery"})
    nameless = hf_config.parse(SMALL)

    assert known.remarks == ()
    assert guessed.shape == replace(known.shape, family="", guessed=True)
    assert "'mystery' is unknown" in guessed.remarks[0].message
    assert "has no model_type" in nameless.remarks[0].message


@pytest.mark.parametrize(
    ("config", "vision", "words"),
    [
        (GEMMA3, 419816304, "its vision tower's 420 million parameters take memory alone"),
        (GEMMA3 | {"vision_config": {"model_type": "perceiver"}}, 0, "how its vision tower is built is not known"),
        (GEMMA3 | {"model_type": ["gemma3"], "tie_word_embeddings": True}, 0, "is not known"),
        (GEMMA3 | {"model_type": "llama4"}, 0, "loaded, without the vision tower"),
    ],
    ids=["counted", "unknown", "no name", "not loaded"],
)
def test_what_is_counted_of_a_multimodal_model_is_noted(config, vision, words):
    found = hf_config.parse(config)

    assert found.shape.vision == vision
    assert "only the language model" in found.remarks[0].message
    assert words in found.remarks[0].message


@pytest.mark.parametrize(
    ("kind", "whole", "text", "tied"),
    [
        ("mistral3", False, True, False),
        ("mistral3", True, False, True),
        ("mistral3", None, False, False),
        ("qwen2_5_vl", False, True, True),
        ("qwen2_5_vl", False, False, False),
    ],
)
def test_embeddings_are_tied_where_transformers_ties_them(kind, whole, text, tied):
    described = {"model_type": kind, "text_config": SMALL | {"tie_word_embeddings": text}}
    found = hf_config.parse(described if whole is None else described | {"tie_word_embeddings": whole})

    assert found.shape.tied is tied


def test_the_note_reaches_the_answer(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(LLAMA | {"model_type": "mystery"}))
    source = json_format.ParseDict({"path": "."}, model_pb2.ModelSource())

    assert "mystery" in read_model(source, Knowledge(packaged(), tmp_path)).remarks[0].message


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"hidden_size": None}, "hidden_size is missing"),
        ({"hidden_size": True}, "hidden_size is True"),
        ({"hidden_size": 64.0}, "hidden_size is 64.0, not an integer from 1 to 1,048,576"),
        ({"hidden_size": 1 << 21}, "hidden_size is 2097152"),
        ({"num_hidden_layers": 4097}, "num_hidden_layers is 4097"),
        ({"vocab_size": -1}, "vocab_size is -1"),
        ({"vocab_size": 10**30}, "vocab_size is 1000"),
        ({"num_attention_heads": "4"}, "num_attention_heads is '4'"),
        ({"num_attention_heads": 128}, "head_dim is missing"),
        ({"num_attention_heads": 128, "head_dim": 8}, "num_attention_heads is more than the hidden size of 64"),
        ({"num_key_value_heads": 3}, "num_key_value_heads does not divide 4 attention heads"),
        ({"num_key_value_heads": 8}, "num_key_value_heads does not divide 4 attention heads"),
        ({"num_attention_heads": 5}, "head_dim is missing"),
        ({"max_position_embeddings": 7}, "max_position_embeddings is less than the 8 tokens"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings is not true or false"),
        ({"attention_bias": 1}, "attention_bias is not true or false"),
        ({"model_type": 7}, "model_type is not a string"),
        ({"text_config": []}, "text_config is not an object"),
        ({"num_experts": 4, "num_experts_per_tok": 5}, "num_experts_per_tok exceeds the 4 experts"),
        ({"num_experts": 4, "first_k_dense_replace": 2}, "first_k_dense_replace must be less than the 2 layers"),
        ({"num_experts": 4, "mlp_only_layers": [1]}, "mlp_only_layers"),
        ({"num_experts": 4, "mlp_only_layers": {}}, None),
        ({"decoder_sparse_step": 2}, "decoder_sparse_step"),
        ({"kv_lora_rank": 512}, r"latent attention \(MLA\) is not supported"),
        ({"mamba_d_state": 16}, "state-space"),
        ({"is_encoder_decoder": True}, "decoder-only"),
        ({"expansion_ratio": 0}, "expansion_ratio"),
        ({"model_type": "stablelm", "qk_layernorm": True}, "this variant of stablelm"),
        ({"model_type": "opt", "word_embed_proj_dim": 32}, "word_embed_proj_dim"),
        ({"model_type": "bert", "architectures": ["BertForMaskedLM"]}, "BertForMaskedLM generates no text"),
        ({"model_type": "mystery", "moe_num_experts": 64}, "moe_num_experts: this description of experts"),
    ],
)
def test_what_a_config_says_wrongly_is_refused_by_its_name(changes, complaint):
    if complaint is None:
        assert hf_config.parse(LLAMA | changes)
        return
    with pytest.raises(ConfigError, match=complaint):
        hf_config.parse(LLAMA | changes)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"null", b"3", b"[" * 100_000, b"NaN", b'{"a":'])
def test_a_file_that_is_no_configuration_is_refused(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content)

    with pytest.raises(ConfigError):
        hf_config.read(tmp_path / "config.json")


def test_a_file_of_a_megabyte_is_not_read(tmp_path):
    (tmp_path / "config.json").write_bytes(b" " * (hf_config.MAX_CONFIG_BYTES + 1))

    with pytest.raises(ConfigError, match="larger than"):
        hf_config.read(tmp_path / "config.json")


@pytest.mark.parametrize("path", ["x" * 5000, "a\0b", "config.json/deeper"])
def test_a_path_that_no_file_system_has_is_not_found(tmp_path, path):
    (tmp_path / "config.json").write_text("{}")

    assert hf_config.find(tmp_path, path) is None


def test_a_broken_file_is_an_error_of_the_field_that_names_it(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(LLAMA | {"vocab_size": []}))
    source = json_format.ParseDict({"path": "."}, model_pb2.ModelSource())

    with pytest.raises(InvalidArgument, match="vocab_size") as caught:
        read_model(source, Knowledge(packaged(), tmp_path))
    assert caught.value.violations[0].field_path == "spec.model.path"


NAMES = st.sampled_from(
    [
        *SMALL, "model_type", "text_config", "num_key_value_heads", "num_kv_heads", "head_dim", "n_head", "n_embd",
        "n_inner", "tie_word_embeddings", "attention_bias", "use_bias", "bias", "enable_bias", "multi_query", "alibi",
        "parallel_attn",
        "new_decoder_architecture", "num_ln_in_parallel_attn", "num_experts", "num_local_experts", "n_routed_experts",
        "num_experts_per_tok", "moe_intermediate_size", "shared_expert_intermediate_size", "n_shared_experts",
        "first_k_dense_replace", "mlp_only_layers", "decoder_sparse_step", "kv_lora_rank", "is_encoder_decoder",
        "expansion_ratio", "word_embed_proj_dim", "use_qk_norm", "qk_layernorm", "use_parallel_residual",
    ]
)  # fmt: skip
NUMBERS = st.integers(0, 300) | st.integers()
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.floats() | st.text(max_size=8) | st.sampled_from(sorted(FAMILIES)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=6,
)


@settings(max_examples=300, derandomize=True)
@given(
    family=st.sampled_from(sorted(FAMILIES)),
    changes=st.dictionaries(NAMES, NUMBERS | VALUES, max_size=6),
)
def test_any_configuration_gives_a_possible_shape_or_an_error_of_ours(family, changes):
    try:
        found = hf_config.parse(LLAMA | {"model_type": family} | changes)
    except ConfigError as error:
        assert str(error)  # noqa: PT017 - either outcome is right
        return

    assert isinstance(found.shape, Shape)
    assert contradiction(found.shape) is None
    assert count(found.shape).total > 0


SIX = SMALL | {"num_hidden_layers": 6}


@pytest.mark.parametrize(
    ("config", "window", "full"),
    [
        ({"model_type": "mistral"}, 4096, 0),
        ({"model_type": "mistral", "sliding_window": None}, 0, 0),
        ({"model_type": "llama", "sliding_window": 128}, 0, 0),
        ({"model_type": "gemma2"}, 4096, 3),
        ({"model_type": "gemma3_text", "sliding_window": 512, "sliding_window_pattern": 3}, 512, 2),
        ({"model_type": "gpt_oss", "layer_types": ["sliding_attention"] * 5 + ["full_attention"]}, 128, 1),
        ({"model_type": "exaone4", "sliding_window_pattern": "LLG"}, 4096, 2),
        ({"model_type": "phi3", "sliding_window": 2047}, 2047, 0),
        ({"model_type": "qwen2", "sliding_window": 64}, 0, 0),
        ({"model_type": "qwen2", "sliding_window": 64, "use_sliding_window": True, "max_window_layers": 4}, 64, 4),
        ({"model_type": "qwen2", "sliding_window": 64, "use_sliding_window": True, "max_window_layers": 0}, 64, 0),
        ({"model_type": "qwen2", "sliding_window": 64, "use_sliding_window": True}, 0, 0),
        ({"model_type": "qwen3_moe", "sliding_window": 64, "use_sliding_window": True}, 64, 0),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else str(value),
)
def test_windows_are_those_of_the_configuration(config, window, full):
    """As the configuration classes of transformers 5.24 list layer_types."""
    shape = hf_config.parse(SIX | config).shape

    assert (shape.window, shape.full_attention_layers, shape.windowed_layers) == (
        window,
        full,
        (6 - full) * (window > 0),
    )


@pytest.mark.parametrize(("full", "window"), [(1, 0), (3, 64)])
def test_full_layers_need_a_window_and_are_no_more_than_all(full, window):
    shape = replace(hf_config.parse(LLAMA).shape, full_attention_layers=full, window=window)

    assert contradiction(shape).field == "full_attention_layers"


QWEN35 = {
    "model_type": "qwen3_5",
    "tie_word_embeddings": False,
    "text_config": {
        "model_type": "qwen3_5_text", "hidden_size": 4096, "num_hidden_layers": 32, "intermediate_size": 12288,
        "num_attention_heads": 16, "num_key_value_heads": 4, "head_dim": 256, "vocab_size": 248320,
        "max_position_embeddings": 262144, "linear_num_key_heads": 16, "linear_num_value_heads": 32,
        "linear_key_head_dim": 128, "linear_value_head_dim": 128, "linear_conv_kernel_dim": 4,
    },
    "vision_config": {"hidden_size": 1152},
}  # fmt: skip


def test_linear_attention_is_read_from_the_text_model_of_a_multimodal_one():
    found = hf_config.parse(QWEN35)

    assert found.shape == model("qwen3.5-9b").shape
    assert [remark.code for remark in found.remarks] == ["TEXT_MODEL_ONLY"]


@pytest.mark.parametrize(
    ("changes", "layers", "attending"),
    [
        ({}, 24, {3, 7, 11, 15, 19, 23, 27, 31}),
        ({"full_attention_interval": 16}, 30, {15, 31}),
        ({"layer_types": ["linear_attention", "full_attention"] * 16}, 16, set(range(1, 32, 2))),
        ({"layer_types": ["full_attention"] * 32}, 0, set(range(32))),
    ],
)
def test_layers_with_softmax_attention_are_those_of_the_configuration(changes, layers, attending):
    shape = hf_config.parse(QWEN35["text_config"] | changes).shape

    assert shape.mixer_layers == layers
    kinds = [kind for kind in shape.layer_kinds if kind.linears[0].name == "self_attn.q_proj"]
    assert {place for kind in kinds for place in kind.places} == attending


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"linear_num_value_heads": 24}, "linear_num_value_heads"),
        ({"layer_types": ["linear_attention"] * 32}, "layer_types"),
        ({"linear_conv_kernel_dim": 65}, "linear_conv_kernel_dim"),
    ],
)
def test_linear_attention_that_cannot_be_is_refused(changes, named):
    with pytest.raises(ConfigError, match=named):
        hf_config.parse(QWEN35["text_config"] | changes)


def test_linear_attention_of_another_family_is_refused_with_what_to_do():
    with pytest.raises(ConfigError, match=r"linear attention is not supported; give model\.shape"):
        hf_config.parse(LLAMA | {"linear_num_value_heads": 8})
