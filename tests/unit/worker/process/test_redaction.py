# SPDX-License-Identifier: Apache-2.0
"""What readers of a log must not see is not in it, and the rest stays readable."""

import pytest
from finetree_api.worker.v1 import worker_pb2
from finetree_worker.process.redaction import Redaction


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("unix:/srv/data/run/worker.sock", "unix:worker.sock"),
        ("file:///srv/a/x.json", "x.json"),
        (
            'File "/opt/venv/lib/python3.11/site-packages/torch/nn/module.py", line 3',
            'File "site-packages/torch/nn/module.py", line 3',
        ),
        ('File "/home/me/src/finetree_worker/training/loop.py"', 'File "finetree_worker/training/loop.py"'),
        ("HF_TOKEN=abcdefgh123 is set", "HF_TOKEN=[hidden] is set"),
        ("{'api_key': 'abcdefgh123'}", "{'api_key': '[hidden]'}"),
        ("Authorization: Bearer abcdef.ghi", "Authorization: Bearer [hidden]"),
        ("with hf_abcdefghijklmnopqrstuv", "with [hidden]"),
        ("a token of ours: ft_" + "0aZ" * 16 + "1.", "a token of ours: [hidden]."),
        ("AKIAABCDEFGHIJKLMNOP", "[hidden]"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ4In0.c2ln", "[hidden]"),
        ("https://user:word@host/x", "https://[hidden]@host/x"),
        ("https://s3/x?X-Amz-Signature=0123abcd&y=1", "https://s3/x?X-Amz-Signature=[hidden]&y=1"),
        ("33 tokens: 500, processed_tokens=123456", "33 tokens: 500, processed_tokens=123456"),
        ("eos_token='<|im_end|>'", "eos_token='<|im_end|>'"),
        ("12 it/s, see https://example.org/docs/page", "12 it/s, see https://example.org/docs/page"),
        ("odd \udcff", "odd ?"),
    ],
)
def test_secrets_and_folders_are_removed_by_their_form(said, shown):
    assert Redaction()(said) == shown


def test_a_user_without_a_home_has_a_log_too(monkeypatch):
    def none() -> None:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr("finetree_worker.process.redaction.Path.home", none)
    assert Redaction.of_process({})("/srv/x/y.py") == "y.py"


def test_what_a_task_and_its_environment_name_is_removed_wherever_it_stands():
    task = worker_pb2.Task(token="q8Zt0Attempt", dataset_file="/srv/rows of us/train.jsonl")
    task.folders.work_dir = "/srv/our jobs/1"
    task.hub.proxy = "http://proxy.internal:3128"
    redact = Redaction.of_task(task, {"WANDB_API_KEY": "c0ffee1234", "OMP_NUM_THREADS": "2", "SECRET_SWITCH": "1"})
    said = "q8Zt0Attempt c0ffee1234 via http://proxy.internal:3128: 1 2 /srv/our jobs/1/x /srv/rows of us/train.jsonl"
    assert redact(said) == "[hidden] [hidden] via [hidden]: 1 2 x train.jsonl"
