# SPDX-License-Identifier: Apache-2.0
"""Every command against the SDK's fake suite: what goes to stdout, what the exit code says, numbers as numbers."""

import itertools
import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import finetree
import pytest
from finetree.testing import Script, Suite
from finetree_cli import __main__ as entry

JOB = "model: {name: small}\nlora: {rank: 8}\ntraining: {epochs: 1}\n"
ROWS = b'{"prompt": "a", "completion": "b"}\n'


@pytest.fixture(scope="module")
def server() -> Iterator[Suite]:
    with Suite() as suite:
        yield suite


@pytest.fixture
def suite(server, monkeypatch) -> Suite:
    monkeypatch.setenv("FINETREE_ADDRESS", server.address)
    server.trainer.script = Script(steps=3)
    server.base_models.add("acme/small")
    return server


@pytest.fixture
def job_file(server, tmp_path) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text(f"{JOB}dataset: {{name: {server.datasets.add(ROWS).name}}}\n", encoding="utf-8")
    return path


@pytest.fixture
def data_file(tmp_path) -> Path:
    path = tmp_path / "train.jsonl"
    path.write_bytes(ROWS)
    return path


class Ran:
    """What a command printed, and its exit code."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def document(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


@pytest.fixture
def run(suite, capsys):
    def command(*words: str | Path) -> Ran:
        code = entry.run([str(word) for word in words])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return Ran(code, captured.out, captured.err)

    return command


def numbers_in_quotes(value: Any, path: str = "") -> list[str]:
    """Paths of texts that are whole numbers: jq would compare them as greater than any number."""
    if isinstance(value, dict):
        return [found for key, item in value.items() for found in numbers_in_quotes(item, f"{path}.{key}")]
    if isinstance(value, list):
        return [found for index, item in enumerate(value) for found in numbers_in_quotes(item, f"{path}[{index}]")]
    return [path] if isinstance(value, str) and re.fullmatch(r"-?\d+", value) else []


def at(document: Any, path: str) -> Any:
    for key in path.split("."):
        document = document[int(key)] if key.isdecimal() else document[key]
    return document


def test_cancelling_a_job_that_has_ended_says_so(run, job_file):
    job = run("train", job_file, "--json").lines[0]["job"]
    cancelled = run("jobs", "cancel", job)
    assert cancelled.out.strip() == "succeeded"
    assert "had ended already" in cancelled.err


def test_the_recipe_of_this_machine_is_estimated_as_it_was_recommended(run, tmp_path, monkeypatch):
    job, rows = tmp_path / "job.yaml", ("--examples", "200", "--json")

    def seconds(ran: Ran) -> float:
        return at(ran.document, "time.total_seconds.expected")

    with Suite(accelerators=()) as on_cpu:
        monkeypatch.setenv("FINETREE_ADDRESS", on_cpu.address)
        asked = run("recommend", "--model", "small", "--this-machine", "--output", job, *rows)
        recommended = at(asked.document, "estimate.total_seconds.expected")
        estimated = run("estimate", job, *rows)
        assert seconds(estimated) == recommended
        assert "the CPU is the trainer's" in estimated.err
        monkeypatch.setenv("FINETREE_TRAINER_ADDRESS", "127.0.0.1:1")
        assumed = run("estimate", job, *rows)
        assert seconds(assumed) != recommended
        assert "speed is assumed" in assumed.err


@pytest.mark.parametrize(
    ("words", "path"),
    [
        (["recommend", "--model", "small", "--cpu"], "methods.0.device_bytes.expected"),
        (["estimate", "--model", "small", "--method", "lora", "--gpu", "rtx-4090"], "memory.usable_device_bytes"),
        (["estimate", "JOB", "--gpu", "rtx-4090"], "fit.headroom_bytes"),
        (["models", "list", "--catalog"], "models.0.parameters"),
        (["models", "list"], "base_models.0.size_bytes"),
        (["models", "show", "acme/small"], "vocab_size"),
        (["models", "rm", "acme/small"], "size_bytes"),
        (["gpus"], "accelerators.0.usable_bytes"),
        (["capacity"], "nodes.0.devices.0.total_bytes"),
        (["train", "JOB", "--detach"], "train.spec.lora.rank"),
        (["train", "JOB", "--check"], "train.spec.lora.rank"),
        (["datasets", "upload", "DATA"], "size_bytes"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_json_is_one_object_with_numbers_as_numbers(run, job_file, data_file, words, path):
    files = {"JOB": str(job_file), "DATA": str(data_file)}
    ran = run(*(files.get(word, word) for word in words), "--json")
    assert ran.code == 0, ran.err
    assert at(ran.document, path) > 7
    assert at(ran.document, path) < 1e12
    assert numbers_in_quotes(ran.document) == []


@pytest.mark.parametrize(
    "words",
    [
        ["recommend", "--model", "small", "--cpu"],
        ["estimate", "--model", "small", "--method", "lora", "--cpu"],
        ["methods"],
        ["methods", "lora"],
        ["packs", "list"],
        ["packs", "show"],
        ["models", "list"],
        ["models", "list", "--catalog"],
        ["models", "show", "acme/small"],
        ["gpus"],
        ["capacity"],
        ["jobs", "list"],
        ["datasets", "list"],
        ["version", "--services"],
        ["--version"],
    ],
    ids=" ".join,
)
def test_people_get_text_on_stdout_alone(run, words):
    ran = run(*words)
    assert ran.code == 0
    assert ran.out.strip()
    assert ran.err == ""
    assert run("--json", *words).document


def test_a_model_is_pulled_by_a_prepare_job_that_is_followed(run, suite):
    ran = run("models", "pull", "acme/small@v1", "--json")
    assert ran.code == 0, ran.err
    with suite.client() as client:
        job = client.get_job(next(iter(client.list_jobs())).name)
    assert job.WhichOneof("task") == "prepare"
    assert (job.prepare.model.hub.id, job.prepare.model.hub.revision) == ("acme/small", "v1")


def test_models_are_listed_by_the_beginning_of_their_hub_id(run, suite):
    suite.base_models.add("other/model")
    names = [model["hub_id"] for model in run("models", "list", "other/", "--json").document["base_models"]]
    assert names == ["other/model"]


def test_an_unknown_model_cannot_be_shown_or_removed(run):
    for word in ("show", "rm"):
        ran = run("models", word, "acme/nothing", "--json")
        assert ran.code != 0
        assert ran.document["error"]["reason"] == "MODEL_NOT_FOUND"


def test_a_job_is_watched_to_its_end(run, job_file):
    ran = run("train", job_file, "--json")
    assert ran.code == 0, ran.err
    assert [event["seq"] for event in ran.lines] == list(range(1, len(ran.lines) + 1))
    assert "terminal" in ran.lines[-1]
    assert numbers_in_quotes(ran.lines) == []
    steps = [event["step_metrics"]["step"] for event in ran.lines if "step_metrics" in event]
    assert steps == [1, 2, 3]


def test_people_see_lines_on_stderr_and_the_end_on_stdout(run, job_file):
    ran = run("train", job_file, "--name", "try", "--label", "team=search")
    assert ran.code == 0
    assert "step 1/3" in ran.err
    # The last step's own loss is 2.308, as the line about it says: what is no step's is called a mean.
    assert "step 3/3  loss 2.308" in ran.err
    assert "2.727 -> 2.512 in 3 steps (mean of the last 3)" in ran.out
    listed = run("jobs", "list", "--label", "team=search", "--json").document["jobs"]
    assert listed[0]["display_name"] == "try"


def test_a_job_that_nobody_named_has_a_name_and_one_of_its_file_keeps_it(run, job_file, tmp_path):
    rows = tmp_path / "train.jsonl"
    rows.write_bytes(b'{"prompt": "who", "completion": "nobody"}\n')
    asked = ("train", job_file, "--detach", "--json")
    assert run(*asked, "--data", rows).document["display_name"] == "lora of small on train.jsonl"
    assert run(*asked).document["display_name"].startswith("lora of small")
    key = ("--request-id", "again")
    assert len({run(*asked, *key).document["name"] for _ in range(2)}) == 1
    named = tmp_path / "named.yaml"
    named.write_text(f"display_name: mine\ntrain: {{spec: {{{', '.join(job_file.read_text().splitlines())}}}}}\n")
    assert run("train", named, "--detach", "--json").document["display_name"] == "mine"


def test_a_broken_connection_loses_and_repeats_nothing(run, suite, job_file):
    suite.trainer.disconnect_after(3, 6)
    ran = run("train", job_file, "--json")
    assert ran.code == 0
    assert [event["seq"] for event in ran.lines] == list(range(1, len(ran.lines) + 1))


def test_a_failed_job_is_4_with_its_reason(run, suite, job_file):
    suite.trainer.script = Script(steps=2, outcome="FAILED")
    ran = run("train", job_file, "--json")
    assert ran.code == 4
    assert ran.lines[-1]["error"]["reason"] == "OUT_OF_MEMORY"
    assert "terminal" in ran.lines[-2]
    assert "the device ran out of memory" in ran.err


def test_a_cancelled_job_is_4(run, suite, job_file):
    suite.trainer.script = Script(steps=2, outcome="CANCELLED")
    ran = run("train", job_file)
    assert ran.code == 4
    assert "[CANCELLED]" in ran.err


def test_after_the_timeout_the_job_still_runs(run, suite, job_file):
    suite.trainer.script = Script(steps=3, hold_at=5)
    ran = run("train", job_file, "--timeout", "1s", "--json")
    assert ran.code == 6
    assert ran.lines[-1]["error"]["reason"] == "TIMED_OUT"
    assert [event["seq"] for event in ran.lines[:-1]] == [1, 2, 3, 4, 5]
    name = ran.lines[0]["job"].rpartition("/")[2]
    assert f"finetree jobs watch {name}" in ran.err
    suite.trainer.advance(ran.lines[0]["job"])
    again = run("jobs", "watch", name, "--after-seq", "5", "--json")
    assert again.code == 0
    assert again.lines[0]["seq"] == 6


def test_ctrl_c_detaches(suite, job_file):
    suite.trainer.script = Script(steps=3, hold_at=5)
    command = [sys.executable, "-m", "finetree_cli", "train", str(job_file), "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    seen = [json.loads(process.stdout.readline()) for _ in range(5)]
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 6
    assert json.loads(out)["error"]["reason"] == "DETACHED"
    assert "finetree jobs cancel" in err
    assert "Traceback" not in err
    with suite.client() as client:
        assert not finetree.to_json(client.get_job(seen[0]["job"])).get("end_time")


def test_cancel_show_and_logs(run, suite, job_file):
    suite.trainer.script = Script(steps=3, hold_at=5)
    name = run("train", job_file, "--detach", "--json").document["name"]
    assert run("jobs", "show", name).out.startswith(name)
    assert run("jobs", "cancel", name, "--wait", "10s").out.strip() == "cancelled"
    logged = run("jobs", "events", name, "--all", "--json").lines
    assert "terminal" in logged[-1]
    assert run("jobs", "events", name, "--last", "1").out.count("\n") == 1


def test_a_job_is_paused_and_resumed(run, suite, job_file):
    suite.trainer.script = Script(steps=3, step_seconds=3600.0)
    name = run("train", job_file, "--priority", "high", "--detach", "--json").document["name"]
    assert "priority  high" in run("jobs", "show", name).out
    assert run("jobs", "pause", name, "--wait", "10s").out.strip() == "paused"
    assert run("jobs", "pause", name).code == 2
    assert "[JOB_NOT_PAUSABLE]" in run("jobs", "pause", name).err
    short = name.rpartition("/")[2]
    left = run("jobs", "watch", name, "--timeout", "1s")
    assert (left.code, "the job is paused" in left.err) == (6, True)
    assert f"`finetree jobs resume {short}`" in left.err
    assert run("jobs", "resume", name, "--json").document["state"] == "JOB_STATE_QUEUED"
    assert "[JOB_NOT_PAUSED]" in run("jobs", "resume", name).err
    assert run("jobs", "move", name).code == 2
    assert run("jobs", "cancel", name, "--wait", "10s").out.strip() == "cancelled"


def test_labels_of_a_job_are_set_and_removed(run, suite, job_file):
    suite.trainer.script = Script(steps=3, hold_at=5)
    name = run("train", job_file, "--label", "team=search", "--label", "trial=1", "--detach", "--json").document["name"]
    assert run("jobs", "label", name, "trial-", "best=yes").out == "best=yes\nteam=search\n"
    found = run("jobs", "label", name, "--annotations", "by=ada", "--display-name", "two", "--json").document
    assert (found["annotations"], found["display_name"], found["labels"]["best"]) == ({"by": "ada"}, "two", "yes")
    for words, code in ((["trial"], 2), ([], 2), (["a=1", "a-"], 2), (["-=1"], 2)):
        assert run("jobs", "label", name, *words).code == code, words


def test_a_log_is_exported_whole_and_plays_again(run, job_file, tmp_path):
    events = run("train", job_file, "--json").lines
    ran = run("jobs", "export-log", events[0]["job"], "--output", tmp_path / "run.jsonl", "--json")
    assert (ran.code, ran.document["events"]) == (0, len(events))
    lines = [json.loads(line) for line in (tmp_path / "run.jsonl").read_text(encoding="utf-8").splitlines()]
    assert numbers_in_quotes(lines) == []
    assert [line["event"] for line in lines[1:]] == events
    with Suite(replay=tmp_path / "run.jsonl") as played, played.client() as client:
        assert [event.seq for event in client.job(events[0]["job"]).events()] == [event["seq"] for event in events]


def test_artifacts_are_downloaded(run, job_file, tmp_path):
    events = run("train", job_file, "--json").lines
    ran = run("jobs", "download", events[0]["job"], "--output", tmp_path / "out", "--json")
    folders = [Path(item["path"]) for item in ran.document["artifacts"]]
    assert folders
    assert all(any(folder.iterdir()) for folder in folders)
    shown = run("jobs", "download", events[0]["job"], "--output", tmp_path / "out")
    assert shown.out.splitlines() == [str(folder) for folder in folders]
    assert f"Model.from_pretrained('{folders[0]}')" in shown.err


def test_links_that_there_are_none_of_are_refused_with_what_helps(run, job_file, tmp_path):
    job = run("train", job_file, "--json").lines[0]["job"]
    ran = run("jobs", "download", job, "--links")
    assert (ran.code, ran.out) == (2, "")
    assert "LINKS_UNSUPPORTED" in ran.err
    assert "finetree jobs download JOB" in ran.err
    assert run("jobs", "download", job, "--direct", "--output", tmp_path / "out").code == 0


@pytest.mark.parametrize("detach", [False, True])
def test_a_model_that_is_not_prepared_is_prepared_first(run, suite, job_file, detach):
    # As the trainer refuses it: the model is named as the field at fault.
    violations = [finetree.Violation("job.train.spec.model", "it is not prepared")]
    refusal = finetree.FailedPrecondition("prepare it first", reason="MODEL_NOT_PREPARED", violations=violations)
    suite.faults.fail_next("CreateJob", refusal)
    ran = run("train", job_file, "--json", *(["--detach"] if detach else []))
    assert ran.code == 0, ran.err
    assert "preparing the model" in ran.err
    # stdout is the job's that was asked for: `train --detach --json | jq -r .name` has one name.
    (name,) = [ran.document["name"]] if detach else {event["job"] for event in ran.lines}
    with suite.client() as client:
        jobs = itertools.islice(client.list_jobs(), 2)  # the newest come first
        found = [(job.WhichOneof("task"), job.name == name) for job in jobs]
    assert found == [("train", True), ("prepare", False)]


def test_local_data_is_uploaded_and_named(run, tmp_path, data_file):
    job = tmp_path / "job.yaml"
    job.write_text(JOB + "dataset: {path: train.jsonl}\n", encoding="utf-8")
    held_out = tmp_path / "held-out.jsonl"
    held_out.write_bytes(ROWS * 2)
    ran = run("train", job, "--eval-data", held_out, "--detach", "--json")
    assert ran.code == 0, ran.err
    spec = ran.document["train"]["spec"]
    sizes = [
        run("datasets", "show", source["name"], "--json").document["size_bytes"]
        for source in (spec["dataset"], spec["evaluation"]["dataset"])
    ]
    assert sizes == [len(ROWS), 2 * len(ROWS)]
    assert "train.jsonl is dataset projects/default/datasets/" in ran.err


def test_the_same_request_id_makes_one_job(run, job_file):
    first = run("train", job_file, "--detach", "--request-id", "once", "--json").document["name"]
    assert run("train", job_file, "--detach", "--request-id", "once", "--json").document["name"] == first
    job_file.write_text(job_file.read_text(encoding="utf-8").replace("rank: 8", "rank: 4"), encoding="utf-8")
    ran = run("train", job_file, "--detach", "--request-id", "once")
    assert ran.code == 2
    assert "REQUEST_ID_REUSED" in ran.err


def test_a_servers_violation_names_the_line(run, suite, job_file):
    violation = finetree.Violation("job.train.spec.lora.rank", "must be at most 4")
    refusal = finetree.InvalidArgument("no", reason="INVALID_REQUEST", violations=(violation,))
    suite.faults.fail_next("CreateJob", refusal)
    ran = run("train", job_file, "--json")
    assert ran.code == 2
    problem = ran.document["error"]["problems"][0]
    assert (problem["file"], problem["line"], problem["column"]) == (str(job_file), 2, 8)
    assert f"{job_file}:2:8: lora.rank: must be at most 4" in ran.err


def test_the_recipe_is_written_and_read_back(run, tmp_path, data_file):
    path = tmp_path / "recipe.yaml"
    ran = run("recommend", "--model", "small", "--gpu", "rtx-4090", "--output", path, "--json")
    spec = run("train", path, "--data", data_file, "--detach", "--json").document["train"]["spec"]
    del spec["dataset"]
    assert spec == ran.document["spec"]


@pytest.mark.parametrize("words", [["capacity"], ["jobs", "list"], ["recommend", "--model", "small"]], ids=" ".join)
def test_a_missing_service_is_5(run, monkeypatch, words):
    monkeypatch.setenv("FINETREE_ADDRESS", "127.0.0.1:1")
    ran = run(*words, "--json")
    assert ran.code == 5
    assert ran.document["error"]["reason"] == "SERVICE_UNREACHABLE"
    assert "finetree up" in ran.err


def test_an_export_into_a_folder_with_files_creates_no_job(run, suite, tmp_path):
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "model-f16.gguf").write_bytes(b"theirs")
    before = len(suite.trainer._jobs)
    ran = run("export", "any", "--output", tmp_path / "used", "--json")
    assert (ran.code, ran.document["error"]["reason"]) == (2, "FOLDER_NOT_EMPTY")
    assert ran.document["error"]["remedy"].startswith("name another")
    assert len(suite.trainer._jobs) == before


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["recommend", "--model", "unheard-of"], "MODEL_NOT_FOUND"),
        (["jobs", "show", "unheard-of"], "JOB_NOT_FOUND"),
        (["export", "unheard-of"], "JOB_NOT_FOUND"),
        (["train", "JOB", "--init-from", "unheard-of"], "JOB_NOT_FOUND"),
        (["datasets", "show", "unheard-of"], "DATASET_NOT_FOUND"),
        (["train", "JOB", "--data", "/nowhere.jsonl"], "DATA_FILE_UNREADABLE"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_what_is_not_there_is_2(run, job_file, words, reason):
    ran = run(*(str(job_file) if word == "JOB" else word for word in words), "--json")
    assert ran.code == 2
    assert ran.document["error"]["reason"] == reason
