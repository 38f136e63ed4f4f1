# SPDX-License-Identifier: Apache-2.0
"""The tree of commands: help, examples and shared options."""

import re
import shlex
from contextlib import suppress
from pathlib import Path

import click
import pytest
from finetree_cli.app import cli
from finetree_cli.errors import EXIT_CODES
from finetree_cli.options.command import SHARED
from finetree_cli.options.types import Duration

ROOT = Path(__file__).resolve().parents[3]


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
        words = shlex.split(re.split(r" \| | && | > ", example)[0])
        assert words[0] == "finetree"
        assert tuple(words[1 : 1 + len(path)]) == path, "the example is of another command"
        resolve(words[1:])


def test_every_timeout_is_written_with_its_unit():
    options = [option for command in ALL.values() for option in command.params if "--timeout" in option.opts]
    assert len(options) > 5
    assert all(isinstance(option.type, Duration) for option in options)


PAGES = [path.relative_to(ROOT).as_posix() for path in (ROOT / "README.md", *ROOT.glob("docs/**/*.md"))]


TYPED = {"README.md": 9, "docs/ci-gate.md": 5, "docs/examples/README.md": 3, "docs/models.md": 5}
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
        # A command, or a group of them, that is only named.
        with suppress(click.MissingParameter, click.exceptions.NoArgsIsHelpError):
            resolve(shlex.split(line, comments=True)[1:])


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_every_command_takes_the_shared_options(path):
    assert {parameter.name for parameter in ALL[path].params} >= SHARED
