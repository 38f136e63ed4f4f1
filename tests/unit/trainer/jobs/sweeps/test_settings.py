# SPDX-License-Identifier: Apache-2.0
import pytest
from finetree_api.trainer.v1 import job_pb2, sweep_pb2
from finetree_runtime.errors import InvalidArgument
from finetree_trainer.jobs.sweeps import settings
from google.protobuf import json_format


def job_of(spec=None):
    needed = {"model": {"name": "tiny"}, "dataset": {"path": "train.jsonl"}}
    return json_format.ParseDict({"train": {"spec": needed | (spec or {})}}, job_pb2.JobTemplate())


def value(of):
    kind = {bool: "truth", str: "text"}.get(type(of), "number")
    return sweep_pb2.SweepValue(**{kind: of})


def parameter(path):
    return sweep_pb2.SweepParameter(field_path=path)


def test_values_are_set_beside_what_the_job_says():
    job = job_of({"lora": {"rank": 4, "dropout": 0.1}, "training": {"epochs": 2}})
    paths = ["lora.rank", "training.learning_rate", "optimizer", "lora.rank_stabilized"]
    values = (value(16), value(2e-4), value("OPTIMIZER_ADAMW_8BIT"), value(True))
    spec = settings.apply(job, [parameter(path) for path in paths], values).train.spec
    assert (spec.lora.rank, spec.lora.dropout, spec.lora.rank_stabilized) == (16, 0.1, True)
    assert (spec.training.learning_rate, spec.training.epochs) == (2e-4, 2)
    assert spec.optimizer
    assert job.train.spec.lora.rank == 4


@pytest.mark.parametrize(
    "path",
    [
        "rank",
        "lora.rnak",
        "lora.rank.more",
        "training",
        "lora",
        "lora.target_modules",
        "dataset.path",
        "hardware.count",
    ],
)
def test_a_path_that_no_trial_can_differ_in_is_refused_with_what_there_is(path):
    with pytest.raises(InvalidArgument) as refused:
        settings.field_of(path, "sweep.parameters[0].field_path")
    assert refused.value.violations[0].field_path == "sweep.parameters[0].field_path"
    if path == "lora.rnak":
        assert "rank" in refused.value.message


@pytest.mark.parametrize(("path", "wrong"), [("lora.rank", "eight"), ("lora.rank", 8.5), ("optimizer", "SGD")])
def test_a_value_that_a_setting_cannot_have_is_named(path, wrong):
    with pytest.raises(InvalidArgument) as refused:
        settings.apply(job_of(), [parameter(path)], (value(wrong),))
    assert path in refused.value.message
    assert str(wrong) in refused.value.message


@pytest.mark.parametrize(("path", "wrong"), [("lora.rank", 100_000), ("lora.dropout", 1.5), ("training.epochs", -1)])
def test_a_value_that_the_contract_forbids_is_refused_as_in_a_job(path, wrong):
    with pytest.raises(InvalidArgument) as refused:
        settings.apply(job_of(), [parameter(path)], (value(wrong),))
    assert refused.value.reason == "INVALID_REQUEST"
    assert refused.value.violations[0].field_path == f"job.train.spec.{path}"
