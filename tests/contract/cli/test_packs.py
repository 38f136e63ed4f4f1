# SPDX-License-Identifier: Apache-2.0
"""`finetree packs` without a server: the recommender's own program checks a pack file."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from finetree_cli import __main__ as entry

HOUSE = 'id: house\ndate: "2026-01-02"\ntitle: House\nextends: playbook-1\n'


def finetree(*words: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "finetree_cli", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def here(capsys):
    """`here(*words)`: what `finetree` gives, in this process; the recommender's program is one of its own."""

    def run(*words: str) -> SimpleNamespace:
        code = entry.run(list(words))
        out, err = capsys.readouterr()
        return SimpleNamespace(returncode=code, stdout=out, stderr=err)

    return run


@pytest.fixture
def pack(tmp_path) -> Path:
    path = tmp_path / "house.yaml"
    path.write_text(HOUSE, encoding="utf-8")
    return path


def test_a_valid_pack_is_shown_with_its_hash(pack):
    ran = finetree("packs", "check", str(pack), "--json")
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert (found["id"], found["extends"]) == ("house", "playbook-1")
    assert len(found["sha256"]) == 64


def test_a_broken_pack_ends_with_2_and_names_line_and_rule(pack, here):
    pack.write_text(HOUSE + "cautions:\n  - {id: ours, method: FULL, when: {}, message: m}\n", encoding="utf-8")
    ran = here("packs", "check", str(pack))
    assert ran.returncode == 2
    assert "house.yaml: line 6: rule ours: " in ran.stderr
    assert not ran.stdout


def test_a_pack_may_extend_one_beside_it(pack, tmp_path, here):
    folder = tmp_path / "packs"
    folder.mkdir()
    (folder / "base.yaml").write_text(HOUSE.replace("id: house", "id: base"), encoding="utf-8")
    pack.write_text(HOUSE.replace("playbook-1", "base"), encoding="utf-8")
    assert here("packs", "check", str(pack)).returncode == 2
    assert here("packs", "check", str(pack), "--beside", str(folder)).returncode == 0
