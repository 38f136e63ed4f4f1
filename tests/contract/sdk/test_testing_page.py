# SPDX-License-Identifier: Apache-2.0
"""The snippets of docs/testing-with-finetree.md, as a test module of a program that uses the SDK."""

import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parents[3] / "docs/testing-with-finetree.md"


def test_every_snippet_of_the_page_passes(tmp_path):
    snippets = re.findall(r"(?ms)^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"))
    tests = sum(snippet.count("def test_") for snippet in snippets)
    assert tests >= 5
    (tmp_path / "test_page.py").write_text("\n\n".join(snippets), encoding="utf-8")
    plugin = ["-p", "no:finetree", "-p", "finetree.testing.plugin", "-p", "no:xdist"]
    command = [sys.executable, "-m", "pytest", "-q", *plugin, "--rootdir", str(tmp_path), str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert f"{tests} passed" in ran.stdout
