# SPDX-License-Identifier: Apache-2.0
"""Profiles through the command: made, chosen, shown with their origins, used, and repaired."""

import io
import json
import os
import stat
from pathlib import Path

import pytest
from finetree.config.keys import KEYS
from finetree.testing import Suite
from finetree_cli import __main__ as entry
from finetree_cli.commands.profile import set_values


@pytest.fixture
def home(monkeypatch, tmp_path) -> Path:
    for name in [name for name in os.environ if name.startswith("FINETREE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    return tmp_path / "finetree" / "config.toml"


@pytest.fixture
def finetree(home, capsys):
    def run(*words: str, code: int = 0) -> str:
        assert entry.run(list(words)) == code
        printed = capsys.readouterr()
        return printed.err if code else printed.out

    return run


def test_a_folder_that_cannot_be_made_is_an_error_and_no_bug(finetree, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", "/proc/self")
    said = finetree("profile", "set", "lab", "address=127.0.0.1:1", code=2)
    assert "/proc/self/finetree/config.toml cannot be written: " in said
    assert "XDG_CONFIG_HOME names another folder" in said


def test_a_profile_is_made_chosen_and_used(finetree, home, tmp_path):
    (tmp_path / "train.jsonl").write_bytes(b'{"prompt": "a", "completion": "b"}\n')
    with Suite() as suite:
        finetree("profile", "set", "lab", f"address={suite.address}", "project=search")
        finetree("profile", "use", "lab")
        uploaded = json.loads(finetree("datasets", "upload", str(tmp_path / "train.jsonl"), "--json"))
        assert uploaded["name"].startswith("projects/search/datasets/")
    assert finetree("config", "path").strip() == str(home)


def test_an_address_in_a_profile_is_asked_rather_than_the_installed_service(finetree):
    finetree("profile", "set", "lab", "estimator_address=127.0.0.1:1")
    assert "nothing listens at 127.0.0.1:1" in finetree("gpus", "--profile", "lab", code=5)


def test_every_setting_is_shown_with_its_origin_and_without_its_secret(finetree, home, monkeypatch):
    finetree("profile", "set", "lab", "address=lab:1", "token=geheim", "timeout=7")
    monkeypatch.setenv("FINETREE_PROJECT", "search")
    words = ("config", "show", "--origin", "--profile", "lab", "--trainer", "127.0.0.1:9")
    shown = json.loads(finetree(*words, "--json"))
    assert {key: each["origin"] for key, each in shown["settings"].items()} == {
        "profile": "--profile",
        "recommender_address": f"{home}:2",
        "estimator_address": f"{home}:2",
        "trainer_address": "--trainer",
        "project": "FINETREE_PROJECT",
        "token": f"{home}:3",
        "timeout": f"{home}:4",
    }
    assert shown["services"]["estimator"] == {"address": "lab:1", "tls": True, "token_sent": True}
    assert shown["services"]["trainer"] == {"address": "127.0.0.1:9", "tls": False, "token_sent": False}
    text = finetree(*words)
    assert f"{home}:4" in text
    assert "estimator: lab:1 with TLS, with the token" in text
    assert "geheim" not in text + json.dumps(shown) + finetree("profile", "list") + finetree(
        "profile", "list", "--json"
    )
    assert str(home) not in finetree("config", "show", "--profile", "lab")


def test_with_a_token_and_no_project_the_project_is_the_tokens(finetree):
    finetree("profile", "set", "lab", "address=lab:1", "token=geheim")
    shown = json.loads(finetree("config", "show", "--profile", "lab", "--json"))["settings"]
    assert shown["project"] == {"value": "", "origin": "token"}
    elsewhere = json.loads(finetree("config", "show", "--profile", "lab", "--address", "127.0.0.1:9", "--json"))
    assert elsewhere["settings"]["project"] == {"value": "default", "origin": "default"}


def test_a_token_that_is_not_sent_says_so(finetree):
    finetree("profile", "set", "default", "address=lab:1", "token_command=vault read 'a b'")
    shown = finetree("config", "show", "--address", "127.0.0.1:9")
    assert "vault read 'a b' (not sent: the addresses are not the profile's)" in shown


def test_a_token_is_read_from_stdin_and_replaces_the_one_before(finetree, home, monkeypatch):
    finetree("profile", "set", "lab", "token_file=~/t")
    monkeypatch.setattr("sys.stdin", io.StringIO("geheim\n"))
    finetree("profile", "set", "lab", "token=-")
    assert home.read_text() == '[profiles.lab]\ntoken = "geheim"\n'
    assert stat.S_IMODE(home.stat().st_mode) == 0o600
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert "stdin, which is empty" in finetree("profile", "set", "lab", "token=-", code=2)
    assert "geheim" in home.read_text()


def test_what_people_wrote_stays(finetree, home):
    home.parent.mkdir()
    text = '# ours\nprofile = "a"  # why\n\n[profiles.a]\naddress = "a:1" # one\n\n[profiles.b]\nproject = "p"\n'
    home.write_text(text)
    finetree("profile", "set", "b", "project=q")
    assert home.read_text() == text.replace('"p"', '"q"')
    finetree("profile", "set", "b", "project=")
    assert home.read_text() == text.replace('project = "p"\n', "")


def test_a_link_stays_a_link(finetree, home, tmp_path):
    home.parent.mkdir()
    (tmp_path / "dotfiles.toml").write_text("")
    home.symlink_to(tmp_path / "dotfiles.toml")
    finetree("profile", "set", "a", "project=p")
    assert home.is_symlink()
    assert 'project = "p"' in (tmp_path / "dotfiles.toml").read_text()


def test_a_deleted_profile_is_chosen_no_longer(finetree, home):
    finetree("profile", "set", "a", "project=p")
    finetree("profile", "set", "b", "project=q")
    finetree("profile", "use", "a")
    finetree("profile", "delete", "a")
    assert "profile =" not in home.read_text()
    assert json.loads(finetree("profile", "list", "--json"))["profiles"][0]["name"] == "b"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("set", "a", "adress=x:1"), "there is no setting 'adress'"),
        (("set", "a", "timeout=soon"), "timeout: expected seconds, more than 0, got 'soon'"),
        (("set", "a", "tls=maybe"), "tls: expected true or false"),
        (("set", "a", "s3cr3t"), "expected KEY=VALUE, got 6 characters without '='"),
        (("use", "none"), "there is no profile 'none'; the file has good"),
        (("delete", "none"), "there is no profile 'none'; the file has good"),
    ],
)
def test_a_mistake_changes_nothing(finetree, home, words, says):
    finetree("profile", "set", "good", "project=p")
    before = home.read_text()
    said = finetree("profile", *words, code=2)
    assert says in said
    assert "s3cr3t" not in said
    assert home.read_text() == before


def test_a_mistake_in_the_file_is_listed_and_can_be_mended(finetree, home):
    finetree("profile", "set", "good", "project=p")
    home.write_text(home.read_text() + '[profiles.bad]\nadress = "x:1"\n')
    assert f"{home}:4: profiles.bad.adress: there is no such key" in finetree("capacity", "--profile", "bad", code=2)
    listed = json.loads(finetree("profile", "list", "--json"))["profiles"]
    assert [(each["name"], bool(each["problem"])) for each in listed] == [("good", False), ("bad", True)]
    finetree("profile", "set", "bad", "adress=", "address=x:1")
    assert 'address = "x:1"' in home.read_text()


def test_relative_paths_are_of_the_folder_where_they_were_typed(finetree, home, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    finetree("profile", "set", "a", "tls_ca=ca.pem")
    assert f'tls_ca = "{tmp_path}/ca.pem"' in home.read_text()


def test_the_help_names_every_setting():
    assert set_values.help is not None
    missing = [key for key in KEYS if key not in set_values.help.replace(",", " ").replace(";", " ").split()]
    assert missing == []
