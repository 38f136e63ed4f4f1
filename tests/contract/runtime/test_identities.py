# SPDX-License-Identifier: Apache-2.0
"""Callers who are known elsewhere, over a real connection: tokens of an issuer, and certificates of clients."""

import asyncio
import contextlib
import dataclasses
import http.server
import json
import threading
import time
from collections.abc import AsyncIterator

import grpc
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from finetree_api.estimator.v1 import calibration_pb2, estimator_pb2
from finetree_api.trainer.v1 import event_log_pb2
from finetree_runtime.config.settings import SettingsError
from finetree_runtime.server.access import changes
from finetree_runtime.server.access.roles import Grants, Role
from finetree_runtime.server.access.table import Granted, GrantRow
from finetree_runtime.server.entry import revalidation
from finetree_runtime.server.entry.oidc import fetch
from finetree_runtime.server.service import serving
from google.rpc import error_details_pb2
from grpc_status import rpc_status

WAIT = 60
AUDIENCE = "finetree"
READER = Granted("search", Grants({"search": Role.READ}))
OPERATOR = Granted("default", Grants(operator=True))


class Issuer(http.server.ThreadingHTTPServer):
    """An issuer on loopback whose documents a test may change."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.private = ec.generate_private_key(ec.SECP256R1())
        public = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(self.private.public_key()))
        self.documents = {
            fetch.DISCOVERY: {"issuer": self.url, "jwks_uri": f"{self.url}/jwks"},
            "/jwks": {"keys": [public | {"kid": "one"}]},
        }
        self.redirects = {}
        self.slow = None
        """An event: each byte waits for it, a hundredth of a second at most."""
        self.asked = []

    def token(self, **changed: object) -> str:
        now = int(time.time())
        claims = {"iss": self.url, "aud": AUDIENCE, "sub": "alice", "iat": now, "exp": now + 300} | changed
        return jwt.encode(claims, self.private, "ES256", headers={"kid": "one"})


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        location, document = self.server.redirects.get(self.path), self.server.documents.get(self.path)
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        self.send_response(302 if location else 200 if document is not None else 404)
        if location:
            self.send_header("location", location)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(OSError):  # the other side has seen enough
            for byte in body if self.server.slow else ():
                self.wfile.write(bytes((byte,)))
                self.server.slow.wait(0.01)
            self.wfile.write(b"" if self.server.slow else body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def issuer():
    with Issuer() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def access(tmp_path):
    """An access file in which somebody has a token, and a way to grant more."""
    folder = tmp_path / "access"
    changes.create_token(folder, "ci", READER, expires=None)

    class Access:
        def __init__(self) -> None:
            self.folder = folder

        def grant(self, kind: str, name: str, granted: Granted = READER) -> None:
            changes.set_grant(folder, GrantRow(kind, name, granted))

    return Access()


@pytest.fixture
def settings(program, issuer, access):
    return program.Settings(access_dir=access.folder, oidc_issuer=issuer.url, oidc_audience=AUDIENCE)


@pytest.fixture
def served(program, connect):
    """Serve with some settings while a block runs; gives the stubs."""

    @contextlib.asynccontextmanager
    async def run(settings) -> AsyncIterator:
        async with serving(program.build(settings)) as address, connect(address) as client:
            yield client

    return run


async def refusal(call):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    (packed, *_) = rpc_status.from_call(caught.value).details
    info = error_details_pb2.ErrorInfo()
    assert packed.Unpack(info)
    return caught.value.code().name, info.reason, dict(info.metadata)


def info(client, token=None):
    metadata = [("authorization", f"Bearer {token}")] if token else None
    return client.estimator.GetServerInfo(estimator_pb2.GetServerInfoRequest(), metadata=metadata, timeout=WAIT)


async def test_a_subject_and_its_groups_have_what_they_were_granted(served, settings, issuer, access, capsys):
    async with served(settings) as client:
        denied = ("PERMISSION_DENIED", "GRANT_MISSING", {"kind": "oidc-subject", "name": "alice"})
        assert await refusal(info(client, issuer.token())) == denied
        access.grant("oidc-subject", "alice")
        await info(client, issuer.token())
        reset = client.estimator.ResetCalibration
        request = calibration_pb2.ResetCalibrationRequest()
        metadata = [("authorization", f"Bearer {issuer.token(groups=['ops'])}")]
        assert (await refusal(reset(request, metadata=metadata, timeout=WAIT)))[1] == "ROLE_MISSING"
    with_groups = dataclasses.replace(settings, oidc_groups_claim="groups")
    access.grant("oidc-group", "ops", OPERATOR)
    async with served(with_groups) as client:
        let_in = client.estimator.ResetCalibration(request, metadata=metadata, timeout=WAIT)
        assert (await refusal(let_in))[1] == "INTERNAL_ERROR"  # the test service has no such method
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines() if '"rpc"' in line]
    assert lines[-1]["principal"] == "oidc:alice"


async def test_wrong_tokens_of_the_issuer_are_refused(served, settings, issuer, access):
    access.grant("oidc-subject", "alice")
    async with served(settings) as client:
        for changed, reason in (
            ({"aud": "elsewhere"}, "TOKEN_INVALID"),
            ({"exp": int(time.time()) - 600}, "TOKEN_EXPIRED"),
            ({"iat": int(time.time()) + 600}, "TOKEN_NOT_YET_VALID"),
        ):
            assert (await refusal(info(client, issuer.token(**changed))))[:2] == ("UNAUTHENTICATED", reason)
        assert (await refusal(info(client)))[1] == "TOKEN_MISSING"


async def test_an_open_stream_ends_with_its_token(served, settings, issuer, access, monkeypatch):
    monkeypatch.setattr(revalidation, "CHECK_SECONDS", 0.05)
    monkeypatch.setattr("finetree_runtime.server.entry.oidc.verify.LEEWAY_SECONDS", 0.0)
    access.grant("oidc-subject", "alice")
    token = issuer.token(exp=int(time.time()) + 2)
    async with served(settings) as client:
        await info(client, issuer.token())  # the keys are there
        metadata = [("authorization", f"Bearer {token}")]
        stream = client.trainer.WatchJob(event_log_pb2.WatchJobRequest(name="deaf"), metadata=metadata, timeout=WAIT)

        async def rest() -> None:
            while await stream.read() is not grpc.aio.EOF:
                pass

        assert (await refusal(rest()))[:2] == ("UNAUTHENTICATED", "TOKEN_EXPIRED")


@pytest.mark.parametrize(
    "answer",
    [
        (fetch.DISCOVERY, None, "HTTP 404"),
        (fetch.DISCOVERY, {"issuer": "https://else.example", "jwks_uri": "x"}, "says that it is"),
        (fetch.DISCOVERY, {"issuer": "URL", "jwks_uri": "http://127.0.0.2:1/jwks"}, "at another place"),
        (fetch.DISCOVERY, {"issuer": "URL", "jwks_uri": "file:///etc/passwd"}, "at another place"),
        ("/jwks", {"keys": "none"}, "no list"),
        ("/jwks", ["keys"], "else than a JSON object"),
        ("/jwks", b"{", "JSONDecodeError"),
        ("/jwks", b"[" * 100_000, "RecursionError"),
        ("/jwks", b"x" * (fetch.MAX_BYTES + 1), "more than"),
    ],
)
async def test_what_an_issuer_should_not_say_is_logged_and_tokens_wait(issuer, served, settings, capsys, answer):
    path, document, said = answer
    if isinstance(document, dict) and document.get("issuer") == "URL":
        document["issuer"] = issuer.url
    issuer.documents[path] = document
    async with served(settings) as client:
        assert (await refusal(info(client, issuer.token())))[:2] == ("UNAVAILABLE", "ISSUER_UNAVAILABLE")
    assert said in capsys.readouterr().err


async def test_redirects_of_an_issuer_are_not_followed(served, settings, issuer):
    issuer.redirects["/jwks"] = f"{issuer.url}/elsewhere"
    issuer.documents["/elsewhere"] = issuer.documents["/jwks"]
    async with served(settings) as client:
        assert (await refusal(info(client, issuer.token())))[1] == "ISSUER_UNAVAILABLE"
    assert "/elsewhere" not in issuer.asked


async def test_an_answer_that_comes_byte_by_byte_is_given_up(served, settings, issuer, monkeypatch, capsys):
    monkeypatch.setattr(fetch, "TOTAL_SECONDS", 0.1)
    issuer.slow = threading.Event()
    async with served(settings) as client:
        assert (await refusal(info(client, issuer.token())))[1] == "ISSUER_UNAVAILABLE"
    issuer.slow.set()
    assert "took more than" in capsys.readouterr().err


async def test_keys_at_another_place_are_named_by_the_operator(served, settings, issuer, access):
    access.grant("oidc-subject", "alice")
    named = dataclasses.replace(settings, oidc_jwks_uri=f"{issuer.url}/jwks")
    async with served(named) as client:
        await info(client, issuer.token())
    assert set(issuer.asked) == {"/jwks"}


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"oidc_issuer": "https://x.example"}, "OIDC_INCOMPLETE"),
        ({"oidc_audience": "x"}, "OIDC_INCOMPLETE"),
        ({"oidc_issuer": "http://x.example", "oidc_audience": "x"}, "SETTING_INVALID"),
        ({"oidc_issuer": "https://x.example", "oidc_audience": "x", "oidc_jwks_uri": "ftp://x"}, "SETTING_INVALID"),
        ({"oidc_issuer": "https://x.example", "oidc_audience": "x", "access_dir": None}, "ACCESS_FILE_MISSING"),
    ],
)
async def test_half_of_a_setting_prevents_the_start(program, access, given, reason):
    with pytest.raises(SettingsError) as refused:
        async with serving(program.build(program.Settings(**{"access_dir": access.folder} | given))):
            pass
    assert refused.value.reason == reason


SPIFFE = "spiffe://example.com/search/trainer"


@pytest.fixture
def folder(authority_in, tmp_path):
    return authority_in(tmp_path / "tls", "ci-runner", SPIFFE)


async def test_a_client_certificate_is_a_principal(program, connect, folder, access, capsys):
    settings = program.Settings(
        access_dir=access.folder,
        tls_cert=folder / "server.pem",
        tls_key=folder / "server.key",
        tls_client_ca=folder / "ca.pem",
    )

    def shown(stem: str) -> grpc.ChannelCredentials:
        ca, key, certificate = (folder / name for name in ("ca.pem", f"{stem}.key", f"{stem}.pem"))
        return grpc.ssl_channel_credentials(ca.read_bytes(), key.read_bytes(), certificate.read_bytes())

    _, token = changes.create_token(access.folder, "somebody", READER, expires=None)
    async with serving(program.build(settings)) as address:
        target = f"localhost:{address.rpartition(':')[2]}"
        async with connect(target, shown("client-ci-runner")) as client:
            denied = ("PERMISSION_DENIED", "GRANT_MISSING", {"kind": "certificate", "name": "ci-runner"})
            assert await refusal(info(client)) == denied
            access.grant("certificate", "ci-runner")
            await info(client)
            await info(client, token)
            assert (await refusal(info(client, "nonsense")))[1] == "TOKEN_INVALID"
        async with connect(target, shown("client-example.com-search-trainer")) as client:
            assert (await refusal(info(client)))[2] == {"kind": "certificate", "name": SPIFFE}
            access.grant("certificate", SPIFFE)
            await info(client)
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines() if '"rpc"' in line]
    assert [line["principal"] for line in lines] == [
        "unknown",
        "certificate:ci-runner",
        "somebody",
        "unknown",
        "unknown",
        f"certificate:{SPIFFE}",
    ]


async def test_an_address_that_others_reach_needs_tls_and_callers_who_are_known(
    program, access, authority_in, tmp_path
):
    folder = authority_in(tmp_path / "tls")
    encrypted = {"tls_cert": folder / "server.pem", "tls_key": folder / "server.key"}
    known = {"access_dir": access.folder}
    for given, missing in (({}, "--tls-cert .*--access-dir"), (encrypted, "give --access-dir"), (known, "--tls-cert")):
        with pytest.raises(SettingsError, match=missing) as refused:
            async with serving(program.build(program.Settings(address="0.0.0.0:0", **given))):
                pass
        assert refused.value.reason == "INSECURE_ADDRESS"
    async with serving(program.build(program.Settings(address="0.0.0.0:0", **encrypted, **known))) as address:
        assert address.startswith("0.0.0.0:")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "anyone on this machine may call"),
        ({"address": "0.0.0.0:0", "insecure": True}, "anyone who reaches 0.0.0.0:"),
    ],
)
async def test_a_service_that_asks_nobody_says_so(program, capsys, given, said):
    async with serving(program.build(program.Settings(**given))):
        await asyncio.sleep(0)
    assert said in capsys.readouterr().err
