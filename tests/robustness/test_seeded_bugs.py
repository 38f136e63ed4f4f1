# SPDX-License-Identifier: Apache-2.0
"""The seeded bugs can be made: each patch fits the code of today, and the test that catches it exists."""

import importlib.util
import re
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def script():
    """The script beside this file."""
    spec = importlib.util.spec_from_file_location("seeded_bugs", HERE / "seeded_bugs.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_every_patch_fits_and_changes_one_file(tmp_path):
    bugs = script()
    found = bugs.seeded()
    assert len(found) >= 15
    bugs.copy(tmp_path)
    for bug in found:
        changed = re.findall(r"^\+\+\+ b/(.+)$", bug.patch.read_text(encoding="utf-8"), re.MULTILINE)
        assert len(changed) == 1, bug.name
        file = tmp_path / changed[0]
        whole = file.read_text(encoding="utf-8")
        bugs.apply(bug, tmp_path)
        assert file.read_text(encoding="utf-8") != whole, bug.name
        file.write_text(whole, encoding="utf-8")


def test_the_test_that_catches_a_bug_exists_and_the_page_names_both():
    page = (ROOT / "docs/guarantees.md").read_text(encoding="utf-8")
    for bug in script().seeded():
        file, _, name = bug.test.partition("::")
        assert re.search(rf"^(async )?def {name}\(", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE), bug.name
        assert f"| {bug.what.removesuffix('.')} | `{bug.test}` |" in page, bug.name
