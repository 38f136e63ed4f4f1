# SPDX-License-Identifier: Apache-2.0
"""Certificates by their dates, files with secrets by their mode."""

from datetime import UTC, datetime

import pytest
from click.testing import CliRunner
from finetree_cli.app import cli
from finetree_cli.doctor.credentials import dated, private
from finetree_cli.doctor.finding import Level

CERTIFICATE = {
    "notBefore": "Nov  1 00:00:00 2026 GMT",
    "notAfter": "Dec 31 00:00:00 2026 GMT",
    "subjectAltName": (("DNS", "finetree.example.com"),),
}


@pytest.mark.parametrize(
    ("month", "day", "level"),
    [(10, 1, Level.PROBLEM), (11, 2, Level.OK), (12, 20, Level.WARNING), (12, 31, Level.PROBLEM)],
)
def test_a_certificate_is_judged_by_its_dates(month, day, level):
    found = dated("host:443", CERTIFICATE, datetime(2026, month, day, tzinfo=UTC))
    assert found.level is level
    assert "finetree.example.com, until 2026-12-31" in found.found


def test_a_file_with_secrets_is_its_owners_alone(tmp_path):
    file = tmp_path / "access.json"
    file.write_text("{}")
    file.chmod(0o640)
    assert private("access file", file.stat(), "chmod 600 access.json").level is Level.PROBLEM
    file.chmod(0o600)
    assert private("access file", file.stat(), "").level is Level.OK


def test_an_access_folder_without_a_file_and_a_damaged_one_are_problems(tmp_path):
    words = ["doctor", "--only", "credentials", "--access-dir", str(tmp_path)]
    assert "there is no access file" in CliRunner().invoke(cli, words).output
    (tmp_path / "access.json").write_text("{")
    assert "it is no JSON" in CliRunner().invoke(cli, words).output


def test_a_server_without_tls_is_a_problem_where_the_settings_say_tls():
    words = ["doctor", "--only", "credentials", "--address", "https://127.0.0.1:1"]
    assert "problem  credentials 127.0.0.1:1: no TLS connection" in CliRunner().invoke(cli, words).output


def test_no_certificate_is_looked_for_where_a_token_goes_to_this_machine_in_plain_text(monkeypatch):
    monkeypatch.setenv("FINETREE_TOKEN", "ft_secret")
    words = ["doctor", "--only", "credentials", "--address"]
    assert "no TLS connection" not in CliRunner().invoke(cli, [*words, "127.0.0.1:1"]).output
    assert "no TLS connection" in CliRunner().invoke(cli, [*words, "finetree.invalid:1"]).output


def test_certificates_of_a_private_authority_are_checked(tmp_path):
    pytest.importorskip("cryptography")
    CliRunner().invoke(cli, ["tls", "init", str(tmp_path), "--name", "localhost"], catch_exceptions=False)
    words = ["doctor", "--only", "credentials", "--certificate", str(tmp_path), "--json"]
    assert CliRunner().invoke(cli, words, catch_exceptions=False).exit_code == 0
    (tmp_path / "server.key").chmod(0o644)
    assert "server.key can be read by other users" in CliRunner().invoke(cli, words).output
