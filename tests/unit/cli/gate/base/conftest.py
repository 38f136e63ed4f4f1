# SPDX-License-Identifier: Apache-2.0
"""A git repository of the test's own, whatever git is configured to do on this machine."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def git(tmp_path, monkeypatch) -> Callable[..., str]:
    """`git(*words)`: run git in the current folder, an empty repository on the branch `main`."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    for who in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{who}_NAME", "ada")
        monkeypatch.setenv(f"GIT_{who}_EMAIL", "ada@example.org")

    def run(*words: str) -> str:
        done = subprocess.run(["git", *words], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    folder = tmp_path / "repository"
    folder.mkdir()
    monkeypatch.chdir(folder)
    run("init", "--quiet", "--initial-branch=main")
    return run


@pytest.fixture
def commit(git) -> Callable[..., None]:
    """`commit(**files)`: write files (None removes one; a slash is written `__` in no name: use a dict) and commit."""

    def save(files: dict[str, str | None]) -> None:
        for name, text in files.items():
            path = Path(name)
            if text is None:
                path.unlink()
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        git("add", "--all")
        git("commit", "--quiet", "--message", "a change")

    return save
