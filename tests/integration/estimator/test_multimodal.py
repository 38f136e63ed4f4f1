# SPDX-License-Identifier: Apache-2.0
"""A multimodal model's text model and vision tower, read from config.json, against what transformers builds."""

import json
import sys
from pathlib import Path

import pytest
import torch
import transformers
from finetree_estimator.shapes.config_json import hf_config
from finetree_estimator.shapes.config_json.settings import ConfigError
from finetree_estimator.shapes.config_json.vision import vision_parameters
from finetree_estimator.shapes.parameters import count

sys.path.append(str(Path(__file__).parents[2] / "unit" / "worker"))
from multimodal_models import MULTIMODAL, multimodal_shape

_TEXT = {
    "vocab_size": 260,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
_PARTS = ("vision_config", "audio_config")
_ESTIMATED = sorted(MULTIMODAL)


_DEFAULTS = sorted({MULTIMODAL[name][0] for name in _ESTIMATED} | {"Gemma3Config"})


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("name", _ESTIMATED)
def test_the_text_model_of_a_configuration_counts_what_transformers_builds(name: str, tied: bool) -> None:
    shape = multimodal_shape(name, _TEXT | {"tie_word_embeddings": tied})
    config = getattr(transformers, MULTIMODAL[name][0])(**shape | {"tie_word_embeddings": tied})
    with torch.device("meta"):
        model = transformers.AutoModelForImageTextToText.from_config(config)
    parts = (model.get_decoder(), model.get_output_embeddings())
    built = {id(parameter): parameter.numel() for part in parts for parameter in part.parameters()}
    found = hf_config.parse(json.loads(config.to_json_string(use_diff=False)))
    assert count(found.shape).total == sum(built.values())
    assert found.shape.vision == _outside(model)
    assert [remark.code for remark in found.remarks] == ["TEXT_MODEL_ONLY"]


@pytest.mark.parametrize("terse", [True, False], ids=["terse", "spelled out"])
@pytest.mark.parametrize("name", _DEFAULTS)
def test_the_tower_of_a_configuration_class_with_its_defaults_has_the_parameters_that_are_counted(
    name: str, terse: bool
) -> None:
    config = getattr(transformers, name)()
    with torch.device("meta"):
        model = transformers.AutoModelForImageTextToText.from_config(config)
    written = json.loads(config.to_json_string(use_diff=terse))
    assert vision_parameters(written, config.text_config.hidden_size) == _outside(model)


@pytest.mark.parametrize("name", ["Qwen3_5Config", "Llama4Config"])
def test_what_transformers_loads_as_a_language_model_without_its_tower_counts_none(name: str) -> None:
    config = getattr(transformers, name)()
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    assert not any("vis" in path for path, _ in model.named_parameters())
    assert vision_parameters(json.loads(config.to_json_string()), config.text_config.hidden_size) == 0


def test_layers_that_are_not_estimated_are_refused_in_such_a_model_too() -> None:
    config = {"model_type": "llava", "vision_config": {}, "text_config": _TEXT | {"mamba_d_state": 16}}
    with pytest.raises(ConfigError, match="a state-space layer is not supported"):
        hf_config.parse(config)


_SMALL_TOWERS: dict[str, tuple[dict[str, object], dict[str, object]]] = {
    "Gemma4Config": (
        {"hidden_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 12, "num_hidden_layers": 2},
        {"hidden_size": 64, "num_hidden_layers": 3, "conv_kernel_size": 3, "subsampling_conv_channels": [16, 8]},
    ),
    "Gemma4UnifiedConfig": ({"mm_embed_dim": 48, "mm_posemb_size": 10}, {"audio_embed_dim": 32}),
}


@pytest.mark.parametrize("parts", [(False, False), (True, False), (True, True)], ids=["text", "images", "audio"])
@pytest.mark.parametrize("small", [True, False], ids=["small", "default"])
@pytest.mark.parametrize("name", _SMALL_TOWERS)
def test_gemma_4_is_counted_with_the_towers_that_it_has(name: str, small: bool, parts: tuple[bool, bool]) -> None:
    vision, audio = (given if small else {} for given in _SMALL_TOWERS[name])
    towers = {part: given for part, given, has in zip(_PARTS, (vision, audio), parts, strict=True) if has}
    config = getattr(transformers, name)(text_config={"num_hidden_layers": 6}, **towers)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    found = hf_config.parse(json.loads(config.to_json_string(use_diff=False)))
    assert found.shape.vision == _outside(model)
    assert count(found.shape).total + found.shape.vision == model.num_parameters()


def _outside(model: torch.nn.Module) -> int:
    """Parameters of a model beside its text model and head."""
    parts = (model.get_decoder(), model.get_output_embeddings())
    text = {id(parameter) for part in parts for parameter in part.parameters()}
    return sum(parameter.numel() for parameter in model.parameters() if id(parameter) not in text)
