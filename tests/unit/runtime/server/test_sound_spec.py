# SPDX-License-Identifier: Apache-2.0
"""A spec that is called sound by its parts is valid, and nearly all that are valid are called so."""

import random
from collections import Counter

import pytest
from finetree_api.estimator.v1 import estimator_pb2
from finetree_api.types.v1 import run_spec_pb2 as rs
from finetree_runtime.runspec.naming import split
from finetree_runtime.server import validation
from finetree_runtime.server.sound_spec import sound
from google.protobuf import json_format

SPECS = (
    {"model": {"name": "a"}, "lora": {"rank": 8}, "hardware": {"accelerator": "h100"}, "precision": "PRECISION_BF16"},
    {
        "model": {"hub": {"id": "a/b"}},
        "dataset": {"profile": {"examples": 3, "token_lengths": [{"upper_bound": 8, "count": 3}]}},
        "qlora": {"lora": {"target_modules": ["q_proj"]}, "quantization": "QUANTIZATION_NF4"},
        "training": {"micro_batch_size": 2, "learning_rate": 1e-4},
        "hardware": {"cpu": {"cores": 4}},
        "evaluation": {"dataset": {"name": "b"}, "metrics": ["METRIC_LOSS"]},
        "ownership": {"owned": {"tariff_per_kwh": 0.3, "currency_code": "EUR"}},
    },
)
LONG = "x" * 600


def broken(spec):
    return bool(validation._violated(spec.DESCRIPTOR.full_name, spec.SerializeToString()))


def change(draw, message):
    """Give a field of a message, or of a message in it, a value that may be out of its range, or none."""
    field = draw.choice(message.DESCRIPTOR.fields)
    if field.is_repeated:
        return
    if field.message_type is not None:
        if draw.random() < 0.2:
            message.ClearField(field.name)
        elif message.HasField(field.name) or draw.random() < 0.3:
            getattr(message, field.name).SetInParent()
            change(draw, getattr(message, field.name))
    elif field.cpp_type == field.CPPTYPE_STRING:
        setattr(message, field.name, draw.choice(("", "a", "x" * 128, "x" * 129, LONG)))
    else:
        setattr(message, field.name, draw.choice((0, 1, 2)))


@pytest.mark.parametrize("document", SPECS, ids=["accelerator", "cpu"])
def test_a_spec_that_is_sound_in_its_parts_is_valid(document):
    draw, found = random.Random(5), Counter()
    for _ in range(300):
        spec = json_format.ParseDict(document, rs.RunSpec())
        for _ in range(draw.choice((1, 2, 3))):
            change(draw, spec)
        said = sound(split(spec)), not broken(spec)
        found[said] += 1
        assert said != (True, False), spec

    assert sound(split(json_format.ParseDict(document, rs.RunSpec())))
    assert found[False, False] > 20
    assert found[False, True] <= found[True, True] / 10


@pytest.mark.parametrize(
    "document",
    [
        {"model": {"path": LONG}},
        {"model": {"name": "a"}, "prefix": {"init_text": LONG}},
        {"model": {"name": "a"}, "dataset": {"path": LONG}},
    ],
)
def test_what_is_long_is_left_to_the_whole_rules(document):
    spec = json_format.ParseDict(document, rs.RunSpec())

    assert not broken(spec)
    assert not sound(split(spec))


def test_a_field_that_is_known_to_be_sound_is_passed_over_and_no_other():
    request = estimator_pb2.EstimateRunRequest(spec=rs.RunSpec(), dataset_profile={"examples": 1})
    number = estimator_pb2.EstimateRunRequest.SPEC_FIELD_NUMBER

    assert not validation.certain(request)
    assert validation.certain(request, number)
    request.dataset_profile.examples = 0
    assert not validation.certain(request, number)
    assert not validation.certain(estimator_pb2.EstimateRunRequest(), number)
