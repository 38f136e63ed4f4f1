# SPDX-License-Identifier: Apache-2.0
"""`finetree data check` without a server: the installed reader in a child process."""

import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from finetree_cli import __main__ as entry

PROBLEMS = [
    {
        "ID": f"chal-{n}",
        "Body": f"Each pack of DVDs costs {n + 70} dollars. There is a discount of {n} dollars.",
        "Question": "How much do you have to pay to buy each pack?",
        "Answer": f"{n}.0",
    }
    for n in range(5)
]


@pytest.fixture
def check(tmp_path, monkeypatch, capsys):
    """`check(rows, *words)` writes rows to train.jsonl and runs `finetree data check` on it, without a server."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FINETREE_ADDRESS", "127.0.0.1:1")  # --local overrules it

    def run(rows: list[dict[str, object]], *words: str, file: str = "train.jsonl") -> SimpleNamespace:
        Path("train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        code = entry.run(["data", "check", file, "--local", *words])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return SimpleNamespace(code=code, out=out, err=err)

    return run


def test_the_first_screen_is_that_of_a_server_but_for_the_template(check):
    found = check(PROBLEMS)
    assert found.code == 3
    first, _, rest = found.out.partition("\n Split")
    assert first.startswith('Read as prompt_completion: prompt from "Question", completion from "Answer". Not read: ')
    assert "tokens (estimated from characters)" in first
    assert "error UNREAD_COLUMNS: Left out: text in" in first
    assert "| user: How much do you have to pay to buy each pack?\n| assistant: \n+ 0.0\n" in first
    assert first.count("by its roles, without the model's chat template") == 3
    assert "estimated from characters and messages" in rest
    assert "--column prompt=Body --column input=Question --column completion=Answer" in found.err
    assert check(PROBLEMS, "--accept", "UNREAD_COLUMNS").code == 0
    assert (
        check(PROBLEMS, "--column", "prompt=Body", "--column", "input=Question", "--column", "completion=Answer").code
        == 0
    )


def test_json_is_the_document_of_a_server_without_a_job(check):
    found = check(PROBLEMS, "--json")
    answer = json.loads(found.out)
    assert (found.code, answer["verdict"], answer["job"], answer["dataset"]) == (3, "fail", "", "train.jsonl")
    (report,) = answer["reports"]
    assert (report["rows"], report["profile"].get("exact", False)) == (5, False)
    assert report["findings"][0]["code"] == "UNREAD_COLUMNS"


def test_held_out_rows_are_compared(check, tmp_path):
    rows: list[dict[str, object]] = [{"prompt": f"{n}?", "completion": "a"} for n in range(4)]
    held = [rows[1], {"prompt": "2?", "completion": "other"}, {"prompt": "new", "completion": "a"}]
    (tmp_path / "held.jsonl").write_text("".join(json.dumps(row) + "\n" for row in held))
    words = ("--eval", "held.jsonl", "--json")
    found = {one["name"]: one["numbers"] for one in json.loads(check([*rows, rows[0]], *words).out)["findings"]}
    assert (found["leak"], found["prompt-leak"], found["duplicates"]) == ([1], [1, 2], [])
    assert check(rows, *words, "--fail-on", "leak=50%").code == 0
    assert check(rows, *words, "--fail-on", "leak").code == 3


@pytest.mark.parametrize(
    ("words", "learned"),
    [((), ["4", "8"]), (("--loss-tokens", "last-completion"), ["8"]), (("--loss-tokens", "all"), [])],
)
def test_what_is_learned_is_marked_as_the_loss_says(check, words, learned):
    said = ("2+2?", "4", "4+4?", "8")
    row = {
        "messages": [
            {"role": role, "content": text} for role, text in zip(("user", "assistant") * 2, said, strict=True)
        ]
    }
    out = check([row], *words).out
    marked = [line.removeprefix("+ ") for line in out.splitlines() if line.startswith("+ ")]
    assert marked == learned or (not learned and marked[0] == "user: 2+2?")


def test_rows_longer_than_the_sequence_are_estimated(check):
    rows: list[dict[str, object]] = [{"text": "word " * n} for n in (4, 400)]
    report = json.loads(check(rows, "--sequence-length", "64", "--json").out)["reports"][0]
    assert report["truncated"] == {"count": 1, "rows": [2]}
    assert check(rows, "--sequence-length", "64", "--fail-on", "truncated").code == 3


def test_a_malformed_row_is_named(check):
    found = check([{"prompt": "a", "completion": "b"}, {"prompt": "a"}])
    assert found.code == 2
    assert "train.jsonl, Row 2, field completion: is missing" in found.err
    assert "[MALFORMED_ROW]" in found.err


def test_a_mapping_that_would_read_the_rows_is_offered(check):
    found = check([{"Text": "a b", "Category": "c"}])
    assert found.code == 2
    assert "--column prompt=Text --column completion=Category, or --column text=Text" in found.err


def test_what_is_no_file_is_named_as_such(check, tmp_path):
    assert f"{tmp_path} is a directory" in check(PROBLEMS, file=str(tmp_path)).err
    missing = check(PROBLEMS, file="none.jsonl")
    assert (missing.code, "none.jsonl: no such file" in missing.err) == (2, True)
    assert "held.jsonl: no such file" in check(PROBLEMS, "--eval", "held.jsonl").err


@pytest.mark.parametrize("word", ["--on-server", "--detach"])
def test_what_needs_a_server_is_refused(check, word):
    found = check(PROBLEMS, word)
    assert (found.code, word in found.err) == (2, True)


def test_ctrl_c_stops_it_at_once_and_leaves_nothing_behind(tmp_path):
    row = json.dumps({"prompt": "How many?", "completion": "Many."}) + "\n"
    file, temporary = tmp_path / "large.jsonl", tmp_path / "temporary"
    file.write_text(row * 400_000)
    temporary.mkdir()
    with subprocess.Popen(
        [sys.executable, "-m", "finetree_cli", "data", "check", str(file), "--local"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"TMPDIR": str(temporary)},
    ) as process:
        assert process.stderr is not None
        try:
            assert select.select([process.stderr], [], [], 40)[0]
            assert process.stderr.readline().startswith("reading rows")
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the child as well
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, out) == (130, "")
    assert err.splitlines()[-1].startswith("error: interrupted")
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
    assert not list(temporary.iterdir())
