# SPDX-License-Identifier: Apache-2.0
"""docs/examples is what the program prints: its words and rules exactly, its figures as of the day of writing."""

import re
import runpy
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(300)

PAGE = runpy.run_path(str(Path(__file__).with_name("examples_page.py")))
FOLDER, COMMANDS, outputs = PAGE["FOLDER"], list(PAGE["commands"]()), PAGE["outputs"]
FIGURE = re.compile(r"\b[0-9a-f]{12,}\b|-?\$?\d[\d.,]*(e-?\d+)?")
UNIT = re.compile(r"# (d|h|min|s|seconds|minutes|hours|days)\b")
RENEW = "run `python tests/integration/cli/examples_page.py` and look at the difference"


def words_of(text: str) -> list[str]:
    """The words without figures: these, and the breadth of a column, come from the estimator's constants."""
    plain = UNIT.sub("#", FIGURE.sub("#", re.sub("[─ \\n]+", " ", text)))
    return re.sub("(# )+", "# ", plain).split()


@pytest.mark.parametrize(("names", "words"), COMMANDS, ids=lambda value: value[0])
def test_an_example_is_what_its_command_prints(names, words):
    for name, text in outputs(names, words).items():
        kept = (FOLDER / name).read_text(encoding="utf-8")
        assert words_of(kept) == words_of(text), f"{name}: {RENEW}"


def test_every_example_has_its_command():
    named = {name for names, _ in COMMANDS for name in names}
    # The second one is of pull_request_page.py, the third of focus_check.py.
    of_another_page = {"README.md", "pull-request.md", "costs.csv"}
    found = {file.name for file in FOLDER.iterdir() if file.suffix not in (".py", ".pyc") and file.is_file()}
    assert named == found - of_another_page
