# SPDX-License-Identifier: Apache-2.0
"""`finetree data` against the SDK's fake suite."""

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from finetree import Client
from finetree.testing import Script, Suite
from finetree_api.trainer.v1 import dataset_pb2, event_pb2, job_pb2
from finetree_api.types.v1 import check_pb2, training_data_pb2
from finetree_cli import __main__ as entry
from finetree_cli import data_check
from finetree_cli.output import Output
from finetree_cli.render.trainer import events

ROWS = b'{"prompt": "a", "completion": "b"}\n'
SPANS = [
    dataset_pb2.TextSpan(text="<user>a\x1b[2J\n<bot>", tokens=4),
    dataset_pb2.TextSpan(text="b<end>", tokens=2, trained=True),
]


def report(split=training_data_pb2.SPLIT_TRAIN, **groups) -> event_pb2.DatasetReport:  # noqa: ANN003 - row groups by name
    made = event_pb2.DatasetReport(
        split=split,
        row_format=training_data_pb2.ROW_FORMAT_PROMPT_COMPLETION,
        rows=100,
        longest_row_tokens=70,
        suggested_sequence_length=64,
        target_tokens=900,
        example_row=1,
        example_spans=SPANS,
        template_source=event_pb2.TEMPLATE_SOURCE_TOKENIZER,
        percentiles=event_pb2.TokenPercentiles(p50=20, p90=40, p95=50, p99=64, max=70),
        special_tokens=event_pb2.SpecialTokens(eos_token="<end>", pad_is_eos=True, rows_that_learn_to_end=100),
    )
    made.profile.token_lengths.add(upper_bound=64, count=99)
    made.profile.total_tokens, made.sequence_length = 3600, 64
    for name, (count, rows) in groups.items():
        getattr(made, name).CopyFrom(event_pb2.RowGroup(count=count, rows=rows))
    return made


@pytest.fixture(scope="module")
def server() -> Iterator[Suite]:
    with Suite() as running:
        yield running


@pytest.fixture
def suite(server, monkeypatch) -> Suite:
    monkeypatch.setenv("FINETREE_ADDRESS", server.address)
    held = report(training_data_pb2.SPLIT_EVALUATION, leaked=(2, [4, 9]), leaked_prompts=(3, [4, 5, 9]))
    reports = (report(truncated=(5, [1, 2, 3, 4, 5]), without_target=(1, [3])), held)
    server.trainer.script = Script(steps=1, reports=reports)
    server.datasets.preview = []
    return server


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_bytes(ROWS)
    return str(path)


def run(capsys, *words: str) -> tuple[int, str, str]:
    code = entry.run(list(words))
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return code, captured.out, captured.err


def test_a_report_is_text_with_the_target_tokens_marked(suite, file, capsys):
    code, out, _ = run(capsys, "data", "check", file, "--model", "small")
    assert code == 0
    truncated, without_target, leaked, leaked_prompts = [line for line in out.splitlines() if " of 100 rows (" in line]
    assert truncated.startswith("train: 5 of 100 rows (5.0%)")
    assert truncated.endswith(": 1, 2, 3, 4, 5")
    assert without_target.startswith("train: 1 of 100 rows (1.0%)")
    assert leaked.startswith("evaluation: 2 of 100 rows (2.0%)")
    assert leaked.endswith(": 4, 9")
    assert leaked_prompts.startswith("evaluation: 3 of 100 rows (3.0%)")
    assert "Suggested sequence length: 64" in out
    # What is learned comes before all numbers.
    assert out.startswith("Learned: 25% of the tokens; 100 of 100 rows learn to end; 5 are cut at 64 tokens.\n")
    assert "| <user>a\N{REPLACEMENT CHARACTER}[2J\n| <bot>\n+ b<end>\n" in out.partition("Split")[0]


def test_json_is_one_object(suite, file, capsys):
    code, out, _ = run(
        capsys, "data", "check", file, "--model", "small", "--eval", file, "--fail-on", "leak=2%", "--json"
    )
    answer = json.loads(out)
    assert (code, answer["verdict"]) == (0, "pass")
    assert answer["reports"][0]["rows"] == 100
    leak = next(one for one in answer["findings"] if one["name"] == "leak")
    assert leak == {
        "name": "leak",
        "split": "evaluation",
        "count": 2,
        "rows": 100,
        "numbers": [4, 9],
        "failed": False,
        "message": "",
    }


def test_how_a_file_is_read_is_the_job_s(suite, file, capsys):
    words = ("--file-format", "jsonl", "--column", "prompt=prompt", "--skip-bad-rows")
    _, out, _ = run(capsys, "data", "check", file, "--model", "small", *words, "--json")
    with Client(suite.address) as client:
        reading = client.get_job(json.loads(out)["job"]).prepare.dataset.reading
    assert (reading.file_format, reading.columns.prompt) == (training_data_pb2.FILE_FORMAT_JSONL, "prompt")
    assert reading.bad_rows == training_data_pb2.BAD_ROWS_SKIP


@pytest.mark.parametrize(
    ("threshold", "code"),
    [("truncated", 3), ("truncated=4.9%", 3), ("truncated=5%", 0), ("no-target", 3), ("duplicates", 0)],
)
def test_a_finding_above_its_threshold_fails(suite, file, capsys, threshold, code):
    found, _, err = run(capsys, "data", "check", file, "--model", "small", "--fail-on", threshold)
    assert found == code
    assert (f"{threshold.partition('=')[0]}: " in err) == (code == 3)


@pytest.mark.parametrize(("threshold", "code"), [("leak", 3), ("leak=2%", 0), ("prompt-leak=2%", 3)])
def test_a_leak_fails_where_held_out_rows_are_given(suite, file, capsys, threshold, code):
    assert run(capsys, "data", "check", file, "--model", "small", "--eval", file, "--fail-on", threshold)[0] == code
    assert run(capsys, "data", "check", file, "--model", "small", "--fail-on", threshold)[0] == 2


def test_the_remarks_of_a_report_are_printed(suite, file, capsys):
    reading = report()
    reading.remarks.add(code="COLUMNS_READ", message='Read as chat: turns from "messages". Not read: id.')
    suite.trainer.script = Script(steps=1, reports=(reading,))
    _, out, _ = run(capsys, "data", "check", file, "--model", "small")
    assert 'Read as chat: turns from "messages". Not read: id.' in out


def unread(severity=check_pb2.SEVERITY_ERROR) -> event_pb2.DatasetReport:
    made = report()
    message = 'Left out: text in "Body" (100% of the rows). Map columns {prompt: Body, input: Question, completion: A}.'
    found = made.findings.add(code="UNREAD_COLUMNS", severity=severity, message=message, rows=100)
    found.columns.add(
        name="Body", kind="text", severity=severity, rows=100, share=1.0, mean_characters=80, longest_characters=200,
        example="Each pack of DVDs costs 76 dollars.",
    )  # fmt: skip
    found.columns.add(name="ID", kind="short values", severity=check_pb2.SEVERITY_INFO, rows=100, share=1.0)
    return made


def test_what_is_left_out_is_on_the_first_screen_and_fails(suite, file, capsys):
    suite.trainer.script = Script(steps=1, reports=(unread(),))
    suite.datasets.preview = [
        dataset_pb2.PreviewRow(split=training_data_pb2.SPLIT_TRAIN, row=n, tokens=6, spans=SPANS) for n in (4, 5, 6, 7)
    ]
    code, out, err = run(capsys, "data", "check", file, "--model", "small")
    first = out.partition("Split")[0]
    assert code == 3
    assert "error UNREAD_COLUMNS: Left out: text in" in first
    assert "  Body: text in 100% of the rows, 80 characters on average, 200 at most\n    Each pack of DVDs" in first
    assert "Also left out: ID (short values)" in first
    assert [line for line in first.splitlines() if line.startswith("Row ")][-1].startswith("Row 6 as the model sees it")
    assert "--column prompt=Body --column input=Question --column completion=A" in err
    assert "--accept UNREAD_COLUMNS" in err


@pytest.mark.parametrize(
    ("severity", "words", "code"),
    [
        (check_pb2.SEVERITY_WARNING, (), 0),
        (check_pb2.SEVERITY_WARNING, ("--fail-on", "warning"), 3),
        (check_pb2.SEVERITY_ERROR, ("--fail-on", "warning"), 3),
        (check_pb2.SEVERITY_ERROR, ("--fail-on", "error=100%"), 0),
        (check_pb2.SEVERITY_INFO, ("--fail-on", "warning"), 0),
    ],
)
def test_a_finding_fails_by_its_severity(suite, file, capsys, *, severity, words, code):
    suite.trainer.script = Script(steps=1, reports=(unread(severity),))
    found, out, _ = run(capsys, "data", "check", file, "--model", "small", *words, "--json")
    assert (found, json.loads(out)["verdict"]) == (code, "fail" if code else "pass")


def test_what_is_accepted_is_the_job_s_and_not_the_dataset_s(suite, file, capsys):
    Path(file).write_bytes(ROWS * 3)  # content that no test before has uploaded
    words = ("--accept", "UNREAD_COLUMNS", "--ignore-column", "Body")
    _, out, _ = run(capsys, "data", "check", file, "--model", "small", *words, "--json")
    with Client(suite.address) as client:
        reading = client.get_job(json.loads(out)["job"]).prepare.dataset.reading
    assert list(reading.accepted_findings) == ["UNREAD_COLUMNS"]
    assert list(reading.ignored_columns) == ["Body"]
    own = suite.datasets.find(json.loads(out)["dataset"]).reading
    assert (list(own.accepted_findings), list(own.ignored_columns)) == ([], ["Body"])


def test_skipped_rows_are_listed_with_their_problem(suite, file, capsys):
    skipping = report(skipped=(1, [7]))
    skipping.bad_rows.add(row=7, field="messages[2].content", problem="is missing")
    suite.trainer.script = Script(steps=1, reports=(skipping,))
    code, out, _ = run(capsys, "data", "check", file, "--model", "small", "--fail-on", "skipped")
    assert code == 3
    assert "train: 1 of 101 rows (1.0%)" in out
    assert "train row 7, messages[2].content: is missing" in out


def test_a_failed_check_is_one_object_too(suite, file, capsys):
    code, out, _ = run(capsys, "data", "check", file, "--model", "small", "--fail-on", "truncated", "--json")
    assert (code, json.loads(out)["verdict"]) == (3, "fail")


@pytest.mark.parametrize("threshold", ["unheard-of", "leak=101%", "leak=5", "truncated=%"])
def test_an_unknown_threshold_is_refused(suite, file, capsys, threshold):
    code, _, err = run(capsys, "data", "check", file, "--model", "small", "--fail-on", threshold)
    assert code == 2
    assert "no-target" in err


def test_a_file_that_is_not_there_is_refused(suite, capsys, tmp_path):
    assert run(capsys, "data", "check", str(tmp_path / "none.jsonl"))[0] == 2


def test_a_job_that_fails_is_no_verdict_on_the_data(suite, file, capsys):
    suite.trainer.script = Script(steps=1, outcome="FAILED")
    assert run(capsys, "data", "check", file, "--model", "small")[0] == 4


def test_rows_are_shown_as_the_model_sees_them(suite, file, capsys):
    suite.datasets.preview = [
        dataset_pb2.PreviewRow(split=training_data_pb2.SPLIT_TRAIN, row=1, tokens=6, target_tokens=2, spans=SPANS),
        dataset_pb2.PreviewRow(
            split=training_data_pb2.SPLIT_TRAIN, row=2, tokens=60, truncated=True, dropped=True, spans=SPANS
        ),
    ]
    name = json.loads(run(capsys, "datasets", "upload", file, "--json")[1])["name"]
    code, out, _ = run(capsys, "data", "preview", name)
    assert code == 0
    assert "train row 1: 6 tokens, 2 targets\n" in out
    assert "train row 2: 60 tokens, 0 targets, truncated, skipped\n" in out
    assert "+ b<end>" in out
    code, out, _ = run(capsys, "data", "preview", name, "--only", "dropped", "--json")
    assert [row["row"] for row in json.loads(out)["rows"]] == [2]
    assert run(capsys, "data", "preview", name, "--only", "no-target")[1] == ""


def test_a_dataset_without_a_report_names_the_remedy(suite, file, capsys):
    suite.datasets.preview = []
    name = json.loads(run(capsys, "datasets", "upload", file, "--json")[1])["name"]
    code, _, err = run(capsys, "data", "preview", name)
    assert code == 2
    assert "finetree data check" in err
    assert "NO_PREVIEW" in err
    assert run(capsys, "data", "preview")[0] == 2


def test_a_folder_in_place_of_a_file_is_named_as_one(suite, tmp_path, capsys):
    code, _, err = run(capsys, "data", "check", str(tmp_path))
    assert code == 2
    assert f"{tmp_path} is a directory" in err


def test_ctrl_c_cancels_the_job_that_reads(suite, file):
    suite.trainer.script = Script(steps=1, hold_at=2)
    with subprocess.Popen(
        [sys.executable, "-m", "finetree_cli", "data", "check", file, "--model", "small"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"FINETREE_ADDRESS": suite.address},
    ) as process:
        assert process.stderr is not None
        try:
            assert select.select([process.stderr], [], [], 40)[0]
            assert process.stderr.readline() == "Waits for a device.\n"
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, out) == (130, "")
    assert "cancelled job" in err
    with Client(suite.address) as client:
        job = next(iter(client.list_jobs()))
    assert job.display_name == "check train.jsonl"
    assert job.state == job_pb2.JOB_STATE_CANCELLED


def test_detached_it_prints_the_job_and_leaves_it(suite, file, capsys):
    suite.trainer.script = Script(steps=1, hold_at=2)
    code, out, _ = run(capsys, "data", "check", file, "--model", "small", "--detach")
    assert code == 0
    with Client(suite.address) as client:
        assert client.get_job(out.strip()).prepare.model.name == "small"


def test_progress_names_the_rows_that_were_read(capsys):
    shown = events.LineView(Output())
    progress = event_pb2.PhaseProgress(
        phase=job_pb2.JOB_PHASE_TOKENIZE, fraction=0.5, done=1200, unit=event_pb2.PROGRESS_UNIT_ROWS
    )
    shown.show(event_pb2.JobEvent(phase_progress=progress))
    assert capsys.readouterr().err == "reading rows 50%, 1200 rows\n"


JOB = "model: {name: small}\nlora: {rank: 8}\ntraining: {sequence_length: 512}\n"


@pytest.fixture
def train(suite, file, tmp_path, capsys, monkeypatch):
    """`train(*words)` trains on a file of 35 bytes; returns the exit code, stderr, and the jobs that were created."""
    suite.base_models.add("acme/small")
    suite.trainer.script = Script(steps=1, reports=(unread(),))
    (tmp_path / "job.yaml").write_text(JOB)

    def call(*words: str, checked_bytes: int) -> tuple[int, str, list[job_pb2.Job]]:
        monkeypatch.setattr(data_check, "CHECKED_BYTES", checked_bytes)
        with Client(suite.address) as client:
            before = {job.name for job in client.list_jobs()}
            words = ("train", str(tmp_path / "job.yaml"), "--data", file, "--detach", *words)
            code, _, err = run(capsys, *words)
            return code, err, [job for job in client.list_jobs() if job.name not in before]

    return call


def test_all_rows_of_a_large_file_are_checked_before_a_job_trains_on_them(train):
    code, err, jobs = train(checked_bytes=len(ROWS) - 1)
    assert (code, [job.WhichOneof("task") for job in jobs]) == (2, ["prepare"])
    assert "[UNREAD_COLUMNS]" in err
    assert "--column prompt=Body --column input=Question --column completion=A" in err
    assert "--accept UNREAD_COLUMNS" in err
    task = jobs[0].prepare
    assert (task.model.name, task.sequence_length) == ("small", 512)


def test_what_is_accepted_trains(train, suite):
    accepted = unread()
    accepted.findings[0].accepted = True
    suite.trainer.script = Script(steps=1, reports=(accepted,))
    code, _, jobs = train("--accept", "UNREAD_COLUMNS", checked_bytes=0)
    assert (code, [job.WhichOneof("task") for job in jobs]) == (0, ["train", "prepare"])
    assert list(jobs[1].prepare.dataset.reading.accepted_findings) == ["UNREAD_COLUMNS"]


@pytest.mark.parametrize(("words", "checked_bytes"), [((), len(ROWS)), (("--no-data-check",), 0)])
def test_a_file_that_the_upload_has_read_or_that_nobody_wants_checked_is_not(train, words, checked_bytes):
    code, _, jobs = train(*words, checked_bytes=checked_bytes)
    assert (code, [job.WhichOneof("task") for job in jobs]) == (0, ["train"])


@pytest.mark.parametrize(
    ("file_format", "compression", "size", "whole"),
    [
        (training_data_pb2.FILE_FORMAT_JSONL, training_data_pb2.COMPRESSION_NONE, 16 << 20, True),
        (training_data_pb2.FILE_FORMAT_JSONL, training_data_pb2.COMPRESSION_NONE, (16 << 20) + 1, False),
        (training_data_pb2.FILE_FORMAT_CSV, training_data_pb2.COMPRESSION_GZIP, 1 << 20, True),
        (training_data_pb2.FILE_FORMAT_CSV, training_data_pb2.COMPRESSION_ZSTD, (1 << 20) + 1, False),
        (training_data_pb2.FILE_FORMAT_PARQUET, training_data_pb2.COMPRESSION_NONE, 10, False),
    ],
)
def test_a_compressed_file_has_more_content_and_of_parquet_no_row_is_read(file_format, compression, size, whole):
    dataset = dataset_pb2.Dataset(file_format=file_format, compression=compression, size_bytes=size)
    assert data_check.read_whole(dataset) is whole


def test_the_fake_suite_refuses_an_error_in_the_rows_as_the_trainer_does(suite, file, tmp_path, capsys):
    suite.base_models.add("acme/small")
    Path(file).write_bytes(ROWS * 5)  # content that no test before has uploaded
    suite.datasets.findings = list(unread().findings)
    (tmp_path / "job.yaml").write_text(JOB)
    words = ("train", str(tmp_path / "job.yaml"), "--data", file, "--detach")
    try:
        code, _, err = run(capsys, *words)
        assert (code, "[UNREAD_COLUMNS]" in err, "--accept UNREAD_COLUMNS" in err) == (2, True, True)
        assert run(capsys, *words, "--accept", "UNREAD_COLUMNS")[0] == 0
    finally:
        suite.datasets.findings = []
