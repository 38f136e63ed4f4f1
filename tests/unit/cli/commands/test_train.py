# SPDX-License-Identifier: Apache-2.0
"""`finetree train` refuses options that contradict each other before it calls a service, and names jobs."""

import pytest
from finetree.spec import coerce
from finetree_api.types.v1 import run_spec_pb2
from finetree_cli import __main__ as entry
from finetree_cli.commands.train import default_name

SEVERAL = ("a.yaml", "b.yaml")


@pytest.mark.parametrize(
    ("words", "fact"),
    [
        ((*SEVERAL, "--name", "x"), "--name is for one job file"),
        ((*SEVERAL, "--data", "rows.jsonl"), "--data is for one job file"),
        ((*SEVERAL, "--eval-data", "rows.jsonl"), "--eval-data is for one job file"),
        ((*SEVERAL, "--init-from", "job"), "--init-from is for one job file"),
        ((*SEVERAL, "--devices", "2"), "--devices is for one job file"),
        ((*SEVERAL, "--sharding", "fsdp"), "--sharding is for one job file"),
        ((*SEVERAL, "--request-id", "x"), "--request-id is for one job file"),
        ((*SEVERAL, "--plan", "plan.json"), "--plan is for one job file"),
        ((*SEVERAL, "--max-age", "7d"), "--max-age needs --plan"),
        (("a.yaml", "--plan", "plan.json", "--devices", "2"), "leave --devices and --sharding out"),
        (("a.yaml", "--plan", "plan.json", "--sharding", "fsdp"), "leave --devices and --sharding out"),
        (("a.yaml", "--plan", "plan.json", "--init-from", "job"), "leave --init-from out"),
        (("a.yaml", "--plan", "plan.json", "--data", "rows.jsonl"), "leave --data and --eval-data out"),
        ((), "name a job file"),
        (("a.yaml", "--max-age", "7d"), "--max-age needs --plan"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_options_that_contradict_each_other_are_refused(words, fact, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert entry.run(["train", *words]) == 2
    assert fact in capsys.readouterr().err


@pytest.mark.parametrize(
    ("spec", "data", "expected"),
    [
        ({"model": {"name": "small"}, "lora": {}}, "train.jsonl", "lora of small on train.jsonl"),
        ({"model": {"hub": {"id": "org/small-it"}}, "full": {}}, "a.csv", "full of small-it on a.csv"),
        ({"model": {"path": "folder/mine/"}, "prefix": {}}, "", "prefix of mine"),
        ({"model": {"name": "small"}}, "more.jsonl", "small on more.jsonl"),
        ({"model": {"name": "small"}, "lora": {}}, "x" * 300, f"lora of small on {'x' * 300}"[:256]),
    ],
    ids=["named", "of a hub", "a path", "from weights", "long"],
)
def test_a_job_without_a_name_is_called_by_method_model_and_data(spec, data, expected):
    assert default_name(coerce(run_spec_pb2.RunSpec, spec), data) == expected
