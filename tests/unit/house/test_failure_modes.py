# SPDX-License-Identifier: Apache-2.0
"""The pages that say what guards a promise name tests that are there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PAGES = {"docs/failure-modes.md": "tests/", "docs/guarantees.md": ""}
"""Pages that name tests, and where their paths begin."""


@pytest.mark.parametrize(("page", "base"), PAGES.items(), ids=PAGES.keys())
def test_every_test_that_a_page_names_exists(page, base):
    named = 0
    for line in (ROOT / page).read_text(encoding="utf-8").splitlines():
        file = None
        for path, test in re.findall(r"`([\w/]+\.py)?(?:::(\w+))?[^`]*`", line):
            if not path and not test:
                continue
            file = ROOT / base / path if path else file
            assert file is not None, f"{test}: the first test of a row is named with its file"
            assert file.is_file(), path
            if test:
                assert re.search(rf"^(async )?def {test}\(", file.read_text(encoding="utf-8"), re.MULTILINE), test
            named += 1
    assert named > 15


def test_every_promise_and_every_mistake_names_what_guards_it():
    for page in PAGES:
        rows = [line for line in (ROOT / page).read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
        unguarded = [row for row in rows if ".py" not in row and not re.match(r"\| (---|mistake|\|)", row)]
        assert not unguarded, page
