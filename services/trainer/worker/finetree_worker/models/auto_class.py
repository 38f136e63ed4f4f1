# SPDX-License-Identifier: Apache-2.0
"""Which class of transformers loads a model: one for language models, one for those that read images beside text."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import transformers
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)

from finetree_worker.plan import LANGUAGE

WITH_IMAGES = "AutoModelForImageTextToText"
"""Name of the class for models that read images beside text, and that transformers does not load as language models.

Loaded as a language model where transformers can, Gemma 3 and 4 keep their vision towers, and Qwen3.5 has none.
"""
READS_IMAGES = frozenset(
    {
        "glm46v",
        "glm4v",
        "glm4v_moe",
        "idefics3",
        "internvl",
        "lfm2_vl",
        "llava",
        "llava_next",
        "llava_onevision",
        "mistral3",
        "qwen2_5_vl",
        "qwen2_vl",
        "qwen3_vl",
        "qwen3_vl_moe",
        "smolvlm",
    }
)
"""Values of model_type of that class whose language model is one: each is trained on text in a test."""


def auto_name(model_type: str) -> str:
    """Return the name of the class that loads models of a type; empty where none can be trained."""
    if model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return LANGUAGE
    if model_type in READS_IMAGES and model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        return WITH_IMAGES
    return ""


def auto_name_of(folder: Path) -> str:
    """Return the name of the class that loads the model in `folder`; that of language models where nothing says so."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return LANGUAGE
    kind = config.get("model_type") if isinstance(config, Mapping) else None
    return auto_name(kind if isinstance(kind, str) else "") or LANGUAGE


def auto_class_of(folder: Path) -> Any:
    """Return the class that loads the model in `folder`."""
    return getattr(transformers, auto_name_of(folder))
