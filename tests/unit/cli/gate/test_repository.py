# SPDX-License-Identifier: Apache-2.0
"""Where a repository's files are looked for: upwards, and never above its top."""

import pytest
from finetree_cli.gate.repository import find_upwards

FILE = ".finetree/lock.json"


@pytest.mark.parametrize(
    ("place", "git", "found"),
    [
        (".", ".", "../../.finetree/lock.json"),
        ("a", ".", "../.finetree/lock.json"),
        ("a/b", ".", ".finetree/lock.json"),
        (".", "a", None),
        (".", None, None),
        ("a/b", None, ".finetree/lock.json"),
    ],
)
def test_a_file_is_looked_for_up_to_the_top_of_the_repository(tmp_path, monkeypatch, place, git, found):
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / place / ".finetree").mkdir()
    (tmp_path / place / FILE).touch()
    if git is not None:
        (tmp_path / git / ".git").write_text("gitdir: elsewhere\n", encoding="utf-8")
    assert find_upwards(FILE, folder=tmp_path / "a/b") == found
    monkeypatch.chdir(tmp_path / "a/b")
    assert find_upwards(FILE) == found
