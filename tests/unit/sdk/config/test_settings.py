# SPDX-License-Identifier: Apache-2.0
"""Which place a setting is taken from: an argument, the environment, the profile, the default."""

import itertools

import pytest
from finetree import Client, InvalidArgument
from finetree.config.settings import MASK, resolve

FILE = """\
profile = "lab"

[profiles.lab]
address = "lab:1"
project = "lab-project"
timeout = 11
token = "lab-token"
tls_ca = "lab.pem"

[profiles.split]
address = "split:1"
trainer_address = "split:2"

[profiles.bare]
"""
ADDRESSES = ("recommender_address", "estimator_address", "trainer_address")
KNOWN = {"address": "arg:1", "project": "arg-project", "timeout": 7.0, "token": "arg-token"}
IN_ENVIRONMENT = {"address": "env:1", "project": "env-project", "timeout": "9", "token": "env-token"}
EXPECTED = {
    "argument": {"address": "arg:1", "project": "arg-project", "timeout": 7.0, "token": "arg-token"},
    "environment": {"address": "env:1", "project": "env-project", "timeout": 9.0, "token": "env-token"},
    "profile": {"address": "lab:1", "project": "lab-project", "timeout": 11.0, "token": "lab-token"},
    "default": {"address": "127.0.0.1:50053", "project": "default", "timeout": None, "token": None},
}


@pytest.mark.parametrize("key", KNOWN)
@pytest.mark.parametrize("places", list(itertools.product([True, False], repeat=3)), ids=str)
def test_the_first_place_that_gives_a_value_holds(configure, monkeypatch, key, places):
    configure(FILE)
    argument, variable, profile = places
    if variable:
        monkeypatch.setenv(f"FINETREE_{key.upper()}", IN_ENVIRONMENT[key])
    given = {key: KNOWN[key]} if argument else {}
    settings = resolve(given, profile=None if profile else "bare")
    level = "argument" if argument else "environment" if variable else "profile" if profile else "default"
    setting = settings.addresses["trainer"] if key == "address" else settings.found.get(key)
    assert (setting.value if setting is not None else None) == EXPECTED[level][key]
    assert (setting.level if setting is not None else "default") == level


def test_each_origin_is_named(configure, monkeypatch):
    path = configure(FILE)
    monkeypatch.setenv("FINETREE_PROJECT", "env-project")
    settings = resolve({"trainer_address": "arg:1"}, lines=True)
    assert settings.profile.origin == f"{path}:1"
    assert [settings.addresses[name].origin for name in ("recommender", "trainer")] == [f"{path}:4", "argument"]
    assert settings.found["project"].origin == "FINETREE_PROJECT"
    assert settings.found["token"].origin == f"{path}:7"
    assert settings.found["token"].shown() == MASK


@pytest.mark.parametrize(
    ("argument", "variable", "used"),
    [(None, None, "lab"), (None, "split", "split"), ("bare", "split", "bare"), ("", "split", ""), (None, "", "lab")],
)
def test_which_profile_is_used(configure, monkeypatch, argument, variable, used):
    configure(FILE)
    if variable is not None:
        monkeypatch.setenv("FINETREE_PROFILE", variable)
    assert resolve({}, profile=argument).profile.value == used


def test_a_profile_named_default_is_used_where_the_file_chooses_none(configure):
    configure('[profiles.default]\nproject = "mine"\n')
    assert resolve({}).found["project"].value == "mine"


def test_a_services_own_address_comes_before_that_of_all_three_in_each_place(configure, monkeypatch):
    configure(FILE)
    places = resolve({}, profile="split").addresses
    assert [each.value for each in places.values()] == ["split:1", "split:1", "split:2"]
    monkeypatch.setenv("FINETREE_ADDRESS", "env:1")
    # The environment's general address still comes before the profile's special one.
    assert {each.value for each in resolve({}, profile="split").addresses.values()} == {"env:1"}


def test_a_profiles_token_and_certificates_stay_with_its_servers(configure, monkeypatch):
    path = configure(FILE)
    own = Client().options.targets["trainer"]
    assert own.token.value() == "lab-token"
    assert own.tls.ca == path.parent / "lab.pem"
    elsewhere = Client("other:1").options.targets["trainer"]
    assert (elsewhere.token, elsewhere.tls) == (None, None)
    mixed = Client(trainer_address="other:1").options.targets
    assert (mixed["trainer"].token, mixed["estimator"].token.value()) == (None, "lab-token")
    monkeypatch.setenv("FINETREE_ADDRESS", "other:1")
    assert Client(profile="lab").options.targets["trainer"].token is None
    assert Client(profile="lab", token="t").options.targets["trainer"].token.value() == "t"


def test_a_token_of_one_kind_hides_the_other_kinds_of_later_places(configure, monkeypatch, tmp_path):
    configure(FILE)
    (tmp_path / "t").write_text("file-token")
    monkeypatch.setenv("FINETREE_TOKEN_FILE", str(tmp_path / "t"))
    assert Client().options.targets["trainer"].token.value() == "file-token"
    monkeypatch.setenv("FINETREE_TOKEN_COMMAND", "echo command-token")
    with pytest.raises(InvalidArgument, match=r"FINETREE_TOKEN_FILE gives a token and so does FINETREE_TOKEN_COMMAND"):
        Client()


@pytest.mark.parametrize(("name", "text"), [("FINETREE_TIMEOUT", "soon"), ("FINETREE_TLS", "maybe")])
def test_a_wrong_variable_is_named(monkeypatch, name, text):
    monkeypatch.setenv(name, text)
    with pytest.raises(InvalidArgument, match=rf"{name}: expected .*'{text}'") as caught:
        Client()
    assert caught.value.reason == "INVALID_OPTION"


def test_services_use_no_profile(configure):
    configure("this is no TOML")
    assert Client(profile="").options.project == ""
