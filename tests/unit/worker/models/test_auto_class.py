# SPDX-License-Identifier: Apache-2.0
"""Which class of transformers loads a model, and that no other part of the worker needs to know."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from finetree_worker.models.auto_class import READS_IMAGES, WITH_IMAGES, auto_class_of, auto_name, auto_name_of
from finetree_worker.models.gguf import base_facts
from finetree_worker.models.load import load_model
from finetree_worker.plan import LANGUAGE, BaseModel
from multimodal_models import MULTIMODAL


@pytest.mark.parametrize("kind", ["llama", "mixtral", "qwen3_5", "gemma3", "gemma4", "ministral3"])
def test_what_transformers_loads_as_a_language_model_is_one(kind: str) -> None:
    """Those that read images too keep their vision tower."""
    assert auto_name(kind) == LANGUAGE


@pytest.mark.parametrize("kind", ["vit", "t5", "paligemma", "qwen2_audio", ""])
def test_what_is_no_decoder_that_is_trained_has_no_class(kind: str) -> None:
    assert auto_name(kind) == ""


def test_every_type_that_reads_images_is_trained_in_tests_and_known_to_transformers() -> None:
    types = {getattr(transformers, config).model_type for config, *_ in MULTIMODAL.values()}
    assert types == READS_IMAGES
    assert {auto_name(kind) for kind in READS_IMAGES} == {WITH_IMAGES}


@pytest.mark.parametrize("content", [None, "{", "[]", "{}", '{"model_type": 3}', '{"model_type": "vit"}'])
def test_a_folder_that_says_nothing_is_taken_for_a_language_model(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content, encoding="utf-8")
    assert auto_name_of(tmp_path) == LANGUAGE


@pytest.mark.parametrize(("kind", "name"), [("llama", LANGUAGE), ("qwen3-vl", WITH_IMAGES)])
def test_a_base_names_its_class_and_is_loaded_by_it(tmp_path: Path, tiny: Any, kind: str, name: str) -> None:
    made = tiny(kind)
    made.save_pretrained(tmp_path)
    base = base_facts(BaseModel(tmp_path))
    assert (base.auto_class, base.message().auto_class) == (name, name)
    assert auto_class_of(tmp_path) is getattr(transformers, name)
    loaded = load_model(tmp_path, torch.float32, device=torch.device("cpu"))
    assert type(loaded) is type(made)
