# SPDX-License-Identifier: Apache-2.0
"""Sinks into real trackers: a server of MLflow, and the library of W&B."""

import json
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from finetree.testing import Script, Suite
from finetree_cli import __main__ as entry
from finetree_cli.sinks.mlflow import values_of

PYTHON = Path(__file__).resolve().parents[3] / ".trackers" / "bin" / "python"
"""Interpreter that has the trackers: `make .trackers/.ready`."""
STEPS = 40
READER = """
import json, struct, sys
from wandb.proto import wandb_internal_pb2 as pb
content, place, whole, rows = open(sys.argv[1], "rb").read(), 7, b"", []
while place < len(content):
    if 32768 - place % 32768 < 7:
        place += 32768 - place % 32768
        continue
    _, length, kind = struct.unpack_from("<IHB", content, place)
    whole, place = whole + content[place + 7 : place + 7 + length], place + 7 + length
    if kind in (1, 4):
        record, whole = pb.Record.FromString(whole), b""
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            rows.append({item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items})
print(json.dumps(rows))
"""
"""Reads the history of a run's file: records in blocks of 32 KiB, as LevelDB's log has them, behind a header of 7
bytes."""


@pytest.fixture(scope="module")
def mlflow(tmp_path_factory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("mlflow")
    program = Path(__file__).with_name("mlflow_server.py")
    words = [str(PYTHON), str(program), f"sqlite:///{folder}/store.db", str(folder / "artifacts")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.kill()


@pytest.fixture
def suite(monkeypatch) -> Iterator[Suite]:
    with Suite() as made:
        made.base_models.add("acme/small")
        monkeypatch.setenv("FINETREE_ADDRESS", made.address)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield made


def train(suite: Suite) -> str:
    rows = suite.datasets.add([{"prompt": "a", "completion": "b"}])
    spec = {"model": {"name": "small"}, "lora": {"rank": 8}, "dataset": {"name": rows.name}}
    with suite.client() as client:
        return client.train(spec).uid


def call(url: str, rpc: str, document: dict[str, Any]) -> Any:
    request = urllib.request.Request(
        f"{url}/api/2.0/mlflow/{rpc}", json.dumps(document).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def test_mlflow_holds_what_the_log_says(suite, mlflow, tmp_path, capsys):
    suite.trainer.script = Script(steps=STEPS, step_seconds=60)
    job = train(suite)
    file, state = tmp_path / "sinks.yaml", ["--state-dir", str(tmp_path / "state")]
    file.write_text(f"sinks:\n- {{name: tracker, mlflow: {{url: '{mlflow}'}}}}\n", encoding="utf-8")
    run = ["sinks", "run", str(file), "--once", *state]
    # While it runs, and again after its end.
    suite.clock.advance(f"{STEPS // 2}m")
    assert entry.run(run) == 0
    [experiment] = [
        e for e in call(mlflow, "experiments/search", {"max_results": 9})["experiments"] if "/" in e["name"]
    ]
    assert experiment["name"] == "finetree/default"
    search = {"experiment_ids": [experiment["experiment_id"]], "max_results": 9}
    [found] = call(mlflow, "runs/search", search)["runs"]
    assert found["info"]["status"] == "RUNNING"
    suite.clock.advance("1d")
    assert entry.run(run) == 0
    [found] = call(mlflow, "runs/search", search)["runs"]
    params = {param["key"]: param["value"] for param in found["data"]["params"]}
    tags = {tag["key"]: tag["value"] for tag in found["data"]["tags"]}
    assert found["info"]["status"] == "FINISHED"
    assert params["lora.rank"] == "8"
    assert (tags["finetree.job_uid"], tags["finetree.state"]) == (job, "succeeded")
    assert entry.run(["sinks", "verify", str(file), "tracker", job, *state]) == 0
    # A sink that has lost its cursors sends all of it again, and nothing is there twice.
    again = ["--state-dir", str(tmp_path / "lost")]
    assert entry.run(["sinks", "run", str(file), "--once", *again]) == 0
    assert len(call(mlflow, "runs/search", search)["runs"]) == 1
    capsys.readouterr()
    assert entry.run(["sinks", "verify", str(file), "tracker", job, *again, "--json"]) == 0
    with suite.client() as client:
        expected = sum(len(values_of(event)) for event in client.job(job).list_events(last=1000))
    assert json.loads(capsys.readouterr().out) == {"expected": expected, "missing": 0, "surplus": 0}
    # Whoever changes a curve is found out.
    one = {"key": "train/loss", "value": 99.0, "timestamp": 1, "step": 1}
    call(mlflow, "runs/log-metric", {"run_id": found["info"]["run_id"], **one})
    assert entry.run(["sinks", "verify", str(file), "tracker", job, *again]) == 3


def test_wandb_gets_a_run_that_its_library_reads(suite, tmp_path):
    suite.trainer.script = Script(steps=6)
    job = train(suite)
    file, state = tmp_path / "sinks.yaml", ["--state-dir", str(tmp_path / "state")]
    target = f"{{folder: runs, project: tuning, python: {PYTHON}}}"
    file.write_text(f"sinks:\n- {{name: wb, wandb: {target}}}\n", encoding="utf-8")
    run = ["sinks", "run", str(file), "--once", *state]
    assert entry.run(run) == 0
    assert entry.run(["sinks", "run", str(file), "--once", "--state-dir", str(tmp_path / "lost")]) == 0
    [written] = (tmp_path / "runs" / "wandb").iterdir()  # written twice, there once
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["wandb"]
    assert written.name.endswith(job)
    [record] = written.glob("*.wandb")
    read = subprocess.run([str(PYTHON), "-c", READER, str(record)], capture_output=True, check=True, text=True)
    rows = {row["_step"]: row for row in json.loads(read.stdout)}
    with suite.client() as client:
        events = client.job(job).list_events(last=1000)
    for event in events:
        for value in values_of(event):
            assert rows[value.step][value.key] == pytest.approx(value.value, rel=1e-12)


def test_a_library_that_is_missing_is_named(suite, tmp_path, capsys):
    suite.trainer.script = Script(steps=2)
    train(suite)
    file = tmp_path / "sinks.yaml"
    file.write_text("sinks:\n- {name: wb, wandb: {folder: runs}}\n", encoding="utf-8")
    state = ["--state-dir", str(tmp_path / "state")]
    assert entry.run(["sinks", "run", str(file), "--once", *state]) == 3
    assert entry.run(["sinks", "status", str(file), *state]) == 0
    assert "wandb is not installed; pip install wandb" in capsys.readouterr().out
