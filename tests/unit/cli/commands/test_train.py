# SPDX-License-Identifier: Apache-2.0
"""`finetree train` refuses options that contradict each other before it reads a file or calls a service."""

import pytest
from finetree_cli import __main__ as entry

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
