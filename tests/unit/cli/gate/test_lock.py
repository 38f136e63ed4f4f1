# SPDX-License-Identifier: Apache-2.0
"""The lock file: what differs from it is named, and nothing else is."""

import dataclasses
from pathlib import Path

import pytest
from finetree_cli.errors import BadInput, NotAvailable
from finetree_cli.gate import lock as locks
from finetree_cli.gate.report import Component, Cost, Figures, PlanEntry, Revisions
from finetree_cli.output import Output
from finetree_cli.render.gate import lock as text


def component(name: str, letter: str = "a") -> Component:
    return Component(id=name, sha256=letter * 64, date="2026-07-01")


REVISIONS = Revisions(
    engine=component("engine-1"), catalog=component("catalog-1"), price_book=component("prices-1"), calibration=None
)
PACKS = (component("playbook-1"), component("evidence-1", "b"))
JOB = PlanEntry(
    file="a.yaml",
    file_sha256="c" * 64,
    verdict="PASS",
    passed=True,
    cost=Cost(low=1, expected=2, high=3, currency_code="USD"),
)
LOCK = locks.make_lock(REVISIONS, PACKS, [JOB])


def test_the_text_gives_the_same_lock_back(tmp_path):
    (tmp_path / "lock.json").write_text(LOCK.to_text(), encoding="utf-8")
    assert locks.read_lock(tmp_path / "lock.json") == LOCK
    assert [pack.id for pack in LOCK.packs] == ["evidence-1", "playbook-1"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({}, []),
        ({"engine": component("engine-2")}, []),  # the same content
        ({"engine": component("engine-2", "d")}, ["engine engine-1 → engine-2"]),
        ({"price_book": component("prices-1", "d")}, ["price_book prices-1 (aaaaaaaaaaaa) → prices-1 (dddddddddddd)"]),
        ({"calibration": component("calibration-9")}, ["calibration none → calibration-9"]),
        ({"catalog": None}, ["catalog catalog-1 → none"]),
    ],
    ids=str,
)
def test_what_differs_is_named_before_and_after(change, named):
    present = dataclasses.replace(REVISIONS, **change)
    assert [str(drift) for drift in locks.drifts(LOCK, present)] == named
    if not named:
        locks.require_locked(LOCK, "lock.json", present, PACKS)
        return
    with pytest.raises(NotAvailable) as refused:
        locks.require_locked(LOCK, "lock.json", present)
    assert refused.value.reason == "LOCK_DRIFT"
    assert named[0] in refused.value.message


def test_packs_are_compared_where_they_are_given():
    present = (component("playbook-1", "e"), component("house-1"))
    assert [str(drift) for drift in locks.drifts(LOCK, REVISIONS, present)] == [
        "pack evidence-1 evidence-1 → none",
        "pack house-1 none → house-1",
        "pack playbook-1 playbook-1 (aaaaaaaaaaaa) → playbook-1 (eeeeeeeeeeee)",
    ]
    assert locks.drifts(LOCK, REVISIONS) == []


@pytest.mark.parametrize(
    ("content", "reason", "problem"),
    [
        (None, "LOCK_FILE_UNREADABLE", "No such file"),
        ("{", "LOCK_FILE_INVALID", "Expecting"),
        ('{"lock_version": 7}', "LOCK_FILE_INVALID", "lock_version: is 7"),
        ('{"engine": {"id": "a"}}', "LOCK_FILE_INVALID", "engine.sha256: is missing"),
    ],
    ids=["none", "cut", "newer", "torn"],
)
def test_a_file_that_is_no_lock_is_refused(tmp_path, content, reason, problem):
    if content is not None:
        (tmp_path / "lock.json").write_text(content, encoding="utf-8")
    with pytest.raises(BadInput, match=problem) as refused:
        locks.read_lock(tmp_path / "lock.json")
    assert refused.value.reason == reason


def test_the_lock_of_the_repository_is_found_from_its_folders_and_written_beside_the_policy(tmp_path, monkeypatch):
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / ".git").mkdir()
    monkeypatch.chdir(tmp_path / "a/b")
    assert locks.place_of_lock() == ".finetree/lock.json"
    with pytest.raises(BadInput, match=r"no \.finetree/lock\.json in the current folder or one around it") as refused:
        locks.require_lock_file(None)
    assert refused.value.reason == "LOCK_FILE_UNREADABLE"
    (tmp_path / ".finetree").mkdir()
    assert locks.place_of_lock() == "../../.finetree/lock.json"
    (tmp_path / ".finetree/lock.json").touch()
    assert locks.require_lock_file(None) == "../../.finetree/lock.json"
    assert locks.require_lock_file("mine.json") == "mine.json"


@pytest.mark.parametrize(
    ("file", "root"), [("../.finetree/lock.json", ".."), (".finetree/lock.json", "."), ("x/lock.json", ".")]
)
def test_jobs_are_named_from_the_folder_around_dot_finetree(file, root):
    assert locks.root_of(file) == Path(root)


def effect(before: Figures | None, after: Figures, *, edited: bool = False) -> list[str]:
    def lock(figures: Figures, letter: str) -> locks.Lock:
        job = locks.LockedJob(file="a.yaml", file_sha256=letter * 64, figures=figures)
        return dataclasses.replace(LOCK, jobs=(job,))

    found = text.document(
        "lock.json",
        lock(before, "a") if before is not None else None,
        lock(after, "b" if edited else "a"),
        found=[],
        written=True,
    )
    assert found["jobs"][0]["file_changed"] is (edited and before is not None)
    return text.effects(lock(before, "a") if before is not None else None, lock(after, "b" if edited else "a"))


def test_an_upgrade_shows_what_each_job_takes_before_and_after():
    cheap, dear = (Figures(cost=Cost(low=1, expected=cost, high=99, currency_code="USD")) for cost in (2, 3))
    assert effect(None, cheap) == ["a.yaml: new, $2.00"]
    assert effect(cheap, cheap) == ["a.yaml: unchanged, $2.00"]
    assert effect(cheap, dear) == ["a.yaml: $2.00 → $3.00"]
    assert effect(dear, Figures(), edited=True) == ["a.yaml: $3.00 → unknown (the job file has changed too)"]
    gone = text.effects(LOCK, dataclasses.replace(LOCK, jobs=()))
    assert gone == ["a.yaml: no longer there"]


def test_the_text_names_every_component_of_a_new_lock(capsys):
    text.show(Output(), None, LOCK, found=[])
    out = capsys.readouterr().out
    assert all(name in out for name in ("engine engine-1", "prices-1 (aaaa", "pack evidence-1 (bbbb", "a.yaml: new"))
