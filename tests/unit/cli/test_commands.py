# SPDX-License-Identifier: Apache-2.0
"""The tree of commands: help, examples, shared options, and what importing it costs."""

import json
import re
import shlex
import subprocess
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Never

import click
import pytest
from finetree_api.recommender.v1 import recommender_pb2
from finetree_cli import __main__ as entry
from finetree_cli.app import cli
from finetree_cli.commands import recommend, up
from finetree_cli.errors import EXIT_CODES, BadInput, ExitCode
from finetree_cli.options import spec as spec_flags
from finetree_cli.options.command import SHARED

ROOT = Path(__file__).resolve().parents[3]
HEAVY = {"grpc", "google.protobuf", "rich", "yaml", "finetree_api", "pycountry", "asyncio", "importlib.metadata"}


def leaves(command: click.Command, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], click.Command]:
    """Every command by its words, groups included."""
    found = {path: command}
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            found |= leaves(child, (*path, name))
    return found


ALL = leaves(cli)


def resolve(words: list[str]) -> None:
    """Parse a command line down to its last command, without running anything."""
    command: click.Command = cli
    context = command.make_context("finetree", list(words))
    while isinstance(command, click.Group):
        rest = [*context._protected_args, *context.args]
        name, child, rest = command.resolve_command(context, rest)
        assert child is not None
        context = child.make_context(name, list(rest), parent=context)
        command = child


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_every_command_has_help_with_examples_that_parse(path):
    command = ALL[path]
    context = click.Context(command, info_name="finetree " + " ".join(path))
    text = command.get_help(context)
    assert " ".join(EXIT_CODES.split()) in " ".join(text.split())
    assert command.examples, "a command without an example"
    for example in command.examples:
        assert example in text
        words = shlex.split(example.split(" | ")[0])
        assert words[0] == "finetree"
        assert tuple(words[1 : 1 + len(path)]) == path, "the example is of another command"
        resolve(words[1:])


PAGES = [path.relative_to(ROOT).as_posix() for path in (ROOT / "README.md", *ROOT.glob("docs/**/*.md"))]
TYPED = {"README.md": 12, "docs/ci-gate.md": 5, "docs/examples/README.md": 3, "docs/models.md": 5}
"""How many command lines a page has at least; others may have none."""


def command_lines(page: Path) -> list[str]:
    """What a page says to type: in blocks of code from the beginning of a line or behind a prompt, and in `words`."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"^```.*?^```", text, flags=re.DOTALL | re.MULTILINE)
    typed = [
        found
        for block in blocks
        for found in re.findall(r"^ *(?:\$ |- (?:run: )?)?(finetree .*)$", block, re.MULTILINE)
    ]
    named = re.findall(r"`(finetree [^`]+)`", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))
    return [re.split(r" [|>] ", line)[0] for line in typed + named]


@pytest.mark.parametrize("page", sorted(PAGES))
def test_every_command_line_of_a_page_parses(page):
    lines = command_lines(ROOT / page)
    assert len(lines) >= TYPED.get(page, 0)
    for line in lines:
        with suppress(click.MissingParameter):  # a command that is only named
            resolve(shlex.split(line, comments=True)[1:])


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_every_command_takes_the_shared_options(path):
    assert {parameter.name for parameter in ALL[path].params} >= SHARED


def test_help_imports_nothing_heavy():
    code = (
        "import sys\n"
        "from finetree_cli.__main__ import run\n"
        "code = run(['--help'])\n"
        f"loaded = sorted(name for name in {sorted(HEAVY)!r} if name in sys.modules)\n"
        "print(code, loaded, file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert done.stderr.strip() == "0 []"
    assert "recommend" in done.stdout


@pytest.mark.parametrize(
    ("words", "enum", "prefix"),
    [
        (recommend.QUALITY, recommender_pb2.QualityNeed, "QUALITY_NEED_"),
        (recommend.TIME, recommender_pb2.TimeNeed, "TIME_NEED_"),
        (recommend.TASKS, recommender_pb2.TaskVariety, "TASK_VARIETY_"),
        (recommend.USE_CASE, recommender_pb2.UseCase, "USE_CASE_"),
        (recommend.TASK_KIND, recommender_pb2.TaskKind, "TASK_KIND_"),
        (recommend.PROFILE, recommender_pb2.RecipeProfile, "RECIPE_PROFILE_"),
        (recommend.BEHAVIOR, recommender_pb2.BehaviorChange, "BEHAVIOR_CHANGE_"),
        (recommend.EXPERIENCE, recommender_pb2.Experience, "EXPERIENCE_"),
        (recommend.SERVING, recommender_pb2.ServingTarget, "SERVING_TARGET_"),
        (recommend.PRIORITY, recommender_pb2.Priority, "PRIORITY_"),
    ],
)
def test_the_words_of_flags_are_those_of_the_contract(words, enum, prefix):
    names = {name.removeprefix(prefix).lower(): number for name, number in enum.items() if number}
    ours = {"many_different": "many", "llama_cpp": "llama.cpp"}
    names = {ours.get(name, name): number for name, number in names.items()}
    assert words == names


def test_the_nearest_shared_option_wins(monkeypatch, capsys):
    seen = {}

    def client(settings) -> Never:
        seen.update(trainer=settings.trainer, json=settings.out.json)
        raise RuntimeError("stop here")

    monkeypatch.setattr("finetree_cli.options.command.Settings.client", client)
    entry.run(["--trainer", "a:1", "--json", "jobs", "--trainer", "b:2", "show", "x", "--trainer", "c:3"])
    assert seen == {"trainer": "c:3", "json": True}
    capsys.readouterr()


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["fly"],
        ["recommend", "--deadline", "soon"],
        ["recommend", "--serve", "ollama,tgi"],
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
        ["recommend", "--model", "m", "--price", "p", "--tariff", "1"],
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


@pytest.mark.parametrize(("words", "known"), [([], "estimate, check"), (["prices"], "list"), (["jobs"], "logs, show")])
def test_a_command_that_is_only_begun_names_what_may_follow(capsys, words, known):
    assert entry.run(words) == ExitCode.USAGE
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith(f"error: {' '.join(['finetree', *words])} needs a command: ")
    assert known in first
    assert "--help" in second


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
    _, err = process.communicate(timeout=30)
    assert process.returncode == entry.SIGPIPE_EXIT
    assert err == b""


def test_ports():
    assert up.Ports().convert("auto", None, None) == {"estimator": 0, "recommender": 0, "trainer": 0}
    assert up.Ports().convert("1,2,3", None, None) == {"recommender": 1, "estimator": 2, "trainer": 3}


@pytest.mark.parametrize(
    ("name", "source", "revision"),
    [("llama-3.1-8b", "name", ""), ("org/model", "hub", ""), ("org/model@v2", "hub", "v2")],
)
def test_a_model_is_named_by_catalogue_or_hub(name, source, revision):
    model = spec_flags.model_source(name)
    assert model.WhichOneof("source") == source
    assert model.hub.revision == revision


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"count": 4}, "--gpus says how many"),
        ({"cpu": True, "count": 4}, "--gpus says how many"),
        ({"cores": 8, "memory_gb": 64}, "--cores and --memory-gb describe a machine"),
        ({"gpu": "t4", "memory_gb": 64}, "--memory-gb describes a machine"),
        ({"tokens": 9}, "--tokens goes with --examples"),
        ({"target_fraction": 0.5}, "--target-fraction goes with --examples"),
        ({"currency": "EUR"}, "--currency is that of --tariff"),
    ],
)
def test_a_number_of_what_was_not_named_is_refused_rather_than_passed_over(flags, words):
    nobody: Any = None  # no server is asked
    if "currency" in flags:
        read = partial(spec_flags.ownership, None, None, 0.0, flags["currency"])
    elif flags.keys() & {"tokens", "target_fraction"}:
        read = partial(spec_flags.data, spec_flags.DataFlags(**flags), nobody)
    else:
        read = partial(spec_flags.hardware, spec_flags.HardwareFlags(**flags), nobody)
    with pytest.raises(BadInput, match=words):
        read()
