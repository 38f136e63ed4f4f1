# SPDX-License-Identifier: Apache-2.0
import re

import pytest
from finetree_estimator import accelerators, models, prices
from finetree_estimator.names import GIB, UnknownNameError
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


@pytest.mark.parametrize("asked", ["rtx-4090", "RTX 4090", "GeForce RTX 4090", "rtx_4090"])
def test_an_accelerator_is_found_however_it_is_written(asked):
    assert accelerators.accelerator(asked).name == "rtx-4090"


def test_an_unknown_name_comes_back_with_the_nearest():
    with pytest.raises(UnknownNameError) as caught:
        models.model("lama-3.2-3b")

    assert caught.value.nearest[0] == "llama-3.2-3b"


def test_an_accelerator_offers_a_little_less_than_its_label():
    for entry in accelerators.accelerators():
        share = entry.usable_bytes / (entry.marketed_gb * GIB)
        assert 0.85 < share < 1.0, entry.name


def test_an_accelerator_trains_below_its_peak():
    for entry in accelerators.accelerators():
        if entry.dense_flops:
            assert 0.1 < entry.training_flops / entry.dense_flops < 0.7, entry.name


def test_every_number_of_the_catalogue_has_a_source_and_a_date():
    for entry in (*models.models(), *accelerators.accelerators(), *prices.packaged().quotes):
        assert entry.source, entry
        assert re.fullmatch(r"20\d\d(-\d\d){0,2}", entry.date), entry


def test_every_price_is_of_an_accelerator_of_the_catalogue():
    names = {entry.name for entry in accelerators.accelerators()}

    assert {quote.accelerator for quote in prices.packaged().quotes} <= names


def test_price_ids_are_unique_and_say_who_what_and_when():
    ids = [quote.price_id for quote in prices.packaged().quotes]

    assert len(ids) == len(set(ids))
    assert prices.packaged().find("runpod/rtx-4090/2026-07-15").hourly == 0.69


def test_the_cheapest_and_the_typical_price():
    book = prices.packaged()

    assert book.cheapest("rtx-4090").hourly == 0.39
    assert book.typical("rtx-4090") == 0.68
    assert book.cheapest("mi300x") is None
    assert book.typical("mi300x") == 0.0


HEADER = b"price_id,accelerator,provider,hourly_price,currency,date,source\n"


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"price_id,accelerator\n", "line 1: the column 'provider' is missing"),
        (HEADER + b"a,t4,x,cheap,USD,2026,y\n", "line 2: hourly_price"),
        (HEADER + b"a,t4,x,1,USD,2026,y\nb,t4,x,-1,USD,2026,y\n", "line 3: hourly_price"),
        (HEADER + b"a,t4,x,nan,USD,2026,y\n", "line 2: hourly_price"),
        (HEADER + b",t4,x,1,USD,2026,y\n", "line 2: price_id, accelerator"),
        (HEADER + b"a,t4,x,1,dollars,2026,y\n", "line 2: price_id, accelerator"),
    ],
)
def test_a_bad_price_book_is_refused_with_its_line(content, complaint):
    with pytest.raises(prices.PriceBookError, match=complaint):
        prices.read(content, "mine")
