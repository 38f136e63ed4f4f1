# SPDX-License-Identifier: Apache-2.0
"""What is said of a data folder: of what the trainer's program found, and of a real folder."""

from datetime import UTC, datetime

import pytest
from click.testing import CliRunner
from finetree_cli.app import cli
from finetree_cli.doctor.data_folder import judged, permissions
from finetree_cli.doctor.finding import Level

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)
WHOLE = {
    "unfinished_restore": False,
    "in_use": True,
    "database": "ok",
    "jobs": 3,
    "schema_version": 5,
    "known_schema_version": 5,
    "torn": [],
    "missing": [],
    "missing_count": 0,
    "drafts": 0,
    "draft_bytes": 0,
    "update_time": "2026-11-28T11:59:00+00:00",
}


def levels(**changes: object) -> dict[str, Level]:
    return {each.name: each.level for each in judged(WHOLE | changes, NOW)}


def test_a_whole_folder_is_ok():
    assert set(levels().values()) == {Level.OK}


@pytest.mark.parametrize(
    ("changes", "name", "level"),
    [
        ({"database": "row 3 missing from index"}, "database", Level.PROBLEM),
        ({"unfinished_restore": True}, "restore", Level.PROBLEM),
        ({"schema_version": 4}, "schema", Level.WARNING),
        ({"torn": ["j1"]}, "logs", Level.PROBLEM),
        ({"missing": ["jobs/j1"], "missing_count": 1}, "files", Level.PROBLEM),
        ({"drafts": 2, "draft_bytes": 2**31}, "drafts", Level.WARNING),
        ({"update_time": "2026-11-28T13:00:00+00:00"}, "clock", Level.PROBLEM),
    ],
)
def test_what_is_wrong_is_named(changes, name, level):
    assert levels(**changes)[name] is level


def test_a_folder_that_others_can_read_is_a_warning_with_the_command(tmp_path):
    tmp_path.chmod(0o755)
    assert permissions(tmp_path).remedy == f"chmod 700 {tmp_path}"
    tmp_path.chmod(0o700)
    assert permissions(tmp_path).level is Level.OK
    # Workers of another user pass through, and see nothing of it.
    tmp_path.chmod(0o710)
    assert permissions(tmp_path).level is Level.OK
    tmp_path.chmod(0o750)
    assert permissions(tmp_path).level is Level.WARNING


def test_a_damaged_database_is_a_problem_and_the_exit_code_three(tmp_path):
    (tmp_path / "trainer").mkdir(mode=0o700)
    (tmp_path / "trainer" / "trainer.db").write_bytes(b"no database at all" * 1000)
    done = CliRunner().invoke(cli, ["doctor", "--data-dir", str(tmp_path), "--only", "data"])
    assert "problem  data database: the database is damaged: file is not a database" in done.output
    assert type(done.exception).__name__ == "GateFailed"


def test_a_folder_that_nobody_has_used_is_ok(tmp_path):
    done = CliRunner().invoke(cli, ["doctor", "--data-dir", str(tmp_path / "new"), "--only", "data", "--json"])
    assert done.exit_code == 0
    assert '"level": "ok"' in done.output
