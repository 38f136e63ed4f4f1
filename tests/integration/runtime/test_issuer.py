# SPDX-License-Identifier: Apache-2.0
"""A service of ours behind an OpenID Connect provider of somebody else's, each a process."""

import contextlib
import json
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import finetree
import pytest
from finetree_runtime.server.access import changes
from finetree_runtime.server.access.roles import Grants, Role
from finetree_runtime.server.access.table import Granted, GrantRow
from held_port import held_port

WAIT = 60.0
CLIENT = "finetree"


@contextlib.contextmanager
def provider(port: int) -> Iterator[str]:
    """The provider with the users alice and bob."""
    users = [{"sub": "alice", "groups": ["search"]}, {"sub": "bob"}]
    options = [word for user in users for word in ("--user-claims", json.dumps(user))]
    command = [sys.executable, "-W", "ignore", "-m", "oidc_provider_mock", "--port", str(port), *options]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + WAIT
        while not answers(port):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def answers(port):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


class Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        """Leave the answer as it is: its location has the code."""


def signed_in(issuer, subject):
    """Id token of a user, by the authorization code flow."""
    given = {"client_id": CLIENT, "redirect_uri": "http://127.0.0.1/back", "response_type": "code", "scope": "openid"}
    url = f"{issuer}/oauth2/authorize?{urllib.parse.urlencode(given)}"
    with pytest.raises(urllib.error.HTTPError) as away:
        urllib.request.build_opener(Stay).open(url, urllib.parse.urlencode({"sub": subject}).encode(), WAIT)
    code = urllib.parse.parse_qs(urllib.parse.urlsplit(away.value.headers["location"]).query)["code"][0]
    away.value.close()
    form = {"grant_type": "authorization_code", "code": code, "redirect_uri": given["redirect_uri"]}
    form |= {"client_id": CLIENT, "client_secret": "x"}
    with urllib.request.urlopen(f"{issuer}/oauth2/token", urllib.parse.urlencode(form).encode(), WAIT) as reply:
        return json.load(reply)["id_token"]


@contextlib.contextmanager
def estimator(folder: Path, issuer: str) -> Iterator[str]:
    ready = folder / "ready.json"
    command = [sys.executable, "-m", "finetree_estimator", "--address", "127.0.0.1:0", "--ready-file", str(ready)]
    command += ["--access-dir", str(folder / "access"), "--oidc-issuer", issuer, "--oidc-audience", CLIENT]
    command += ["--oidc-groups-claim", "groups"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stderr=log)
    try:
        deadline = time.monotonic() + WAIT
        while not ready.exists():
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield json.loads(ready.read_text())["address"]
    finally:
        process.terminate()
        process.wait(WAIT)


def list_models(address, token):
    with finetree.Client(estimator_address=f"http://{address}", token=token, retries=0) as client:
        return next(iter(client.list_models(page_size=1)))


def test_users_of_a_provider_call_a_service_while_it_is_there_and_after(tmp_path):
    granted = Granted("search", Grants({"search": Role.READ}))
    changes.set_grant(tmp_path / "access", GrantRow("oidc-group", "search", granted))
    with contextlib.ExitStack() as kept:
        with provider(held_port()) as issuer:
            address = kept.enter_context(estimator(tmp_path, issuer))
            alice, bob = signed_in(issuer, "alice"), signed_in(issuer, "bob")
            list_models(address, alice)
            with pytest.raises(finetree.PermissionDenied, match="oidc:bob is known and was granted nothing"):
                list_models(address, bob)
            with pytest.raises(finetree.Unauthenticated, match="TOKEN_INVALID"):
                list_models(address, alice[:-8] + "AAAAAAAA")
        list_models(address, alice)  # the provider is away, its keys are known
    log = (tmp_path / "log").read_text()
    assert '"principal": "oidc:alice"' in log
    assert alice not in log
