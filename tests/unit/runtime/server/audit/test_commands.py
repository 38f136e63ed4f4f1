# SPDX-License-Identifier: Apache-2.0
"""Changes of the access file leave records, in a log that verifies, and never a token."""

import getpass
import json
from pathlib import Path
from typing import Any

import pytest
from finetree_cli.backends.audit.verify import verify
from finetree_runtime.server.access.__main__ import main
from finetree_runtime.server.audit.commands import NAME
from finetree_runtime.server.audit.files import AuditFiles


@pytest.fixture
def run(tmp_path, capsys):
    """Run a command on an access file in a folder; return its exit code and what it printed."""

    def command(*words: str) -> tuple[int, str, str]:
        code = main([words[0], f"--access-dir={tmp_path / 'access'}", *words[1:]])
        return code, *capsys.readouterr()

    return command


def records(audit: Path) -> list[dict[str, Any]]:
    assert verify(audit / NAME).fault is None
    files = sorted((audit / NAME).glob("*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]


def test_each_change_has_a_record_before_and_after_it(run, tmp_path):
    beside = tmp_path / "access/audit"
    beside.mkdir(parents=True)
    made = json.loads(run("create", "--project=search", "--role=train", "--", "ci")[1])
    assert run("revoke", "--", made["id"])[0] == 0
    assert run("grant", "--operator", "--", "certificate", "trainer")[0] == 0
    assert run("ungrant", "--", "certificate", "trainer")[0] == 0
    found = records(beside)
    assert [record["event"] for record in found] == ["begin", "call"] * 4
    methods = [record["method"].removeprefix("finetree tokens ") for record in found[1::2]]
    assert methods == ["create", "revoke", "grant", "ungrant"]
    assert {record["code"] for record in found[1::2]} == {"OK"}
    assert {record["principal"] for record in found} == {getpass.getuser()}
    created = found[1]
    assert created["resources"] == [f"tokens/{made['id']}", "principals/ci"]
    assert (created["roles"], created["operator"]) == ({"search": "train"}, False)
    assert found[0]["resources"] == ["principals/ci"]
    assert found[5]["resources"] == ["certificate/trainer"]
    assert made["token"] not in "".join(map(str, found))


def test_what_is_refused_is_told_and_a_token_in_the_place_of_a_name_is_not(run, tmp_path):
    audit = tmp_path / "elsewhere"
    assert run("create", "--no-audit", "--operator", "--", "ci")[0] == 0
    code, _, error = run("revoke", f"--audit-dir={audit}", "--", "tok_000000000000")
    assert (code, error.partition(":")[0]) == (2, "TOKEN_NOT_FOUND")
    secret = f"ft_{'a' * 49}"
    assert run("revoke", f"--audit-dir={audit}", "--", secret)[0] == 2
    found = records(audit)
    assert [(record["event"], record.get("reason")) for record in found[:2]] == [
        ("begin", None),
        ("call", "TOKEN_NOT_FOUND"),
    ]
    assert found[1]["code"] == "FAILED_PRECONDITION"
    assert secret not in "".join(map(str, found))


def test_nothing_changes_where_it_cannot_be_recorded(run, tmp_path):
    (tmp_path / "file").write_text("")
    code, answer, error = run("create", f"--audit-dir={tmp_path / 'file'}", "--operator", "--", "ci")
    assert (code, answer, error.partition(":")[0]) == (2, "", "AUDIT_DIR_UNUSABLE")
    assert not (tmp_path / "access").exists()
    assert run("create", f"--audit-dir={tmp_path / 'file'}", "--no-audit", "--operator", "--", "ci")[0] == 0


def test_without_audit_logs_of_services_there_is_none(run, tmp_path):
    assert run("create", "--operator", "--", "ci")[0] == 0
    assert not (tmp_path / "access/audit").exists()
    assert run("list")[0] == 0


def test_a_log_that_a_service_holds_is_another_one(run, tmp_path):
    audit = tmp_path / "access/audit"
    service = AuditFiles(audit / "finetree-trainer", 1000)
    assert run("create", "--operator", "--", "ci")[0] == 0
    service.close()
    assert len(records(audit)) == 2
