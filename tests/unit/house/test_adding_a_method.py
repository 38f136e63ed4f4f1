# SPDX-License-Identifier: Apache-2.0
"""The page on adding a method names files that there are, and places in them that there are."""

import re
from pathlib import Path

from finetree_estimator.methods.base import Method
from finetree_estimator.methods.registry import METHODS

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/adding-a-method.md").read_text(encoding="utf-8")
ENTRIES = [line.split("|")[1:3] for line in PAGE.splitlines() if re.match(r"\| `[\w/.-]+/[\w.-]+` \|", line)]


def test_each_place_to_change_is_there():
    for file, words in ENTRIES:
        path = ROOT / file.strip(" `")
        if path.name == "ia3.py":
            names = {each.name for each in path.parent.iterdir()}
            assert {f"{method}.py" for method in METHODS} <= names, path.parent
            continue
        text = path.read_text(encoding="utf-8")
        for word in re.findall(r"`([A-Za-z_:]+)`", words):
            assert word in text or word == "Ia3", f"{path.name}: {word}"
    assert len(ENTRIES) >= 12


def test_the_page_has_every_question():
    answers = {name for name in vars(Method) if not name.startswith("_")} | set(Method.__annotations__)

    assert answers - {"name"} <= set(re.findall(r"`(\w+)`", PAGE))
