# SPDX-License-Identifier: Apache-2.0
"""The fake suite refuses what the services' validator refuses, in the same fields, with the same words."""

import math
import random
from typing import Any

import pytest
from finetree.errors import InvalidArgument
from finetree.testing import validation
from finetree_api.estimator.v1 import calibration_pb2, check_plan_pb2, estimate_pb2, estimator_pb2
from finetree_api.recommender.v1 import recommendation_pb2
from finetree_api.trainer.v1 import artifact_pb2, capacity_pb2, dataset_pb2, event_log_pb2, trainer_pb2
from finetree_runtime.errors import InvalidArgument as Refused
from finetree_runtime.server import validation as service
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

REQUESTS = (
    artifact_pb2.DownloadArtifactRequest,
    calibration_pb2.ReportObservationRequest,
    capacity_pb2.GetCapacityRequest,
    check_plan_pb2.CheckPlanRequest,
    dataset_pb2.CreateDatasetRequest,
    dataset_pb2.PreviewDatasetRequest,
    dataset_pb2.WriteDatasetRequest,
    estimate_pb2.EstimateRunRequest,
    estimator_pb2.BatchEstimateRunsRequest,
    event_log_pb2.ListEventsRequest,
    event_log_pb2.WatchJobRequest,
    recommendation_pb2.RecommendRequest,
    trainer_pb2.CreateJobRequest,
    trainer_pb2.ListJobsRequest,
    trainer_pb2.UpdateJobRequest,
)
TEXTS = ["", "a", "-", "A b", "ä", "a\n", "projects/default", "2026-02-30", "2026-02-28", "USD", "x" * 129, "0" * 64]
WHOLE = [0, 1, 2, 3, -1, 8, 64, 2**31 - 1, -(2**31)]
LONG = [*WHOLE, 2**53, 2**63 - 1, 315360000]
REAL = [0.0, 0.5, 1.0, -1.0, 1e9, 1e308, math.nan, math.inf, -math.inf]


def values(field: FieldDescriptor) -> list[Any]:
    kinds = FieldDescriptor
    if field.cpp_type == kinds.CPPTYPE_STRING:
        return [text.encode() for text in TEXTS] if field.type == kinds.TYPE_BYTES else TEXTS
    if field.cpp_type == kinds.CPPTYPE_BOOL:
        return [True, False]
    if field.cpp_type in (kinds.CPPTYPE_DOUBLE, kinds.CPPTYPE_FLOAT):
        return REAL
    return LONG if field.cpp_type == kinds.CPPTYPE_INT64 else [*range(10), *WHOLE]


def fill(message: Message, chance: random.Random, depth: int = 0) -> None:
    """Set fields at random, many of them to what breaks a rule."""
    for field in message.DESCRIPTOR.fields:
        if chance.random() < 0.6 or depth > 5:
            continue
        kind = field.message_type
        if kind is not None and kind.GetOptions().map_entry:
            for key in chance.sample(TEXTS, 2):
                getattr(message, field.name)[key] = chance.choice(TEXTS)
        elif kind is not None and kind.full_name != "google.protobuf.Value":
            fill_messages(message, field, chance, depth)
        elif field.is_repeated:
            getattr(message, field.name).extend(chance.choices(values(field), k=chance.choice([1, 2, 34])))
        elif kind is None:
            setattr(message, field.name, chance.choice(values(field)))


def fill_messages(message: Message, field: FieldDescriptor, chance: random.Random, depth: int) -> None:
    value = getattr(message, field.name)
    if field.is_repeated:
        for _ in range(chance.choice([1, 2, 3])):
            fill(value.add(), chance, depth + 1)
    else:
        value.SetInParent()
        fill(value, chance, depth + 1)


def refused(message: Message) -> list[tuple[str, str]]:
    """Fields of the service's refusal, with what it says of each."""
    try:
        service.validate(message)
    except Refused as error:
        return sorted((each.field_path, each.description) for each in error.violations)
    return []


@pytest.mark.parametrize("kind", REQUESTS, ids=lambda kind: kind.DESCRIPTOR.name)
def test_the_same_fields_are_refused_as_by_the_service(kind):
    chance = random.Random(kind.DESCRIPTOR.full_name)
    broken = 0
    for _ in range(25):
        request = kind()
        fill(request, chance)
        found = sorted((each.field, each.description) for each in validation.violations_of(request))
        theirs = refused(request)
        broken += bool(theirs)
        assert {field for field, _ in found} == {field for field, _ in theirs}, request
    assert broken > 2


def test_every_rule_of_the_contract_is_one_that_is_known():
    ids = set()
    for kind in REQUESTS:
        pending, seen = [kind.DESCRIPTOR.full_name], set()
        while pending:
            name = pending.pop()
            if name in seen or not name.startswith(validation.PACKAGE):
                continue
            seen.add(name)
            rules = validation._rules(name)
            ids |= {rule.id for rule in rules.message}
            ids |= {rule.id for field in rules.fields.values() for rule in field.cel}
            pending += [
                field.message_type.full_name
                for field in validation._class(name).DESCRIPTOR.fields
                if field.message_type is not None
            ]
    assert ids == set(validation.EXPRESSIONS)


def test_a_refusal_names_every_field():
    request = estimate_pb2.EstimateRunRequest()
    request.spec.lora.rank = -1
    request.spec.model.SetInParent()
    with pytest.raises(InvalidArgument) as caught:
        validation.require_valid(request)
    assert caught.value.reason == "INVALID_REQUEST"
    assert [each.field for each in caught.value.violations] == ["spec.model.source", "spec.lora.rank"]
    assert str(caught.value).startswith("spec.model.source: exactly one field is required in oneof (and 1 more)")
