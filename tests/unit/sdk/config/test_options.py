# SPDX-License-Identifier: Apache-2.0
"""Where a client goes, and when it encrypts."""

import pickle
from pathlib import Path

import pytest
from finetree import TLS, Client, InvalidArgument

VARIABLES = ["ADDRESS", "RECOMMENDER_ADDRESS", "ESTIMATOR_ADDRESS", "TRAINER_ADDRESS", "TOKEN", "PROJECT"]


@pytest.fixture(autouse=True)
def _clean(monkeypatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(f"FINETREE_{name}", raising=False)


def addresses(client: Client) -> list[str]:
    return [client.options.targets[name].address for name in ("recommender", "estimator", "trainer")]


def test_the_defaults_are_the_suites_ports_on_loopback():
    assert addresses(Client()) == ["127.0.0.1:50051", "127.0.0.1:50052", "127.0.0.1:50053"]
    assert Client().options.project == ""


def test_arguments_come_before_environment_and_the_special_before_the_general(monkeypatch):
    monkeypatch.setenv("FINETREE_ADDRESS", "env:1")
    monkeypatch.setenv("FINETREE_TRAINER_ADDRESS", "env:2")
    monkeypatch.setenv("FINETREE_PROJECT", "team")
    assert addresses(Client()) == ["env:1", "env:1", "env:2"]
    assert addresses(Client("arg:3")) == ["arg:3"] * 3
    assert addresses(Client("arg:3", estimator_address="arg:4")) == ["arg:3", "arg:4", "arg:3"]
    assert Client().options.project == "team"
    assert Client(project="projects/mine").options.project == "mine"


@pytest.mark.parametrize(
    ("address", "options", "plain", "encrypted"),
    [
        ("host:1", {}, "host:1", False),
        ("http://host:1/", {}, "host:1", False),
        ("https://host:1", {}, "host:1", True),
        ("https://host:1", {"tls": False}, "host:1", False),
        ("host:1", {"tls": True}, "host:1", True),
        ("host:1", {"tls": TLS(ca=b"pem")}, "host:1", True),
        ("host:1", {"token": "t"}, "host:1", True),
        ("http://host:1", {"token": "t"}, "host:1", False),
        ("127.0.0.1:1", {"token": "t"}, "127.0.0.1:1", False),
        ("localhost:1", {"token": "t"}, "localhost:1", False),
        ("[::1]:1", {"token": "t"}, "[::1]:1", False),
        ("unix:/run/finetree.sock", {"token": "t"}, "unix:/run/finetree.sock", False),
        ("127.evil.example:1", {"token": "t"}, "127.evil.example:1", True),
        ("https://127.0.0.1:1", {"token": "t"}, "127.0.0.1:1", True),
        ("[::1]:1", {}, "[::1]:1", False),
        ("unix:/run/finetree.sock", {}, "unix:/run/finetree.sock", False),
        ("dns:///host:1", {}, "dns:///host:1", False),
    ],
)
def test_when_to_encrypt(address, options, plain, encrypted):
    target = Client(address, **options).options.targets["trainer"]
    assert (target.address, target.tls is not None) == (plain, encrypted)


@pytest.mark.parametrize("address", ["host", "host:", "host:x", "host:70000", "ftp://host:1", "::1:"])
def test_a_wrong_address_is_refused_at_once(address):
    with pytest.raises(InvalidArgument) as caught:
        Client(trainer_address=address)
    assert caught.value.reason == "INVALID_OPTION"


@pytest.mark.parametrize("timeout", [0, -1.0])
def test_a_timeout_of_nothing_is_refused(timeout):
    with pytest.raises(InvalidArgument, match="timeout: must be more than 0"):
        Client(timeout=timeout)


def test_clients_and_handles_pickle_without_their_secrets():
    client = Client("https://host:1", token="geheim", tls=TLS(key=b"PRIVATE"), project="p", timeout=3)
    frozen = pickle.dumps([client, client.job("abc")])
    assert b"geheim" not in frozen
    assert b"PRIVATE" not in frozen
    again, job = pickle.loads(frozen)
    assert addresses(again) == ["host:1"] * 3
    assert (again.options.project, again.options.timeout) == ("p", 3)
    assert [target.token for target in again.options.targets.values()] == [None] * 3
    assert job.name == "projects/p/jobs/abc"
    assert "geheim" not in repr(client.options)


@pytest.mark.parametrize(("given", "attempts"), [(True, 3), (False, 0), (0, 0), (7, 7)])
def test_retries_are_further_attempts(given, attempts):
    assert Client(retries=given).options.retries == attempts
    assert Client().with_options(retries=given).options.retries == attempts


def test_other_limits_keep_everything_else():
    client = Client("https://host:1", token="geheim", project="p", timeout=3, retries=5)
    other = client.with_options(timeout=7, reconnect_timeout=9)
    assert (other.options.timeout, other.options.retries, other.options.reconnect_timeout) == (7, 5, 9)
    assert other.options.targets == client.options.targets
    assert client.options.timeout == 3


@pytest.mark.parametrize("options", [{"timeout": 0}, {"retries": -1}, {"reconnect_timeout": -1.0}])
def test_limits_that_make_no_sense_are_refused(options):
    for make in (Client, Client().with_options):
        with pytest.raises(InvalidArgument) as caught:
            make(**options)
        assert caught.value.reason == "INVALID_OPTION"


def test_a_pickled_client_reads_its_token_where_it_is_unpickled(monkeypatch, tmp_path):
    (tmp_path / "token").write_text("from-a-file\n")
    for name, value, token in [
        ("FINETREE_TOKEN", "of-this-process", "of-the-other"),
        ("FINETREE_TOKEN_FILE", str(tmp_path / "token"), "from-a-file"),
    ]:
        with monkeypatch.context() as here:
            here.setenv(name, value)
            client = Client("https://host:1")
            assert client.options.targets["trainer"].token.value() == (
                "of-this-process" if token != "from-a-file" else token
            )
            frozen = pickle.dumps(client)
        assert b"of-this-process" not in frozen
        assert b"from-a-file" not in frozen
        monkeypatch.setenv("FINETREE_TOKEN", "of-the-other")
        assert pickle.loads(frozen).options.targets["trainer"].token.value() == token
        monkeypatch.delenv("FINETREE_TOKEN")


def test_certificates_come_from_the_environment_and_switch_encryption_on(monkeypatch, tmp_path):
    monkeypatch.setenv("FINETREE_TLS_CA", str(tmp_path / "ca.pem"))
    monkeypatch.setenv("FINETREE_TLS_SERVER_NAME", "finetree.example.com")
    tls = Client("host:1").options.targets["trainer"].tls
    assert tls == TLS(ca=tmp_path / "ca.pem", server_name="finetree.example.com")
    assert Client("http://host:1").options.targets["trainer"].tls is None
    assert Client("host:1", tls=False).options.targets["trainer"].tls is None
    assert Client("host:1", tls=TLS(ca=b"pem")).options.targets["trainer"].tls == TLS(ca=b"pem")


def test_a_private_keys_path_pickles_and_its_bytes_do_not(tmp_path):
    client = Client("host:1", tls=TLS(key=tmp_path / "key.pem"))
    assert pickle.loads(pickle.dumps(client)).options.targets["trainer"].tls.key == tmp_path / "key.pem"


def test_paths_of_certificates_may_be_texts():
    asked = {"ca": "ca.pem", "certificate": "own.pem", "key": "own.key"}
    assert TLS(**asked) == TLS(ca=Path("ca.pem"), certificate=Path("own.pem"), key=Path("own.key"))
