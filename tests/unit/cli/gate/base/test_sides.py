# SPDX-License-Identifier: Apache-2.0
"""What a reader must know of two sides besides their jobs: rule packs that they lock otherwise."""

from typing import Any, cast

from finetree_cli.gate.base.sides import difference, no_limits
from finetree_cli.gate.check_jobs import Checks
from finetree_cli.gate.lock import make_lock
from finetree_cli.gate.report import Component, Revisions

UNREADABLE = "lora: {ranks: 1}\n"
"""A job that is refused before any estimator is asked."""


def locked(letter: str) -> str:
    return make_lock(Revisions(), [Component(id="evidence-1", sha256=letter * 64)], []).to_text()


def notes(base: str, head: str | None = None) -> tuple[str, ...]:
    policy = no_limits()
    checks = Checks(cast("Any", None), lambda _: policy, lambda job: cast("Any", job))
    return difference(base, head, [], checks=checks).notes


def test_rule_packs_that_are_locked_otherwise_are_told(commit):
    commit({"finetree.yaml": UNREADABLE, ".finetree/lock.json": locked("a")})
    commit({".finetree/lock.json": locked("b")})
    told = ("pack evidence-1 evidence-1 (aaaaaaaaaaaa) → evidence-1 (bbbbbbbbbbbb) in .finetree/lock.json: ",)
    assert tuple(note.removesuffix("recommendations may differ") for note in notes("HEAD~1")) == told
    assert tuple(note.removesuffix("recommendations may differ") for note in notes("HEAD~1", "HEAD")) == told
    assert notes("HEAD") == ()
    commit({".finetree/lock.json": None})
    assert notes("HEAD~1") == ()


def test_the_lock_of_the_repository_counts_in_its_folders_too(commit, monkeypatch):
    commit({"sub/finetree.yaml": UNREADABLE, ".finetree/lock.json": locked("a")})
    commit({".finetree/lock.json": locked("b")})
    monkeypatch.chdir("sub")
    assert len(notes("HEAD~1")) == len(notes("HEAD~1", "HEAD")) == 1
    commit({".finetree/lock.json": locked("c")})  # of the folder itself: the nearest counts
    assert "(aaaaaaaaaaaa) → evidence-1 (cccccccccccc)" in notes("HEAD~2")[0]
