# SPDX-License-Identifier: Apache-2.0
"""What docs/recommendations.md rests on: tests that exist, flags that exist, and rules that are in a pack."""

import re
from pathlib import Path

import click
import pytest
from finetree_cli.commands.recommend import recommend
from finetree_recommender.rule_pack.pack import builtin_packs

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "docs" / "recommendations.md").read_text(encoding="utf-8")
COMMANDS = [
    line.split("-->")[0].split(" | ")[0].split()[2:] for line in TEXT.splitlines() if "output: finetree" in line
]


def test_every_test_that_the_page_names_exists():
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", TEXT)
    assert len(named) > 20
    for path, test in named:
        code = (ROOT / "tests" / path).read_text(encoding="utf-8")
        assert re.search(rf"^(async )?def {test}\(", code, re.MULTILINE), test


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_of_the_page_parses(words):
    assert words[1] == "recommend"
    recommend.make_context("recommend", words[2:], resilient_parsing=False)


def test_every_flag_that_the_page_names_exists():
    known = {name for parameter in recommend.params if isinstance(parameter, click.Option) for name in parameter.opts}
    named = set(re.findall(r"`(--[a-z-]+)", TEXT)) - {"--rule-pack-dir", "--once"}
    assert named <= known


def test_every_pack_that_the_page_names_is_there():
    assert set(re.findall(r"`((?:playbook|evidence)-\d+)`", TEXT)) == set(builtin_packs())
