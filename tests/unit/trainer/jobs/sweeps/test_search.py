# SPDX-License-Identifier: Apache-2.0
from typing import Any

import pytest
from finetree_api.trainer.v1 import sweep_pb2
from finetree_runtime.errors import InvalidArgument
from finetree_trainer.jobs.sweeps import search
from google.protobuf import json_format


def sweep_of(**fields: Any) -> sweep_pb2.SweepTemplate:
    return json_format.ParseDict({"job": {"train": {"spec": {"lora": {}}}}, **fields}, sweep_pb2.SweepTemplate())


RANKS = {"field_path": "lora.rank", "values": {"values": [{"number": 4}, {"number": 8}, {"number": 16}]}}
DROPOUTS = {"field_path": "lora.dropout", "values": {"values": [{"number": 0.0}, {"number": 0.1}]}}
RATES = {"field_path": "training.learning_rate", "range": {"low": 1e-4, "high": 5e-4}}


def numbers(found):
    return [tuple(value.number for value in values) for values in found]


def test_lists_that_fit_are_a_grid_whose_last_parameter_changes_fastest():
    found = search.choose(sweep_of(parameters=[RANKS, DROPOUTS]))
    assert numbers(found) == [(4, 0.0), (4, 0.1), (8, 0.0), (8, 0.1), (16, 0.0), (16, 0.1)]


def test_more_combinations_than_trials_are_drawn_and_none_twice():
    asked = sweep_of(parameters=[RANKS, DROPOUTS], trials=5, seed=3)
    assert search.search_of(asked) == sweep_pb2.SWEEP_SEARCH_RANDOM
    found = numbers(search.choose(asked))
    assert len(set(found)) == len(found) == 5
    everything = sweep_of(parameters=[RANKS, DROPOUTS], trials=50, search="SWEEP_SEARCH_RANDOM")
    assert len(set(numbers(search.choose(everything)))) == 6


def test_a_range_is_drawn_by_the_seed_on_a_logarithmic_scale():
    asked = sweep_of(parameters=[{**RATES, "range": {"low": 1e-6, "high": 1e-2}}], trials=200, seed=1)
    found = [rate for (rate,) in numbers(search.choose(asked))]
    assert found == [rate for (rate,) in numbers(search.choose(asked))]
    assert all(1e-6 <= rate <= 1e-2 for rate in found)
    # Four orders of magnitude, each as probable: a linear draw would put 99 % into the last two.
    below = sum(rate < 1e-4 for rate in found)
    assert 70 <= below <= 130
    linear = sweep_of(parameters=[{**RATES, "range": {"low": 1e-6, "high": 1e-2, "scale": 1}}], trials=200)
    assert sum(rate < 1e-4 for (rate,) in numbers(search.choose(linear))) < 10


def test_whole_numbers_stay_whole_and_another_parameter_changes_no_draw():
    ranks = {"field_path": "lora.rank", "range": {"low": 4, "high": 64}}
    alone = numbers(search.choose(sweep_of(parameters=[ranks], trials=20)))
    both = numbers(search.choose(sweep_of(parameters=[ranks, RATES], trials=30)))
    assert all(rank.is_integer() and 4 <= rank <= 64 for (rank,) in alone)
    assert [rank for rank, _ in both[:20]] == [rank for (rank,) in alone]


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"parameters": [RATES], "search": "SWEEP_SEARCH_GRID"}, "sweep.parameters[0].range"),
        ({"parameters": [RANKS, DROPOUTS], "search": "SWEEP_SEARCH_GRID", "trials": 5}, "sweep.parameters"),
        (
            {"parameters": [{"field_path": "training.learning_rate", "range": {"low": 0, "high": 1, "scale": 2}}]},
            "sweep.parameters[0].range.low",
        ),
        ({"parameters": [{"field_path": "lora.rank", "range": {"low": 1.5, "high": 4}}]}, "sweep.parameters[0].range"),
        (
            {"parameters": [{"field_path": "optimizer", "range": {"low": 1, "high": 4}}]},
            "sweep.parameters[0].field_path",
        ),
    ],
)
def test_what_cannot_be_drawn_is_refused_where_it_stands(fields, place):
    with pytest.raises(InvalidArgument) as refused:
        search.choose(sweep_of(**fields))
    assert refused.value.violations[0].field_path == place
