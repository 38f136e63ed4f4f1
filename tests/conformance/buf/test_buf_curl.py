# SPDX-License-Identifier: Apache-2.0
"""The commands of docs/clients/buf-curl.md, run as they stand there against the three services."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs/clients/buf-curl.md").read_text(encoding="utf-8")
USUAL = {"recommender": "127.0.0.1:50051", "estimator": "127.0.0.1:50052", "trainer": "127.0.0.1:50053"}
PLACES = re.compile(r" protos ")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture
def shell(services, tmp_path):
    """`shell(number)`: what one of the page's commands prints, the first block, which the others need, before it."""

    def run(number: int) -> str:
        text = "set -euo pipefail\n" + blocks("sh")[0] + blocks("sh")[number]
        for name, address in USUAL.items():
            text = text.replace(address, getattr(services, name))
        text = PLACES.sub(f" {ROOT / 'protos'} ", text)  # in a folder of the test's own, for the files that it writes
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
        done = subprocess.run(
            ["bash", "-c", text],
            cwd=tmp_path,
            env=os.environ | {"PATH": path},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def objects(text: str) -> list[dict]:
    """JSON objects that follow each other."""
    found, decoder = [], json.JSONDecoder()
    while text := text.strip():
        value, end = decoder.raw_decode(text)
        found.append(value)
        text = text[end:]
    return found


def test_the_page_has_a_call_of_each_kind():
    assert len(blocks("sh")) == 5


def test_calls_without_a_clone(shell):
    answer, _, methods = shell(1).partition("\n}\n")
    assert json.loads(f"{answer}}}")["server"]["service"] == "finetree-recommender"
    assert "finetree_api.trainer.v1.TrainerService/WatchJob" in methods.splitlines()


def test_a_unary_call(shell):
    (answer,) = objects(shell(2))
    fit = answer["estimate"]["fit"]
    assert fit["verdict"] == "FIT_VERDICT_TIGHT"
    assert f'"headroomBytes":\n"{fit["headroomBytes"]}"' in PAGE


def test_a_stream(shell, services, sdk, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "a", "completion": "b"}\n' * 20, encoding="utf-8")
    services.script(steps=5, delay=0.05)
    dataset = {"name": sdk.upload_dataset(rows).name}
    job = sdk.train({"model": {"path": "tiny"}, "lora": {"rank": 8}, "dataset": dataset})
    events = [event for batch in objects(shell(3)) for event in batch.get("events", [])]
    assert [int(event["seq"]) for event in events] == list(range(1, len(events) + 1))
    assert {event["job"] for event in events} == {job.name}
    assert events[-1]["terminal"]["state"] == "JOB_STATE_SUCCEEDED"


def test_an_error_and_its_details(shell):
    status, *details = shell(4).splitlines()
    assert status == "exit status 24"
    assert json.loads("".join(details)) == json.loads(blocks("json")[0])
