# SPDX-License-Identifier: Apache-2.0
"""What an answer has for each metric, and what is missing where it has nothing."""

import pytest
from finetree_api.estimator.v1 import estimate_pb2
from finetree_estimator.catalog import price_book
from finetree_estimator.intervals import Interval
from finetree_estimator.spec.resolve import Knowledge
from finetree_estimator.whatif import measured
from finetree_estimator.whatif.fallbacks import Answer, answer_request
from finetree_estimator.whatif.policy import NAMED, NUMBERS, Metric
from google.protobuf import json_format

KNOWLEDGE = Knowledge(price_book.packaged())
SPEC = {"model": {"name": "llama-3.2-3b"}, "lora": {}, "hardware": {"accelerator": "rtx-4090"}}


def answer(profile: dict[str, object] | None = None, **parts: object) -> Answer:
    document: dict[str, object] = {"spec": SPEC | parts}
    if profile is not None:
        document["dataset_profile"] = profile
    return answer_request(json_format.ParseDict(document, estimate_pb2.EstimateRunRequest()), KNOWLEDGE)


def ends(found: Interval | None) -> tuple[float, float, float] | None:
    return (found.low, found.expected, found.high) if found is not None else None


LENGTHS = [{"upper_bound": 100, "count": 3}, {"upper_bound": 1000, "count": 1}]


@pytest.mark.parametrize(
    ("profile", "tokens"),
    [
        (None, None),
        ({"examples": 4}, None),
        ({"examples": 4, "total_tokens": 900}, (900, 900, 900)),
        ({"examples": 4, "total_tokens": 900, "total_tokens_range": {"low": 500, "high": 990}}, (500, 900, 990)),
        ({"examples": 4, "token_lengths": LENGTHS}, (3 * 1 + 101, (104 + 1300) / 2, 3 * 100 + 1000)),
        # Counts that do not add up to the examples are shares.
        ({"examples": 40, "token_lengths": LENGTHS}, (1040, 7020, 13000)),
        ({"examples": 4, "total_tokens": 900, "token_lengths": LENGTHS}, (900, 900, 900)),
        ({"examples": 4, "token_lengths": [{"upper_bound": 100, "count": 0}]}, None),
    ],
)
def test_tokens_are_counted_or_bounded_by_the_lengths(profile, tokens):
    found = answer(profile)
    assert ends(measured.predicted(Metric.TOKENS, found)) == tokens
    rows = profile["examples"] if profile is not None else None
    assert ends(measured.predicted(Metric.EXAMPLES, found)) == ((rows, rows, rows) if rows else None)


def test_every_number_is_known_of_a_run_that_says_everything():
    found = answer({"examples": 100, "total_tokens": 20_000})
    assert [metric for metric in NUMBERS if measured.predicted(metric, found) is None] == []
    assert [metric for metric in NAMED if not measured.names(metric, found)] == []


@pytest.mark.parametrize(
    ("model", "names"),
    [
        ({"name": "LLAMA-3.2-3B"}, ("LLAMA-3.2-3B", "llama-3.2-3b", "meta-llama/Llama-3.2-3B")),
        ({"hub": {"id": "meta-llama/Llama-3.2-3B"}}, ("meta-llama/Llama-3.2-3B", "llama-3.2-3b")),
        (
            {"hub": {"id": "meta-llama/Llama-3.2-3B-Instruct"}},
            ("meta-llama/Llama-3.2-3B-Instruct", "llama-3.2-3b", "meta-llama/Llama-3.2-3B"),
        ),
    ],
)
def test_a_model_is_judged_by_each_of_its_names(model, names):
    found = answer(model=model)
    assert measured.names(Metric.MODEL, found) == names
    assert measured.names(Metric.MODEL_LICENSE, found) == ("llama3.2",)


@pytest.mark.parametrize(
    ("metric", "parts", "path", "text"),
    [
        (Metric.TOKENS, {}, "dataset.profile.total_tokens", "give dataset.profile.total_tokens"),
        (Metric.TOKENS, {"dataset": {"name": "mine"}}, "dataset.profile.total_tokens", "rows of dataset.name"),
        (Metric.CARBON_KG, {}, "dataset.profile.examples", "give dataset.profile.examples"),
        (Metric.PROVIDER, {"hardware": {"cpu": {"cores": 4}}}, "ownership", "without a price"),
    ],
)
def test_what_is_missing_is_named(metric, parts, path, text):
    found, said = measured.missing(metric, answer(**parts))
    assert found == path
    assert text in said
