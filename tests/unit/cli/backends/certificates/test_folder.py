# SPDX-License-Identifier: Apache-2.0
"""A folder with a private authority: what is made, what stays, what is renewed."""

import datetime as dt
import json
from typing import Any

import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from finetree_cli.app import cli
from finetree_cli.backends.certificates import authority as issue
from finetree_cli.backends.certificates.describe import describe
from finetree_cli.backends.certificates.folder import init, renew
from finetree_cli.errors import BadInput

HOSTS = ["finetree.example.com", "10.0.0.7", "::1", "*.example.com"]


def certificate(path):
    return x509.load_pem_x509_certificate(path.read_bytes())


def extension(found, kind):
    return found.extensions.get_extension_for_class(kind)


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "tls"
    init(made, HOSTS, ["ci", "spiffe://example.com/team/trainer"], 30)
    return made


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_everything_is_made_with_its_mode(folder):
    modes = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}
    names = ["ca", "client-ci", "client-example.com-team-trainer", "server"]
    assert modes == {f"{name}.key": 0o600 for name in names} | {f"{name}.pem": 0o644 for name in names}
    assert folder.stat().st_mode & 0o777 == 0o700


def test_the_authority_signs_certificates_and_nothing_else(folder):
    found = certificate(folder / "ca.pem")
    basic, usage = extension(found, x509.BasicConstraints), extension(found, x509.KeyUsage)
    assert (basic.critical, basic.value.ca, basic.value.path_length) == (True, True, 0)
    assert (usage.critical, usage.value.key_cert_sign, usage.value.digital_signature) == (True, True, False)


def test_a_servers_certificate_is_for_its_names(folder):
    found = certificate(folder / "server.pem")
    assert [str(name.value) for name in extension(found, x509.SubjectAlternativeName).value] == HOSTS
    assert list(extension(found, x509.ExtendedKeyUsage).value) == [ExtendedKeyUsageOID.SERVER_AUTH]
    assert not extension(found, x509.BasicConstraints).value.ca
    assert extension(found, x509.KeyUsage).value.digital_signature
    days = (found.not_valid_after_utc - dt.datetime.now(dt.UTC)).total_seconds() / 86400
    assert 29.9 < days <= 30


def test_a_clients_certificate_is_of_its_name(folder):
    plain, spiffe = certificate(folder / "client-ci.pem"), certificate(folder / "client-example.com-team-trainer.pem")
    assert plain.subject.rfc4514_string() == "CN=ci"
    names = extension(spiffe, x509.SubjectAlternativeName)
    assert [name.value for name in names.value] == ["spiffe://example.com/team/trainer"]
    assert names.critical, "there is no subject beside it"
    for found in (plain, spiffe):
        assert list(extension(found, x509.ExtendedKeyUsage).value) == [ExtendedKeyUsageOID.CLIENT_AUTH]


def test_init_adds_and_never_overwrites(folder):
    before = content(folder)
    changes = init(folder, HOSTS[:1], ["ci", "bob"], 30)
    assert [(change.path.name, change.made) for change in changes] == [
        ("ca.pem", False),
        ("server.pem", False),
        ("client-ci.pem", False),
        ("client-bob.pem", True),
    ]
    after = content(folder)
    assert {name: after[name] for name in before} == before
    with pytest.raises(BadInput, match=r"is for finetree.example.com, .* not for other.example"):
        init(folder, ["other.example"], [], 30)
    assert content(folder) == after


def test_a_run_that_was_killed_between_key_and_certificate_is_completed(folder):
    key = (folder / "server.key").read_bytes()
    (folder / "server.pem").unlink()
    init(folder, HOSTS, [], 30)
    assert (folder / "server.key").read_bytes() == key
    assert [each.problem for each in describe(folder)] == [""] * 4


def test_renew_makes_new_keys_for_the_same_names(folder):
    before, shown = content(folder), {each.file: each for each in describe(folder)}
    assert all(change.made for change in renew(folder, 60, None))
    after = {each.file: each for each in describe(folder)}
    assert {file: (each.names, each.subject, each.use) for file, each in after.items()} == {
        file: (each.names, each.subject, each.use) for file, each in shown.items()
    }
    changed = {name for name, old in before.items() if content(folder)[name] != old}
    assert changed == before.keys() - {"ca.pem", "ca.key"}
    assert after["server.pem"].ends > shown["server.pem"].ends
    assert (folder / "server.key").stat().st_mode & 0o777 == 0o600


def test_renew_leaves_what_is_not_due_and_what_was_not_asked_for(folder):
    before = content(folder)
    assert not any(change.made for change in renew(folder, 60, 86400.0))
    assert content(folder) == before
    assert [change.path.name for change in renew(folder, 60, None, ["ci"])] == ["client-ci.pem"]
    with pytest.raises(BadInput, match=r"no client-bob\.pem"):
        renew(folder, 60, None, ["bob"])


def test_a_certificate_ends_no_later_than_its_authority(tmp_path):
    now = dt.datetime.now(dt.UTC) - dt.timedelta(days=issue.AUTHORITY_DAYS - 5)
    signer = issue.make_authority(issue.new_key(), now)
    made = issue.make_server(issue.new_key(), ["localhost"], signer, dt.datetime.now(dt.UTC), 365)
    ends = [x509.load_pem_x509_certificate(each.certificate).not_valid_after_utc for each in (made, signer)]
    assert ends[0] == ends[1]


def test_another_authority_in_the_folder_is_refused(folder, tmp_path):
    init(tmp_path / "other", ["localhost"], [], 30)
    for name in ("ca.pem", "ca.key"):
        (folder / name).write_bytes((tmp_path / "other" / name).read_bytes())
    before = content(folder)
    for change in (lambda: init(folder, HOSTS, [], 30), lambda: renew(folder, 30, None)):
        with pytest.raises(BadInput, match=r"\.pem is not of the authority in ca\.pem"):
            change()
    assert content(folder) == before
    (folder / "ca.key").unlink()
    with pytest.raises(BadInput, match=r"no ca\.key"):
        init(folder, [], ["bob"], 30)


@pytest.mark.parametrize("host", ["", "a b", "https://x", "host:443", "-x", "*", "a..b", "x" * 64])
def test_what_is_no_host_is_refused(tmp_path, host):
    with pytest.raises(BadInput, match="neither a host name nor an IP address"):
        init(tmp_path / "tls", [host], [], 30)
    assert not (tmp_path / "tls").exists()


@pytest.mark.parametrize("client", ["", "a b", "../x", "x" * 65, "spiffe://", "spiffe://Upper/x", "ä"])
def test_what_is_no_client_is_refused(tmp_path, client):
    with pytest.raises(BadInput, match="--client"):
        init(tmp_path / "tls", [], [client], 30)


def test_show_tells_a_wrong_key_and_one_that_others_read(folder):
    (folder / "server.key").write_bytes((folder / "ca.key").read_bytes())
    (folder / "client-ci.key").chmod(0o644)
    problems = {each.file: each.problem for each in describe(folder) if each.problem}
    assert problems == {
        "server.pem": "server.key is not its key",
        "client-ci.pem": "client-ci.key can be read by other users",
    }


def test_the_commands_answer_in_json(tmp_path):
    def run(*words: str) -> Any:
        result = CliRunner().invoke(cli, ["tls", *words, "--json"], catch_exceptions=False)
        assert result.exit_code == 0
        return json.loads(result.stdout)

    folder = str(tmp_path / "tls")
    made = run("init", folder, "--name", "localhost", "--client", "ci", "--days", "90")
    assert [entry["made"] for entry in made["certificates"]] == [True] * 3
    shown = {entry["file"]: entry for entry in run("show", folder)["certificates"]}
    assert (shown["server.pem"]["use"], shown["server.pem"]["names"]) == ("server", ["localhost"])
    assert shown["server.pem"]["days_left"] == pytest.approx(90, abs=0.2)
    assert [entry["renewed"] for entry in run("renew", folder, "--within", "24h")["certificates"]] == [False, False]
