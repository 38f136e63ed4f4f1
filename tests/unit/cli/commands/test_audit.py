# SPDX-License-Identifier: Apache-2.0
"""`finetree audit`: what it prints, and its exit codes."""

import json

import pytest
from click.testing import CliRunner
from finetree_cli.app import cli
from finetree_cli.errors import BadInput, GateFailed
from finetree_runtime.server.audit.files import AuditFiles

CREATE = {"event": "call", "time": "2020-11-28T20:00:00.000000Z", "principal": "ci", "peer": "ipv4:10.0.0.7:1"}
CREATE |= {"method": "/finetree_api.trainer.v1.TrainerService/CreateJob", "resources": ["projects/search/jobs/1"]}
CREATE |= {"code": "OK", "reason": ""}
DELETE = CREATE | {"principal": "eve\x1b[2J", "method": "/a.B/DeleteJob", "resources": ["projects/other/jobs/2"]}
DELETE |= {"code": "PERMISSION_DENIED", "reason": "ROLE_MISSING", "time": "2099-01-01T00:00:00.000000Z"}


@pytest.fixture
def folder(tmp_path):
    files = AuditFiles(tmp_path / "finetree-trainer", 10**6)
    files.append([CREATE, DELETE])
    files.close()
    return tmp_path


def run(*words: object):
    result = CliRunner().invoke(cli, ["audit", *map(str, words)], catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def log(folder):
    return folder / "finetree-trainer" / "audit-000000000001.jsonl"


def test_a_log_that_holds_is_ok_and_its_head_is_found_again(folder):
    (found,) = json.loads(run("verify", folder, "--json"))["logs"]
    assert (found["ok"], found["records"]) == (True, 2)
    assert "record 2" in run("verify", folder, "--expect-head", found["head"])
    assert "finetree-trainer: ok, 2 records in 1 file\n" in run("verify", folder)


def test_a_changed_record_is_named_with_its_place(folder):
    log(folder).write_bytes(log(folder).read_bytes().replace(b'"ci"', b'"me"'))
    with pytest.raises(GateFailed, match=r"record 1 was changed \(audit-000000000001.jsonl:1\)") as caught:
        run("verify", folder)
    assert caught.value.reason == "AUDIT_CHAIN_BROKEN"


def test_an_end_that_was_cut_off_shows_against_a_head_alone(folder):
    head = json.loads(run("verify", folder, "--json"))["logs"][0]["head"]
    log(folder).write_bytes(log(folder).read_bytes().splitlines(keepends=True)[0])
    assert "ok, 1 record in" in run("verify", folder)
    with pytest.raises(GateFailed, match="the end was cut off") as caught:
        run("verify", folder, "--expect-head", head)
    assert caught.value.reason == "AUDIT_HEAD_MISSING"


@pytest.mark.parametrize(
    ("options", "methods"),
    [
        ([], ["CreateJob", "DeleteJob"]),
        (["--principal", "ci"], ["CreateJob"]),
        (["--method", "DeleteJob"], ["DeleteJob"]),
        (["--project", "search"], ["CreateJob"]),
        (["--project", "sea"], []),
        (["--since", "1d"], ["DeleteJob"]),
    ],
    ids=" ".join,
)
def test_records_are_chosen_by_who_what_where_and_when(folder, options, methods):
    records = [json.loads(line) for line in run("show", folder, "--json", *options).splitlines()]
    assert [record["method"].rpartition("/")[2] for record in records] == methods


def test_a_record_is_one_line_for_people_without_control_characters(folder):
    text = run("show", folder)
    assert "ci CreateJob projects/search/jobs/1 OK from ipv4:10.0.0.7:1" in text
    assert "PERMISSION_DENIED ROLE_MISSING" in text
    assert "\x1b" not in text


@pytest.mark.parametrize("words", [["verify", "nowhere"], ["show", "nowhere"], ["verify", ".", "--expect-head", "abc"]])
def test_a_folder_or_hash_that_is_none_is_refused(words):
    with pytest.raises(BadInput):
        run(*words)
