"""What is called certainly valid is valid, and nearly all of what is valid is called so."""

import math
import random
from collections import Counter

import pytest
from finetree_api.estimator.v1 import estimator_pb2
from finetree_api.recommender.v1 import recommender_pb2
from finetree_api.trainer.v1 import trainer_pb2
from finetree_api.types.v1.run_spec_pb2 import RunSpec
from finetree_runtime.server import validation
from finetree_runtime.server.soundness import MOST_KEPT, Soundness
from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor

SHAPE = {"hidden_size": 64, "layers": 2, "intermediate_size": 128, "attention_heads": 4, "vocab_size": 1000}
SPEC = {
    "model": {"shape": SHAPE},
    "qlora": {"lora": {"rank": 8, "alpha": 16, "dropout": 0.1, "target_modules": ["q_proj"]}},
    "training": {"micro_batch_size": 2, "sequence_length": 256, "learning_rate": 1e-4},
    "precision": "PRECISION_BF16",
    "hardware": {"cpu": {"cores": 4, "model_name": "Xeon"}},
    "ownership": {"owned": {"tariff_per_kwh": 0.3, "currency_code": "EUR"}},
    "evaluation": {"split_fraction": 0.1, "metrics": ["METRIC_EXACT_MATCH"]},
}
PROFILE = {"examples": 10, "token_lengths": [{"upper_bound": 64, "count": 10}], "target_fraction": 0.5}
RUN = {"spec": SPEC, "dataset_profile": PROFILE, "runs_per_month": 3, "fallbacks": [{"model": {"name": ""}}]}
VALID = [
    json_format.ParseDict(document, kind())
    for kind, document in (
        (estimator_pb2.EstimateRunRequest, RUN),
        (estimator_pb2.BatchEstimateRunsRequest, {"rows": [{"key": "a", "request": RUN}]}),
        (estimator_pb2.CheckPlanRequest, {"run": RUN, "policy": {"max_seconds": 8}}),
        (
            recommender_pb2.RecommendRequest,
            {name: SPEC[name] for name in ("model", "hardware", "ownership", "evaluation")} | {"budget_usd_month": 5},
        ),
    )
]
NUMBERS = (0, 1, -1, 2, 4096, 4097, 1048576, 1048577, 2**31 - 1, -(2**31))
ODD = {
    FieldDescriptor.CPPTYPE_STRING: ("", "ü" * 64, "ü" * 129, "x" * 128, "x" * 129, "x" * 1025, "USD", "USDX"),
    FieldDescriptor.CPPTYPE_DOUBLE: (0.0, -0.0, 1.0, math.nextafter(1, 2), -1e-300, 1e300, 10.0, math.nan, math.inf),
    FieldDescriptor.CPPTYPE_BOOL: (True, False),
    FieldDescriptor.CPPTYPE_ENUM: (0, 1, 2, 77),
}
"""Values at and beyond the ends of the contract's ranges; NUMBERS for whole ones."""


def change(draw, message):
    """Give a field of a message, or of a message in it, another value, or none."""
    field = draw.choice(message.DESCRIPTOR.fields)
    if field.message_type is None:
        odd = [draw.choice(ODD.get(field.cpp_type, NUMBERS)) for _ in range(draw.choice((1, 2, 40)))]
        if not field.is_repeated:
            setattr(message, field.name, odd[0])
        elif field.cpp_type not in ODD or field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
            getattr(message, field.name).extend(odd)
    elif draw.random() < 0.15:
        message.ClearField(field.name)
    elif field.is_repeated:
        parts = getattr(message, field.name)
        change(draw, parts[0] if parts and draw.random() < 0.8 else parts.add())
    elif message.HasField(field.name) or draw.random() < 0.3:
        getattr(message, field.name).SetInParent()
        change(draw, getattr(message, field.name))


def broken(message):
    """Names of the fields that the validation library finds broken."""
    return validation._violated(message.DESCRIPTOR.full_name, message.SerializeToString())


@pytest.mark.parametrize("valid", VALID, ids=lambda message: message.DESCRIPTOR.name)
def test_what_is_certain_is_valid_and_what_is_valid_is_certain(valid):
    draw = random.Random(valid.DESCRIPTOR.name)
    sound = Soundness(validation._pool(), validation._violated)
    found = Counter()
    for _ in range(200):
        message = type(valid).FromString(valid.SerializeToString())
        for _ in range(draw.choice((1, 1, 2, 3))):
            change(draw, message)
        said = sound.certain(message), not broken(message)
        found[said] += 1
        assert said != (True, False), message

    assert sound.certain(valid)
    assert found[False, False] > 20
    assert found[True, True] > 20
    assert found[False, True] <= found[True, True] / 10


def test_a_part_with_other_rules_is_asked_about_alone_and_once():
    asked = []
    sound = Soundness(
        validation._pool(), lambda name, raw: asked.append((name, raw)) or validation._violated(name, raw)
    )
    labels = {"team": "search"}
    good = trainer_pb2.CreateJobRequest(
        request_id="a", job={"spec": json_format.ParseDict(SPEC, RunSpec()), "labels": labels}
    )
    wrong = trainer_pb2.CreateJobRequest(request_id="a", job={"labels": {"team": "x" * 1000}})

    assert [sound.certain(good) for _ in range(3)] == [True] * 3 == [not broken(good)] * 3
    assert not sound.certain(wrong)
    assert [name for name, raw in asked if raw] == ["finetree_api.trainer.v1.JobRequest"] * 2


def test_what_is_remembered_is_bounded_and_no_answer_depends_on_it():
    sound = Soundness(validation._pool(), validation._violated)
    for number in range(MOST_KEPT + 10):
        assert sound.certain(recommender_pb2.RecommendRequest(model={"name": f"m{number}"}))

    assert max(map(len, sound._kept.values())) == MOST_KEPT
    assert sound.certain(recommender_pb2.RecommendRequest(model={"name": "another"}))
    assert not sound.certain(recommender_pb2.RecommendRequest(model={"name": "x" * 129}))


def test_parts_that_have_to_be_asked_about_are_remembered_however_many_there_were():
    asked = Counter()
    sound = Soundness(
        validation._pool(), lambda name, raw: asked.update([bool(raw)]) or validation._violated(name, raw)
    )
    jobs = [
        trainer_pb2.CreateJobRequest(
            request_id="a", job={"spec": json_format.ParseDict(SPEC, RunSpec()), "labels": {"number": str(number)}}
        )
        for number in range(MOST_KEPT + 1)
    ]
    assert all(map(sound.certain, jobs))
    assert sound.certain(jobs[-1])

    assert asked[True] == len(jobs)
    assert max(map(len, sound._kept.values())) <= MOST_KEPT
