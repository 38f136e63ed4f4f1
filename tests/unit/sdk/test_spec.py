# SPDX-License-Identifier: Apache-2.0
"""A dict becomes a RunSpec, or an error that names the place."""

import finetree
import pytest
from finetree import InvalidSpec, spec_from_dict
from finetree.spec import coerce, message_from_dict, model_of
from finetree_api.recommender.v1 import recommendation_pb2
from finetree_api.trainer.v1 import artifact_pb2, job_pb2
from finetree_api.types.v1 import run_spec_pb2, training_pb2

GOOD = {
    "model": {"hub": {"id": "org/name", "revision": None}},
    "dataset": {"profile": {"examples": 10, "token_lengths": [{"upper_bound": 8, "count": 4}, {"upper_bound": 64}]}},
    "lora": {"rank": 8, "alpha": 16, "dropout": 0, "target_modules": ["q_proj", "v_proj"]},
    "training": {"epochs": 2, "learning_rate": "5e-4", "seed": 0},
    "evaluation": {"metrics": ["METRIC_LOSS", "METRIC_EXACT_MATCH"]},
    "precision": "PRECISION_BF16",
}
WRONG = [
    ({"modle": {}}, "modle", "did you mean model?"),
    ({"training": {"epoch": 1}}, "training.epoch", "did you mean epochs?"),
    ({"training": {"zzz": 1}}, "training.zzz", "known are epochs"),
    ({"training": {"max_steps": 1.5}}, "training.max_steps", "expected a whole number, got 1.5"),
    ({"training": {"max_steps": True}}, "training.max_steps", "expected a whole number"),
    ({"training": {"epochs": "many"}}, "training.epochs", "expected a number, got 'many'"),
    ({"training": {"epochs": float("nan")}}, "training.epochs", "number"),
    ({"training": {"epochs": float("inf")}}, "training.epochs", "number"),
    ({"training": {"epochs": "Infinity"}}, "training.epochs", "expected a finite number"),
    ({"training": {"epochs": 1, "max_steps": 3}}, "training.max_steps", "only one of epochs and max_steps"),
    ({"lora": {}, "full": {}}, "full", "only one of lora and full"),
    ({"training": 3}, "training", "expected a mapping with the fields of Training, got a number"),
    ({"training": [1]}, "training", "got a list"),
    ({"model": {"name": 7}}, "model.name", "expected text, got 7"),
    ({"lora": {"target_modules": "q_proj"}}, "lora.target_modules", "expected a list, got text"),
    ({"lora": {"target_modules": ["q_proj", 3]}}, "lora.target_modules[1]", "expected text"),
    (
        {"evaluation": {"metrics": ["METRIC_LOSS", "LOSS"]}},
        "evaluation.metrics[1]",
        "METRIC_TOKEN_ACCURACY, got 'LOSS'",
    ),
    ({"evaluation": {"before_training": "yes"}}, "evaluation.before_training", "expected true or false"),
    (
        {"dataset": {"profile": {"token_lengths": [{"count": 1}, {"cuont": 1}]}}},
        "dataset.profile.token_lengths[1].cuont",
        "count",
    ),
    ({"precision": "bf16"}, "precision", "expected one of PRECISION_BF16"),
    ({"ownership": {"owned": {"price_per_kwh": 0.3}}}, "ownership.owned.price_per_kwh", "such as '50 USD', got 0.3"),
    ({"ownership": {"owned": {"price_per_kwh": "0.3"}}}, "ownership.owned.price_per_kwh", "such as '50 USD'"),
    ({"ownership": {"owned": {"price_per_kwh": "0.3 eur"}}}, "ownership.owned.price_per_kwh", "such as '50 USD'"),
    ("model: x", "", "expected a mapping with the fields of RunSpec, got text"),
    (None, "", "got nothing"),
    ({3: 1}, "3", "unknown key"),
]


def test_a_whole_spec():
    spec = spec_from_dict(GOOD)
    assert spec.model.hub.id == "org/name"
    assert [bucket.upper_bound for bucket in spec.dataset.profile.token_lengths] == [8, 64]
    assert (spec.lora.rank, spec.lora.HasField("dropout"), spec.lora.dropout) == (8, True, 0.0)
    assert list(spec.lora.target_modules) == ["q_proj", "v_proj"]
    assert (spec.training.learning_rate, spec.training.HasField("seed")) == (5e-4, True)
    assert list(spec.evaluation.metrics) == [training_pb2.METRIC_LOSS, training_pb2.METRIC_EXACT_MATCH]


def test_an_empty_mapping_chooses_its_oneof():
    assert spec_from_dict({"model": {"name": "x"}, "full": {}}).WhichOneof("method") == "full"


def test_lower_camel_case_is_proto_json_too():
    assert spec_from_dict({"training": {"learningRate": 0.1}}).training.learning_rate == 0.1


@pytest.mark.parametrize(("data", "path", "text"), WRONG, ids=lambda value: str(value)[:80])
def test_what_is_wrong_is_named(data, path, text):
    with pytest.raises(InvalidSpec) as caught:
        spec_from_dict(data)
    assert caught.value.path == path
    assert text in str(caught.value)
    assert caught.value.violations[0].field == path


def test_other_messages_and_prefixes():
    request = message_from_dict(recommendation_pb2.RecommendRequest, {"model": {"name": "x"}, "can_rent": False})
    assert request.HasField("can_rent")
    with pytest.raises(InvalidSpec, match=r"^pinned\.engine\.idd"):
        message_from_dict(finetree_revision(), {"engine": {"idd": "x"}}, prefix="pinned")


@pytest.mark.parametrize("price", ["0.30 EUR", {"currency_code": "EUR", "nanos": 300_000_000}])
def test_money_is_a_text_or_proto_json(price):
    found = spec_from_dict({"ownership": {"owned": {"price_per_kwh": price}}}).ownership.owned.price_per_kwh
    assert (found.currency_code, found.units, found.nanos) == ("EUR", 0, 300_000_000)


def test_a_message_passes_as_it_is():
    spec = run_spec_pb2.RunSpec()
    assert coerce(run_spec_pb2.RunSpec, spec) is spec


@pytest.mark.parametrize(
    ("source", "revision", "expected"),
    [
        ({"hub": {"id": "org/m", "revision": "main"}}, "c" * 40, {"hub": {"id": "org/m", "revision": "c" * 40}}),
        ({"name": "m"}, "c" * 40, {"hub": {"id": "org/m", "revision": "c" * 40}}),
        ({"name": "m"}, "", {"name": "m"}),
        ({"path": "m"}, "", {"path": "m"}),
    ],
)
def test_the_model_of_a_job_is_at_the_commit_that_it_used(source, revision, expected):
    job = job_pb2.Job(base=artifact_pb2.ArtifactBase(hub_id="org/m", revision=revision))
    job.train.spec.CopyFrom(spec_from_dict({"model": source}))
    assert model_of(job) == spec_from_dict({"model": expected}).model


def test_it_is_an_invalid_argument():
    assert issubclass(InvalidSpec, finetree.InvalidArgument)


def finetree_revision():
    from finetree_api.types.v1 import evidence_pb2

    return evidence_pb2.Revision
