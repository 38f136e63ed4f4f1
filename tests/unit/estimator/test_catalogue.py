# SPDX-License-Identifier: Apache-2.0
import re

import pytest
from finetree_estimator import accelerators, models, prices
from finetree_estimator.names import UnknownNameError
from finetree_estimator.shapes import count


@pytest.mark.parametrize("entry", models.models(), ids=lambda entry: entry.name)
def test_a_models_shape_gives_the_published_number_of_parameters(entry):
    assert count(entry.shape).total == entry.published


def test_the_catalogue_has_the_models_that_people_ask_for():
    families = {entry.family for entry in models.models()}

    assert len(models.models()) >= 25
    assert {"llama", "qwen2", "qwen3", "mistral", "gemma2", "phi"} <= families


def test_no_name_means_two_models():
    names = [name.lower() for m in models.models() for name in (m.name, m.hub_id, *m.aliases)]

    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("smollm2-135m-instruct", "smollm2-135m-instruct"),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", "smollm2-135m-instruct"),
        ("Llama-3.2-3B-Instruct", "llama-3.2-3b"),
        ("qwen/qwen2.5-7b-instruct", "qwen2.5-7b"),
    ],
)
def test_a_model_is_found_by_name_hub_id_and_hub_name_in_any_case(asked, found):
    assert models.model(asked).name == found


def test_an_unknown_name_comes_back_with_the_nearest():
    with pytest.raises(UnknownNameError) as caught:
        models.model("lama-3.2-3b")

    assert caught.value.nearest[0] == "llama-3.2-3b"


def test_every_number_of_the_catalogue_has_a_source_and_a_date():
    for entry in (*models.models(), *accelerators.accelerators(), *prices.packaged().quotes):
        assert entry.source, entry
        assert re.fullmatch(r"20\d\d(-\d\d){0,2}", entry.date), entry
