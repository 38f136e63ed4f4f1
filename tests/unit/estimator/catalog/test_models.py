# SPDX-License-Identifier: Apache-2.0
import re

import pytest
from finetree_api.types.v1 import model_pb2
from finetree_estimator.catalog import accelerators, models, price_book
from finetree_estimator.catalog.names import UnknownNameError
from finetree_estimator.messages import catalog
from finetree_estimator.shapes.config_json.hf_config import Described
from finetree_estimator.shapes.consistency import contradiction
from finetree_estimator.shapes.families import FAMILIES
from finetree_estimator.shapes.parameters import active_parameters, count
from finetree_estimator.spec.resolve import Knowledge, read_model


def last_place(printed: str) -> tuple[float, float]:
    """The number that a publisher printed, and what its last place is worth: "7.24B" is 7.24e9 to 1e7."""
    digits, unit = re.fullmatch(r"([\d.]+)([MB]?)", printed).groups()
    scale = {"": 1, "M": 1e6, "B": 1e9}[unit]
    return float(digits) * scale, scale / 10 ** len(digits.partition(".")[2])


def test_a_models_shape_gives_the_published_number_of_parameters():
    for entry in models.models():
        published, place = last_place(entry.published)
        # Publishers round, some of them down; a total in units is exact.
        tolerance = 0 if place == 1 else place
        counted = count(entry.shape).total + entry.shape.vision + entry.stored_besides
        assert abs(counted - published) <= tolerance, entry.name


def test_most_published_numbers_of_parameters_are_exact():
    exact = [entry for entry in models.models() if entry.published.isdecimal()]

    assert len(exact) >= 100


def test_the_catalog_has_the_models_that_people_ask_for():
    families = {entry.family for entry in models.models()}

    assert len(models.models()) >= 70
    assert {"llama3.1", "qwen2", "qwen3", "mistral", "mixtral", "gemma2", "gemma3", "phi3", "gpt_oss"} <= families
    assert {"deepseek-r1-distill", "olmo2", "falcon", "gpt2", "gpt_neox", "smollm2", "smollm3"} <= families


def test_the_catalog_has_mixtures_shared_keys_and_tied_embeddings():
    shapes = [entry.shape for entry in models.models()]

    assert sum(shape.experts > 0 for shape in shapes) >= 8
    assert sum(shape.kv_heads < shape.heads for shape in shapes) >= 30
    assert sum(shape.tied for shape in shapes) >= 20


def test_a_models_shape_is_one_of_a_known_family_and_without_contradiction():
    for entry in models.models():
        assert entry.shape.family in FAMILIES, entry.name
        assert contradiction(entry.shape) is None, entry.name


def test_the_shape_that_is_listed_is_read_back_as_the_same():
    knowledge = Knowledge(price_book.packaged())
    for entry in models.models():
        listed = catalog.model_message(entry)

        assert read_model(model_pb2.ModelSource(shape=listed.shape), knowledge) == Described(entry.shape), entry.name
        assert listed.parameters == count(entry.shape).total, entry.name


@pytest.mark.parametrize(
    ("name", "active"),
    [
        # Published with the model, all but the second rounded: gpt-oss's model card (3.61B and 5.13B, without the
        # embeddings), the Mixtral paper, Qwen's and AllenAI's model cards.
        ("gpt-oss-20b", 3.61e9 + 201088 * 2880),
        ("gpt-oss-120b", 5.13e9 + 201088 * 2880),
        ("mixtral-8x7b", 12.9e9),
        ("qwen3-235b-a22b", 22.2e9),
        ("olmoe-1b-7b", 1.28e9),
    ],
)
def test_a_token_uses_as_many_parameters_of_a_mixture_as_published(name, active):
    assert active_parameters(models.model(name).shape) == pytest.approx(active, rel=0.005)


def test_a_token_uses_all_of_a_dense_model():
    shape = models.model("qwen3-8b").shape

    assert active_parameters(shape) == count(shape).total


def test_no_name_means_two_models():
    names = [name.lower() for m in models.models() for name in (m.name, m.hub_id, *m.aliases)]

    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("smollm2-135m-instruct", "smollm2-135m-instruct"),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", "smollm2-135m-instruct"),
        ("Llama-3.2-3B-Instruct", "llama-3.2-3b"),
        ("qwen/qwen2.5-7b-instruct", "qwen2.5-7b-instruct"),
        ("Qwen2.5-Coder-7B", "qwen2.5-7b-instruct"),
    ],
)
def test_a_model_is_found_by_name_hub_id_and_hub_name_in_any_case(asked, found):
    assert models.model(asked).name == found


def test_names_that_begin_with_what_was_asked_for_come_before_similar_ones():
    with pytest.raises(UnknownNameError) as caught:
        models.model("mistral-7b")
    assert caught.value.nearest[:2] == ("mistral-7b-v0.1", "mistral-7b-v0.3")


def test_an_unknown_name_comes_back_with_the_nearest():
    with pytest.raises(UnknownNameError) as caught:
        models.model("lama-3.2-3b")

    assert caught.value.nearest[0] == "llama-3.2-3b"


def test_every_number_of_the_catalog_has_a_source_and_a_date():
    for entry in (*models.models(), *accelerators.accelerators(), *price_book.packaged().quotes):
        assert entry.source, entry
        assert re.fullmatch(r"20\d\d(-\d\d){0,2}", entry.date), entry


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ("TheBloke/Llama-2-7B-GPTQ unsloth/llama-3-8b-bnb-4bit Qwen/Qwen3-8B-FP8 m.Q4_K_M.gguf org/m-int4", "16-bit"),
        (
            "google-bert/bert-base-uncased roberta-large distilbert BAAI/bge-m3 intfloat/e5-large nomic-embed-text",
            "an encoder;",
        ),
        ("sentence-transformers/all-MiniLM-L6-v2", "an encoder;"),
        ("t5-base google/flan-t5-xl facebook/bart-large Salesforce/codet5-base", "encoder-decoder"),
        (
            "meta-llama/Llama-3.2-11B-Vision openai/whisper-large-v3 sdxl vit-base",
            "images or audio",
        ),
        ("gpt-4o gpt-3.5-turbo claude-3 openai/o3 gemini-2.5-pro", "not public"),
        ("deepseek-ai/DeepSeek-V3 Robert-7B gpt-oss-21b EleutherAI/gpt-neo-125m Kimi-K2 mamba-2.8b ./m", ""),
        ("OpenGVLab/InternVL3-9B-hf llava-hf/llava-1.5-7b-hf mistral-community/pixtral-12b org/some-vl-4b", ""),
    ],
)
def test_a_name_tells_what_a_model_is_not(names, words):
    for name in names.split():
        found = models.unknown_reason(name)
        assert words in found if words else not found, name


def test_no_model_of_the_catalog_looks_like_one_that_is_not_trained():
    assert not [
        name
        for model in models.models()
        for name in (model.name, model.hub_id, *model.aliases)
        if models.unknown_reason(name)
    ]
