# SPDX-License-Identifier: Apache-2.0
"""The configuration file: where it is, and mistakes with their lines."""

import tomllib
from pathlib import Path

import pytest
from finetree import Client, InvalidArgument
from finetree.config.file import ConfigFile, config_path, parse_config, read_config

MISTAKES = [
    ('[profiles.default]\nadress = "a:1"\n', 2, "profiles.default.adress: there is no such key; did you mean address?"),
    ("[profiles.default]\nzzz = 1\n", 2, "there is no such key; the keys are address,"),
    (
        '[profiles.default]\n\n# why\ntimeout = "soon"\n',
        4,
        "profiles.default.timeout: expected seconds, more than 0, got",
    ),
    ("[profiles.default]\nproject = 7\n", 2, "profiles.default.project: expected a text, got 7"),
    ('[profiles.default]\ntoken_command = [\n  "a",\n  7,\n]\n', 2, "expected a command as a text or a list of words"),
    ('[profiles.default]\ntoken = "a"\ntoken_file = "b"\n', 3, "the profile has token already; keep one of them"),
    ('profiles.default = { tls = "yes" }\n', 1, "profiles.default.tls: expected true or false, got 'yes'"),
    ("[profiles]\ndefault.tls = 1\n", 2, "profiles.default.tls: expected true or false, got 1"),
    ('address = "a:1"\n', 1, "address: there is no such key; settings stand under [profiles.NAME]"),
    ("profiles = 3\n", 1, "profiles: expected a table, as in [profiles.NAME]"),
    ('[profiles]\nlab = "x"\n', 2, "profiles.lab: expected a table"),
    ("profile = 3\n", 1, "profile: expected the name of a profile"),
    ('[profiles.default]\nproject = "a\n', 2, "is no TOML: Illegal character"),
    ("[profiles.default", 1, "is no TOML: Expected ']' at the end of a table declaration"),
]


@pytest.mark.parametrize(("text", "line", "says"), MISTAKES)
def test_a_mistake_names_the_file_and_the_line(configure, text, line, says):
    path = configure(text)
    with pytest.raises(InvalidArgument) as caught:
        Client()
    assert caught.value.reason == "INVALID_CONFIG"
    assert str(caught.value).startswith(f"{path}:{line}: ")
    assert says in str(caught.value)


def test_a_secret_is_not_repeated(configure):
    configure("[profiles.default]\ntoken = 123456789\n")
    with pytest.raises(InvalidArgument, match="token: expected a text that is not empty") as caught:
        Client()
    assert "123456789" not in str(caught.value)


def test_an_unknown_profile_names_those_that_there_are(configure):
    configure("[profiles.lab]\n[profiles.prod]\n")
    with pytest.raises(InvalidArgument, match="there is no profile 'pord'; the file has lab, prod"):
        Client(profile="pord")


def test_a_profile_cannot_be_had_without_a_file(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    with pytest.raises(InvalidArgument, match="there is no profile 'lab'; the file has no profile"):
        Client(profile="lab")


def test_a_mistake_in_one_profile_leaves_the_others_usable(configure):
    configure('[profiles.bad]\nx = 1\n[profiles.good]\nproject = "p"\n')
    assert Client(profile="good").options.project == "p"


def test_every_value_knows_its_line(configure):
    path = configure('# ours\n[profiles.a]\ntoken_command = [\n  "x",\n  "y",\n]\n\nproject = "p"\n')
    file = read_config(path)
    found = file.profile("a")
    assert {key: file.line(["profiles", "a", key]) for key in found} == {"token_command": 3, "project": 8}
    assert found == {"token_command": ("x", "y"), "project": "p"}


@pytest.mark.parametrize(
    "before",
    [
        'x = "\u2028\x85"\n',
        'x = """\nproject = "fake"\n"""\n',
        "x = [\n 1, # project\n]\n",
        "# [profiles.a]\n\n",
        "\r\n\r\n",
    ],
    ids=["separators", "text", "list", "comment", "carriage returns"],
)
def test_a_line_is_that_of_the_value_whatever_stands_before_it(before):
    text = f'{before}[profiles.a]\nproject = "p"\n'
    file = ConfigFile(Path("c"), text, tomllib.loads(text))
    assert file.line(["profiles", "a", "project"]) == text[: text.index('project = "p"')].count("\n") + 1


def test_lines_are_looked_for_only_when_somebody_asks(configure, monkeypatch):
    configure('[profiles.default]\nproject = "p"\n')
    monkeypatch.delattr(ConfigFile, "line")
    assert Client().options.project == "p"


def test_paths_are_beside_the_file_and_know_the_home_folder(tmp_path):
    text = '[profiles.a]\ntls_ca = "ca.pem"\ntls_key = "/k.pem"\ntoken_file = "~/t"\n'
    found = parse_config(tmp_path / "config.toml", text).profile("a")
    assert found["tls_ca"] == tmp_path / "ca.pem"
    assert found["tls_key"] == Path("/k.pem")
    assert found["token_file"] == Path.home() / "t"


@pytest.mark.parametrize(
    ("environment", "path"),
    [
        ({"XDG_CONFIG_HOME": "/etc/xdg"}, Path("/etc/xdg/finetree/config.toml")),
        ({"XDG_CONFIG_HOME": "relative"}, Path.home() / ".config/finetree/config.toml"),
        ({}, Path.home() / ".config/finetree/config.toml"),
    ],
)
def test_where_the_file_is(environment, path):
    assert config_path(environment) == path


def test_a_file_that_cannot_be_read_says_why(configure):
    path = configure("")
    path.write_bytes(b"\xff")
    with pytest.raises(InvalidArgument, match="cannot be read: it is not UTF-8"):
        Client()
    path.unlink()
    path.mkdir()
    with pytest.raises(InvalidArgument, match="cannot be read: Is a directory"):
        Client()
