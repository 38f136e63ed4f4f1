# SPDX-License-Identifier: Apache-2.0
"""Cautions about a recipe: truncated rows, little data, long runs, idle devices, uncertain rates."""

from dataclasses import replace
from typing import Any

import pytest
from finetree_api.recommender.v1 import recommendation_pb2
from finetree_api.types.v1 import evidence_pb2
from finetree_recommender.estimator.values import Catalog, Evidence, Model
from finetree_recommender.explain import cautions
from finetree_recommender.method import Method
from finetree_recommender.recommend import conclude
from finetree_recommender.request.inputs import normalize
from finetree_recommender.rule_pack.pack import builtin_packs

GPU24 = {"unknown_accelerator": {"marketed_memory_gb": 24}}
WEEKS = evidence_pb2.Interval(low=6e5, expected=12e5, high=2e6)


def rows(*counts: int, bounds: tuple[int, ...] = ()) -> dict[str, Any]:
    """A profile of so many rows, of at most so many tokens each where that is known."""
    lengths = [{"upper_bound": bound, "count": count} for bound, count in zip(bounds, counts, strict=False)]
    return {"dataset_profile": {"examples": sum(counts), "token_lengths": lengths}}


def rows_of(tokens: int) -> dict[str, Any]:
    """500 rows with so many tokens in all."""
    return {"dataset_profile": {"examples": 500, "total_tokens": tokens}}


def average(tokens: int) -> dict[str, Any]:
    """500 rows of which only the average length is known."""
    return rows_of(500 * tokens)


def sampled(count: int, of: int) -> dict[str, Any]:
    """The lengths of some of the rows."""
    return {"dataset_profile": {"examples": of, "token_lengths": [{"upper_bound": 100, "count": count}]}}


ON_24, FULL, LORA = {"hardware": GPU24}, {"full": "FITS"}, {"lora": "FITS"}
FACTS = {"task_domain": "TASK_DOMAIN_KNOWLEDGE"}
EIGHT = {"hardware": {**GPU24, "count": 8}}
LONG, LONGER = rows(400, 100, bounds=(3000, 8192)), rows(9, bounds=(9000,))
CUT = {"qlora": "DOES_NOT_FIT DOES_NOT_FIT DOES_NOT_FIT DOES_NOT_FIT FITS"}
# Of rows as long as these no more than one is taken at a time anyway.
LONG_CUT = {"qlora": "DOES_NOT_FIT DOES_NOT_FIT DOES_NOT_FIT FITS"}
# One row in two hundred is longer than what keeps 99 of 100 whole, and has nearly all of the tokens.
TAIL = rows(199, 1, bounds=(500, 200_000))
BEST = ON_24 | rows(20_000) | {"quality": "QUALITY_NEED_MAXIMUM"}


@pytest.mark.parametrize(
    ("asked", "code", "facts"),
    [
        # The first cut of rows of up to 8192 tokens is at 4096. What fits is the plain recipe, or an adapted one.
        (
            ("evidence-1", 8e9, ON_24 | LONG, LONG_CUT),
            "ROWS_CUT",
            ("4,096 tokens", "100 of 500", "up to 20 percent of all tokens"),
        ),
        (("evidence-1", 8e9, ON_24 | rows(500), CUT), "ROWS_CUT", ("dataset_profile.token_lengths",)),
        (("playbook-1", 8e9, LONGER, {}), "ROWS_CUT", ("8,192 tokens", "9 of 9", "up to 9 percent of all tokens")),
        (("evidence-1", 8e9, ON_24 | TAIL, LORA), "ROWS_CUT", ("512 tokens", "1 of 200", "up to 67 percent")),
        (("playbook-1", 8e9, ON_24 | LONG, {"lora": "FITS"}), "ROWS_CUT", None),
        (("playbook-1", 8e9, rows(40), {}), "FEW_EXAMPLES", ("40 rows",)),
        (("playbook-1", 8e9, rows(1), {}), "IMPLAUSIBLE_INPUT", ("1 row ", "dataset_profile.examples")),
        (("playbook-1", 8e9, rows(1), {}), "FEW_EXAMPLES", None),
        (("evidence-1", 8e9, rows(100), {}), "FEW_EXAMPLES", None),
        (("evidence-1", 5e8, BEST, FULL), "LEARNING_RATE_UNCERTAIN", ("from 2e-05 to 0.001", "50")),
        (("evidence-1", 8e9, BEST, FULL), "LEARNING_RATE_UNCERTAIN", None),
        (("playbook-1", 8e9, BEST, FULL), "BF16_ROUNDING", ("2e-05",)),
        (("playbook-1", 8e9, BEST | EIGHT, FULL), "BF16_ROUNDING", ("shard",)),
        (("playbook-1", 8e9, BEST, {"lora": "FITS"}), "BF16_ROUNDING", None),
        (("evidence-1", 8e9, ON_24 | average(200), CUT), "ROWS_CUT", ("200", "dataset_profile.token_lengths")),
        (("evidence-1", 8e9, ON_24 | rows(500), LORA), "LENGTHS_UNKNOWN", ("2,048 tokens",)),
        (("evidence-1", 8e9, ON_24 | average(200), LORA), "LENGTHS_UNKNOWN", None),
        (("evidence-1", 8e9, ON_24 | average(3000), LORA), "LENGTHS_UNKNOWN", ("6,016 tokens",)),
        (("evidence-1", 8e9, ON_24 | average(3000), CUT), "LENGTHS_UNKNOWN", None),
        (("evidence-1", 8e9, ON_24 | LONG, LORA), "LENGTHS_UNKNOWN", None),
        (("evidence-1", 8e9, EIGHT | rows(100), LORA), "IDLE_DEVICES", ("2 rows", "8 devices")),
        (("evidence-1", 8e9, EIGHT | rows(5000), LORA), "IDLE_DEVICES", None),
        (("playbook-1", 8e9, ON_24 | FACTS, LORA), "RETRIEVAL_FIRST", ()),
        (("playbook-1", 8e9, ON_24, LORA), "RETRIEVAL_FIRST", None),
        (("evidence-1", 8e9, ON_24 | rows_of(7), LORA), "INPUTS_DISAGREE", ("7 tokens",)),
        (("evidence-1", 8e9, ON_24 | rows_of(5000), LORA), "INPUTS_DISAGREE", None),
        (("evidence-1", 8e9, ON_24 | sampled(30, of=500), LORA), "INPUTS_DISAGREE", ("30", "500")),
    ],
)
def test_what_can_go_wrong_with_a_recipe_is_cautioned_with_its_numbers(read, evidence, asked, code, facts):
    pack_id, parameters, fields, fits = asked
    pack, found = builtin_packs()[pack_id], None
    if "hardware" in fields:
        variants = {method: len(fits.get(method.field, "").split()) or 1 for method in Method}
        found = Evidence(evidence(variants, **fits).rows, evidence_pb2.Revision(), int(parameters))
    inputs = read(parameters=int(parameters), **fields).reread(pack)
    answer = conclude(pack, inputs, found, missing="" if found else cautions.HARDWARE_UNKNOWN)
    messages = [caution.message for caution in answer.cautions if caution.code == code]
    assert len(messages) == (facts is not None)
    assert all(fact in message for message in messages for fact in facts)


@pytest.mark.parametrize(("counted", "remedy"), [(500, "smaller model"), (20_000, "fewer rows")])
def test_a_run_of_weeks_is_cautioned_with_what_would_shorten_it(pack, read, evidence, counted, remedy):
    inputs, found = read(**ON_24, **rows(counted)), evidence(lora="FITS")
    assert not [item for item in conclude(pack, inputs, found).cautions if item.code == "LONG_RUN"]
    slow = {key: replace(row, total_seconds=WEEKS) for key, row in found.rows.items()}
    answer = conclude(pack, inputs, Evidence(slow, found.revision, found.parameters))
    (message,) = (item.message for item in answer.cautions if item.code == "LONG_RUN")
    assert "14 days" in message
    assert remedy in message
    # What a limit of the time says already is not said again.
    for limit in ({"max_duration": "3600s"}, {"time": "TIME_NEED_HOURS"}):
        late = conclude(pack, read(**ON_24, **rows(counted), **limit), Evidence(slow, found.revision, found.parameters))
        codes = {item.code for item in late.cautions}
        assert "LONG_RUN" not in codes
        assert codes & {"OVER_MAX_DURATION", "SLOWER_THAN_ASKED"}


def test_a_long_run_of_rows_of_unknown_length_names_the_length_that_it_assumes(pack, read, evidence):
    found = evidence(lora="FITS")
    slow = {key: replace(row, total_seconds=WEEKS) for key, row in found.rows.items()}
    inputs = read(**ON_24, dataset_profile={"examples": 500})
    answer = conclude(pack, inputs, Evidence(slow, found.revision, found.parameters))
    (message,) = (item.message for item in answer.cautions if item.code == "LONG_RUN")
    assert "14 days if its rows have 2,048 tokens" in message


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (({"time": "TIME_NEED_MINUTES"}, 3600), None),
        (({"time": "TIME_NEED_MINUTES"}, 9000), "2.5 h"),
        (({"time": "TIME_NEED_HOURS"}, 86_400), None),
        (({"time": "TIME_NEED_HOURS"}, 172_800), "2 days"),
        (({"time": "TIME_NEED_DAYS"}, 1e6), None),
        (({}, 1e6), None),
        # A limit of the time is compared with the figures by itself.
        (({"time": "TIME_NEED_MINUTES", "max_duration": "9001s"}, 9000), None),
    ],
)
def test_a_run_slower_than_the_answer_on_time_is_cautioned_with_the_fastest(pack, read, evidence, asked, expected):
    fields, seconds = asked
    found, inputs = evidence(lora="FITS", prefix="FITS"), read(**ON_24, **fields)
    long = evidence_pb2.Interval(low=seconds, expected=seconds, high=seconds)
    rows = {key: replace(row, total_seconds=long) for key, row in found.rows.items() if key[0] is Method.LORA}
    answer = conclude(pack, inputs, Evidence(found.rows | rows, found.revision, found.parameters))
    assert answer.decision.method is Method.LORA
    messages = [item.message for item in answer.cautions if item.code == "SLOWER_THAN_ASKED"]
    assert len(messages) == (expected is not None)
    assert all(expected in message and "prefix tuning" in message for message in messages)


@pytest.mark.parametrize(
    ("fits", "codes"),
    [
        ({"lora": "FITS"}, ["EXPERTS_NOT_ADAPTED"]),
        ({"qlora": "FITS"}, ["EXPERTS_NOT_QUANTIZED", "EXPERTS_NOT_ADAPTED"]),
        ({}, ["EXPERTS_NOT_QUANTIZED"]),
        ({"full": "FITS"}, []),
    ],
)
def test_what_becomes_of_a_models_experts_is_cautioned(pack, evidence, fits, codes):
    request = recommendation_pb2.RecommendRequest(model={"name": "moe"}, hardware=GPU24)
    inputs = normalize(request, pack, Catalog(models={"moe": Model(46_700_000_000, 32768, 8)}))
    answer = conclude(pack, inputs, evidence(**fits))
    assert [caution.code for caution in answer.cautions if caution.code.startswith("EXPERTS_")] == codes
    plain = normalize(request, pack, Catalog(models={"moe": Model(46_700_000_000, 32768)}))
    without = {caution.code for caution in conclude(pack, plain, evidence(**fits)).cautions}
    assert not without & {"EXPERTS_NOT_ADAPTED", "EXPERTS_NOT_QUANTIZED"}


@pytest.mark.parametrize(("parameters", "told"), [(405_000_000_000, "405"), (50_000_000, "0.05"), (8_000_000_000, "")])
def test_a_size_that_the_rules_do_not_cover_is_said(pack, read, parameters, told):
    answer = conclude(
        pack,
        read(parameters=parameters, budget_per_month={"currency_code": "USD", "units": 1}),
        None,
        missing="HARDWARE_UNKNOWN",
    )
    found = [item.message for item in answer.cautions if item.code == "MODEL_OUT_OF_DOMAIN"]
    assert len(found) == bool(told)
    assert all(f"for {told} billion their verdict is a default" in message for message in found)
