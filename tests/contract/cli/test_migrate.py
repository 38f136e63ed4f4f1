# SPDX-License-Identifier: Apache-2.0
"""`finetree migrate openai`: from what OpenAI gives out to job files, trained jobs, and old answers beside new ones."""

import dataclasses
import http.server
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from finetree.testing import Script, Suite
from finetree.testing.trainer.script import Paced
from finetree_api.trainer.v1 import artifact_pb2, event_pb2, job_pb2
from finetree_cli import __main__ as entry
from finetree_cli.jobfile.job import read_job

PAGE = Path(__file__).resolve().parents[3] / "docs" / "openai.md"
TUNED = "ft:gpt-4o-mini-2024-07-18:acme:codes:9x"
HYPERPARAMETERS = {"n_epochs": 3, "batch_size": 2, "learning_rate_multiplier": 1.8}
JOBS = [
    {
        "id": "ftjob-good",
        "created_at": 10,
        "model": "gpt-4o-mini-2024-07-18",
        "training_file": "file-train",
        "validation_file": "file-valid",
        "status": "succeeded",
        "fine_tuned_model": TUNED,
        "hyperparameters": HYPERPARAMETERS,
        "seed": 42,
        "suffix": "codes",
        "metadata": {"team": "search"},
        "method": {"type": "supervised", "supervised": {"hyperparameters": HYPERPARAMETERS}},
    },
    {"id": "ftjob-dpo", "created_at": 11, "model": "gpt-4o", "training_file": "file-train", "method": {"type": "dpo"}},
    {"id": "ftjob-image", "created_at": 12, "model": "gpt-4o", "training_file": "file-image"},
]


def asked(number: int) -> list[dict[str, Any]]:
    return [{"role": "user", "content": f"What follows {number}?"}]


def answered(number: int, text: str = "") -> dict[str, Any]:
    return {"messages": [*asked(number), {"role": "assistant", "content": text or str(number + 1)}]}


IMAGE = {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}
FILES = {
    "file-train": [{**answered(number), "parallel_tool_calls": False} for number in range(12)],
    "file-valid": [answered(number) for number in range(20, 23)],
    "file-image": [IMAGE],
}
ANSWERS = {20: "21", 21: "twenty-two", 30: "31"}


class OpenAIStub(http.server.BaseHTTPRequestHandler):
    """The calls of OpenAI's interface that an export needs, with its shapes."""

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        found = self.answer(path.removeprefix("/v1"))
        content = found if isinstance(found, bytes) else json.dumps(found).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def answer(self, path: str) -> Any:
        if path == "/fine_tuning/jobs":
            data = [{"object": "fine_tuning.job", "result_files": [], **job} for job in reversed(JOBS)]
            return {"object": "list", "data": data, "has_more": False}
        if path == "/chat/completions":
            choice = {"index": 0, "finish_reason": "stop"}
            data = [
                {
                    "id": f"chatcmpl-{number}",
                    "object": "chat.completion",
                    "created": number,
                    "model": TUNED,
                    "choices": [{**choice, "message": {"role": "assistant", "content": text}}],
                }
                for number, text in ANSWERS.items()
            ]
            return {"object": "list", "data": data, "has_more": False}
        if found := re.fullmatch(r"/chat/completions/chatcmpl-(\d+)/messages", path):
            data = [{"id": "m", **message} for message in asked(int(found[1]))]
            return {"object": "list", "data": data, "has_more": False}
        found = re.fullmatch(r"/files/(.*)/content", path)
        assert found, path
        return "".join(json.dumps(row) + "\n" for row in FILES[found[1]]).encode()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def export(tmp_path_factory) -> Path:
    """What the program of the page writes, against OpenAI's interface."""
    (program,) = re.findall(r"```python export\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    folder = tmp_path_factory.mktemp("openai")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), OpenAIStub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        environment = {"OPENAI_BASE_URL": f"http://127.0.0.1:{server.server_port}/v1", "OPENAI_API_KEY": "k"}
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=folder,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert done.returncode == 0, done.stderr
    return folder / "export"


@pytest.fixture(scope="module")
def server() -> Iterator[Suite]:
    with Suite() as suite:
        yield suite


@pytest.fixture
def migrate(server, tmp_path, monkeypatch, capsys):
    """`migrate(export, *words)` runs the command against the fake suite, and gives code, document and stderr."""
    monkeypatch.setenv("FINETREE_ADDRESS", server.address)
    server.trainer.script = Script(steps=3)

    def run(export: Path, *words: str) -> tuple[int, Any, str]:
        words = ("--output", str(tmp_path / "out"), "--model", "smollm2-135m-instruct", "--json", *words)
        code = entry.run(["migrate", "openai", str(export), *words])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, json.loads(out.partition('\n{"error"')[0]) if out.startswith("{") else None, err

    return run


@dataclasses.dataclass(frozen=True, slots=True)
class Answering(Script):
    """A script whose job answers the held-out questions: before training all wrong, afterwards with the next number."""

    def events(self, job: job_pb2.Job, artifacts: list[artifact_pb2.Artifact]) -> Iterator[Paced]:
        *coming, end = Script.events(self, job, artifacts)
        yield from coming
        for number, expected in ((20, "21"), (21, "22"), (30, "31")):
            sample = event_pb2.Sample(
                prompt=f"What follows {number}?", expected=expected, before="?", after=str(number + 1)
            )
            kind, level = event_pb2.EVENT_KIND_SAMPLE, event_pb2.EVENT_LEVEL_INFO
            event = event_pb2.JobEvent(kind=kind, level=level, message="sample", sample=sample)
            yield Paced(0, event)
        yield end


def test_each_job_becomes_a_job_file_or_says_why_not(migrate, export, tmp_path):
    code, document, _ = migrate(export, "--cpu", "--memory-gb", "16")
    assert code == 2, "two of the three jobs are refused"
    good, dpo, image = document["jobs"]
    assert (good["refusal"], good["method"], good["recorded_answers"]) == (None, "lora", 3)
    assert [each["refusal"]["reason"] for each in (dpo, image)] == ["METHOD_UNSUPPORTED", "ROWS_UNSUPPORTED"]
    assert "line 1: messages[0].content[0] is an image" in image["refusal"]["message"]
    assert any("parallel_tool_calls" in note for note in good["notes"])
    assert any("learning_rate_multiplier" in note for note in good["notes"])

    job = read_job(good["file"])
    training = job.spec.training
    assert (training.epochs, training.effective_batch_size, training.seed) == (3, 2, 42)
    assert (job.template.display_name, dict(job.template.labels)) == ("codes", {"team": "search"})
    assert [data.path.name for data in job.local_data()] == ["file-train.jsonl", "ftjob-good-recorded.jsonl"]
    rows = (tmp_path / "out" / "data" / "file-train.jsonl").read_text(encoding="utf-8")
    assert [json.loads(line) for line in rows.splitlines()] == [answered(number) for number in range(12)]
    report = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert report == document
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["data", "ftjob-good.yaml", "report.json"]


def test_training_shows_old_answers_beside_new_ones(migrate, export, server):
    server.trainer.script = Answering(steps=3)
    code, document, err = migrate(export, "--train")
    assert code == 2
    good = document["jobs"][0]
    assert good["job"].startswith("projects/default/jobs/"), err
    with server.client() as client:
        made = client.get_job(good["job"])
    assert (made.labels["team"], made.train.spec.evaluation.samples) == ("search", 3)
    comparison = good["comparison"]
    assert [(each["openai"], each["after"], each["reference"]) for each in comparison["answers"]] == [
        ("21", "21", "21"),
        ("twenty-two", "22", "22"),
        ("31", "31", ""),
    ]
    assert (comparison["recorded"], comparison["same_as_openai"]) == (3, 2)
    assert comparison["right"] == {"questions": 2, "openai": 1, "before": 0, "after": 2}


def test_a_training_that_fails_is_told_of(migrate, export, server):
    server.trainer.script = Script(steps=3, outcome="FAILED")
    code, document, _ = migrate(export, "--train")
    assert code == 4
    assert document["jobs"][0]["refusal"]["reason"] == "OUT_OF_MEMORY"


def test_a_file_that_is_missing_is_named(migrate, export, tmp_path):
    folder = tmp_path / "export"
    folder.mkdir()
    (folder / "jobs.json").write_text((export / "jobs.json").read_text(encoding="utf-8"), encoding="utf-8")
    code, document, _ = migrate(folder, "--cpu", "--memory-gb", "16")
    assert code == 2
    assert document["jobs"][0]["refusal"]["reason"] == "FILE_MISSING"
    assert "file-train.jsonl" in document["jobs"][0]["refusal"]["message"]


def test_hardware_must_be_named(migrate, export):
    code, document, _ = migrate(export)
    assert code == 2
    assert "--this-machine" in json.dumps(document)
