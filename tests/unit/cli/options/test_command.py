# SPDX-License-Identifier: Apache-2.0
"""The shared options of all commands."""

from typing import Never

from finetree_cli import __main__ as entry


def test_the_nearest_shared_option_wins(monkeypatch, capsys):
    seen = {}

    def client(settings) -> Never:
        seen.update(trainer=settings.trainer, json=settings.out.json)
        raise RuntimeError("stop here")

    monkeypatch.setattr("finetree_cli.options.command.Settings.client", client)
    entry.run(["--trainer", "a:1", "--json", "jobs", "--trainer", "b:2", "show", "x", "--trainer", "c:3"])
    assert seen == {"trainer": "c:3", "json": True}
    capsys.readouterr()


def test_the_help_lists_options_by_their_section_and_each_once(capsys):
    for command in ("check", "estimate", "recommend"):
        assert entry.run([command, "--help"]) == 0
        out = capsys.readouterr().out
        titles = [line for line in out.splitlines() if line.endswith(":") and not line.startswith(" ")]
        assert titles[-3:] == ["Options:", "Options of every command:", "Examples:"]
        assert len(titles) >= 8
        listed = [words[0] for line in out.partition("Examples:")[0].splitlines() if (words := line.split())]
        options = [word for word in listed if word.startswith("--")]
        assert len(options) == len(set(options)) >= 30
