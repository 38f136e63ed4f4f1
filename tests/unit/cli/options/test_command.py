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
