# SPDX-License-Identifier: Apache-2.0
"""The list of failure modes names tests that are there."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_every_test_that_the_failure_modes_name_exists():
    named = 0
    for line in (ROOT / "docs" / "failure-modes.md").read_text(encoding="utf-8").splitlines():
        file = None
        for path, test in re.findall(r"`([\w/]+\.py)?::(\w+)`", line):
            file = ROOT / "tests" / path if path else file
            assert file is not None, f"{test}: the first test of a row is named with its file"
            assert re.search(rf"^(async )?def {test}\(", file.read_text(encoding="utf-8"), re.MULTILINE), test
            named += 1
    assert named > 30
