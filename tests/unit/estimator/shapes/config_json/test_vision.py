# SPDX-License-Identifier: Apache-2.0
"""Vision towers of published models, and settings that cannot be read."""

import pytest
from finetree_estimator.shapes.config_json.vision import vision_parameters

GEMMA3 = {
    "model_type": "gemma3",
    "vision_config": {
        "model_type": "siglip_vision_model", "hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27,
        "image_size": 896, "patch_size": 14, "vision_use_head": False,
    },
}  # fmt: skip
MISTRAL3 = {"model_type": "mistral3", "vision_config": {"model_type": "pixtral"}}
QWEN3_VL = {"model_type": "qwen3_vl", "vision_config": {"out_hidden_size": 4096}}
QWEN2_5_VL = {"model_type": "qwen2_5_vl", "vision_config": {"hidden_size": 1280, "out_hidden_size": 3584}}
GLM_4V = {"model_type": "glm4v", "vision_config": {"out_hidden_size": 4096}}
INTERNVL = {"model_type": "internvl", "vision_config": {"patch_size": [14, 14], "image_size": [448, 448]}}


@pytest.mark.parametrize(
    ("config", "hidden", "parameters"),
    [
        (GEMMA3, 2560, 419816304),
        (GEMMA3, 3840, 421290864),
        (GEMMA3, 5376, 423060336),
        (MISTRAL3, 5120, 438958080),
        (QWEN2_5_VL, 3584, 676550144),
        (QWEN3_VL, 4096, 576388336),
        (GLM_4V, 4096, 892498432),
    ],
    ids=[
        "gemma-3-4b",
        "gemma-3-12b",
        "gemma-3-27b",
        "mistral-small-3.1",
        "qwen2.5-vl-7b",
        "qwen3-vl-8b",
        "glm-4.1v-9b",
    ],
)
def test_a_published_models_tower_has_the_parameters_of_its_files(config, hidden, parameters):
    assert vision_parameters(config, hidden) == parameters


@pytest.mark.parametrize("kind", ["qwen3_5", "qwen3_5_moe", "llama4"])
def test_a_model_that_is_loaded_without_its_tower_counts_none(kind):
    assert vision_parameters({"model_type": kind, "vision_config": {"depth": 27}}, 4096) == 0


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"model_type": "gemma3"},
        {"model_type": ["gemma3"], "vision_config": {}},
        {"model_type": "gemma3", "vision_config": None},
        {"model_type": "perceiver", "vision_config": {}},
        {"model_type": "llava", "vision_config": {"model_type": "perceiver"}},
        {"model_type": "llava", "vision_config": {"model_type": 5}},
        MISTRAL3 | {"spatial_merge_size": 0},
        MISTRAL3 | {"spatial_merge_size": True},
        MISTRAL3 | {"multimodal_projector_bias": "yes"},
        MISTRAL3 | {"vision_feature_layer": "all"},
        INTERNVL | {"downsample_ratio": 0},
        INTERNVL | {"downsample_ratio": 1e-300},
        INTERNVL | {"downsample_ratio": "half"},
        {"model_type": "internvl", "vision_config": {"patch_size": []}},
        {"model_type": "qwen2_vl", "vision_config": {"embed_dim": 1 << 20, "depth": 1 << 20}},
        {"model_type": "glm4v", "vision_config": {"patch_size": "14"}},
    ],
)
def test_a_tower_that_cannot_be_read_is_unknown(config):
    assert vision_parameters(config, 4096) is None


def test_features_of_several_layers_widen_the_projector():
    one = {"model_type": "llava", "vision_config": {"model_type": "clip_vision_model"}, "vision_feature_layer": -2}

    more = vision_parameters(one | {"vision_feature_layer": [-2, -5, -8]}, 4096) - vision_parameters(one, 4096)

    assert more == 2 * 768 * 4096
