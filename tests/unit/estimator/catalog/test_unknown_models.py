# SPDX-License-Identifier: Apache-2.0
import pytest
from finetree_estimator.catalog.models import models
from finetree_estimator.catalog.unknown_models import hint


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ("TheBloke/Llama-2-7B-GPTQ unsloth/llama-3-8b-bnb-4bit Qwen/Qwen3-8B-FP8 m.Q4_K_M.gguf org/m-int4", "16-bit"),
        (
            "google-bert/bert-base-uncased roberta-large distilbert BAAI/bge-m3 intfloat/e5-large nomic-embed-text",
            "encoder,",
        ),
        ("sentence-transformers/all-MiniLM-L6-v2", "encoder,"),
        ("t5-base google/flan-t5-xl facebook/bart-large Salesforce/codet5-base", "encoder and decoder"),
        (
            "Qwen/Qwen2.5-VL-7B-Instruct llava-hf/llava-1.5-7b-hf openai/whisper-large-v3 sdxl vit-base",
            "images or sounds",
        ),
        ("gpt-4o gpt-3.5-turbo claude-3 openai/o3 gemini-2.5-pro", "not public"),
        ("deepseek-ai/DeepSeek-V3 Robert-7B gpt-oss-21b EleutherAI/gpt-neo-125m Kimi-K2 mamba-2.8b ./m", ""),
    ],
)
def test_a_name_tells_what_a_model_is_not(names, words):
    for name in names.split():
        found = hint(name)
        assert words in found if words else not found, name


def test_no_model_of_the_catalogue_looks_like_one_that_is_not_trained():
    assert not [name for model in models() for name in (model.name, model.hub_id, *model.aliases) if hint(name)]
