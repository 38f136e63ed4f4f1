# SPDX-License-Identifier: Apache-2.0
"""Which settings go together, and what ends the program before it listens."""

import subprocess
import sys
from pathlib import Path

import pytest
from finetree_console.application import client_of
from finetree_console.settings import Settings, SettingsError, host_and_port

CERT = {"tls_cert": Path("cert.pem"), "tls_key": Path("key.pem")}


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"host": "localhost"},
        {"host": "::1"},
        {"host": "0.0.0.0", "insecure": True},
        {"host": "0.0.0.0", "token": "t", **CERT},
        {"host": "0.0.0.0", "pass_tokens": True, **CERT},
    ],
)
def test_settings_that_go_together(given):
    Settings(**given).check()


@pytest.mark.parametrize(
    ("given", "reason", "text"),
    [
        ({"host": "0.0.0.0"}, "INSECURE_ADDRESS", "--tls-cert and --tls-key and --token-file"),
        ({"host": "0.0.0.0", "token": "t"}, "INSECURE_ADDRESS", "give --tls-cert and --tls-key, or"),
        ({"host": "example.com", **CERT}, "INSECURE_ADDRESS", "give --token-file or --pass-tokens, or"),
        ({"host": "example.com", "pass_tokens": True}, "INSECURE_ADDRESS", "give --tls-cert and --tls-key, or"),
        ({"token": "t", "pass_tokens": True}, "SETTING_INVALID", "give one of the two"),
        ({"tls_cert": Path("cert.pem")}, "TLS_INCOMPLETE", "go together"),
    ],
)
def test_settings_that_do_not(given, reason, text):
    with pytest.raises(SettingsError, match=text) as caught:
        Settings(**given).check()
    assert caught.value.reason == reason


def test_tokens_do_not_travel_in_clear_text_over_a_network():
    for address in (
        "127.0.0.1:1",
        "unix:/run/trainer.sock",
        "[::1]:1",
        "https://trainer.example:443",
        "http://trainer:1",
    ):
        client_of(Settings(trainer_address=address))
    with pytest.raises(SettingsError, match="write https://trainer") as caught:
        client_of(Settings(trainer_address="trainer.example:443"))
    assert caught.value.reason == "INSECURE_UPSTREAM"
    with pytest.raises(SettingsError, match="has no port"):
        client_of(Settings(trainer_address="trainer.example"))


def test_an_address():
    assert host_and_port("127.0.0.1:8080") == ("127.0.0.1", 8080)
    assert host_and_port("[::1]:0") == ("::1", 0)
    for wrong in ("8080", ":8080", "::1:8080", "host:", "host:x", "host:70000", "host:²"):
        with pytest.raises(SettingsError, match="--address"):
            host_and_port(wrong)


def test_a_token_is_not_shown():
    assert "swordfish" not in repr(Settings(token="swordfish"))


def test_the_program_ends_with_one_line():
    command = [sys.executable, "-m", "finetree_console", "--address", "0.0.0.0:0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("INSECURE_ADDRESS: 0.0.0.0 is not loopback: give ")
    assert len(done.stderr.splitlines()) == 1
