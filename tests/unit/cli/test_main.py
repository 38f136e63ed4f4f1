# SPDX-License-Identifier: Apache-2.0
"""Exit codes and errors of the whole program."""

import json
import subprocess
import sys
from typing import Never

import pytest
from finetree_cli import __main__ as entry
from finetree_cli.errors import ExitCode


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["fly"],
        ["recommend", "--max-duration", "soon"],
        ["recommend", "--serve", "ollama,tgw"],
        ["recommend", "--model", "m", "--quality", "divine"],
        ["jobs", "list", "--limit", "0"],
        ["jobs", "watch", "j", "--timeout", "soon"],
        ["train", "job.yaml", "--label", "team"],
        ["up", "--ports", "1,2"],
        ["up", "--ports", "1,1,2"],
        ["up", "--ports", "0,1,2"],
        ["demo", "--countries", "0"],
        ["estimate", "/nowhere/job.yaml"],
        ["estimate", "--method", "lora"],
        ["recommend", "--model", "m", "--gpu", "a", "--cpu"],
        ["recommend", "--model", "m", "--price", "p", "--price-per-kwh", "1"],
    ],
    ids=" ".join,
)
def test_bad_input_is_2_and_one_object_with_json(words, capsys, monkeypatch):
    assert entry.run(words) == ExitCode.USAGE
    plain = capsys.readouterr()
    assert plain.out == ""
    assert plain.err
    assert "Traceback" not in plain.err
    if words:
        # Where an address is given, no program is started ahead of the request.
        monkeypatch.setenv("FINETREE_RECOMMENDER_ADDRESS", "127.0.0.1:1")
        assert entry.run([*words, "--json"]) == ExitCode.USAGE
        error = json.loads(capsys.readouterr().out)["error"]
        assert error["exit_code"] == 2
        assert error["message"] in plain.err


@pytest.mark.parametrize(
    "words", [["schema"], ["schema", "jobs"], ["schema", "job", "x"], ["schema", "--x"]], ids=" ".join
)
def test_a_usage_error_is_one_line_and_its_remedy(capsys, words):
    assert entry.run(words) == ExitCode.USAGE
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("error: ")
    assert first.endswith(" [USAGE]")
    assert "\t" not in first
    if words in (["schema"], ["schema", "jobs"]):
        assert "policy" in first
    assert second == "  `finetree schema --help` shows its use"


@pytest.mark.parametrize(("words", "known"), [([], "estimate, check"), (["prices"], "list"), (["jobs"], "list, logs")])
def test_a_command_that_is_only_begun_names_what_may_follow(capsys, words, known):
    assert entry.run(words) == ExitCode.USAGE
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith(f"error: {' '.join(['finetree', *words])} needs a command: ")
    assert known in first
    assert "--help" in second


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["recommend", "--deadline", "8"], "--max-duration"),
        (["recommend", "--accelerator", "rtx-4090"], "--gpu"),
        (["recommend", "--gpus", "2"], "--devices"),
        (["check", "--accelerator", "rtx-4090"], "--gpu"),
        (["check", "--count", "2"], "--devices"),
        (["estimate", "--accelerators", "l4,h100"], "--gpus"),
        (["prices", "list", "--accelerator", "l4"], "--gpu"),
        (["recommend", "--rows", "8"], "--examples"),
        (["check", "--deadline", "8"], "--max-hours"),
    ],
)
def test_an_option_of_another_command_is_answered_with_the_one_that_is_meant(capsys, words, meant):
    assert entry.run(words) == ExitCode.USAGE
    option = next(word for word in words if word.startswith("--"))
    assert f"No such option '{option}'. Did you mean '{meant}'?" in capsys.readouterr().err


def test_an_unexpected_error_is_70_with_an_id_and_no_stack(monkeypatch, capsys):
    monkeypatch.setattr("finetree_cli.options.command.Settings.client", lambda _: 1 / 0)
    monkeypatch.delenv("FINETREE_DEBUG", raising=False)
    assert entry.run(["capacity"]) == ExitCode.INTERNAL
    err = capsys.readouterr().err
    assert "ZeroDivisionError" in err
    assert "error id" in err
    assert "Traceback" not in err
    monkeypatch.setenv("FINETREE_DEBUG", "1")
    assert entry.run(["capacity"]) == ExitCode.INTERNAL
    assert "Traceback" in capsys.readouterr().err


def test_ctrl_c_is_130(monkeypatch, capsys):
    def interrupted(_) -> Never:
        raise KeyboardInterrupt

    monkeypatch.setattr("finetree_cli.options.command.Settings.client", interrupted)
    assert entry.run(["capacity"]) == ExitCode.INTERRUPTED
    assert capsys.readouterr().err.strip() == "error: interrupted [INTERRUPTED]"


def test_a_reader_that_went_away_is_no_error():
    code = "from finetree_cli.__main__ import main; main(['--help'])"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    _, err = process.communicate(timeout=60)
    assert process.returncode == entry.SIGPIPE_EXIT
    assert err == b""
