# SPDX-License-Identifier: Apache-2.0
"""TLS of the clients: what goes wrong is said in a sentence that names it, and files that change are taken."""

import contextlib
import datetime as dt
import shutil

import finetree
import grpc
import pytest
from finetree.testing import Suite
from finetree_api.estimator.v1 import estimator_pb2
from finetree_cli.backends.certificates import authority as issue
from finetree_cli.backends.certificates.folder import renew

HOURS = dt.timedelta(hours=1)


@pytest.fixture(scope="module")
def folder(authority_in, tmp_path_factory):
    """An authority with certificates for localhost and the client ci, and some that nobody should take."""
    made = authority_in(tmp_path_factory.mktemp("tls") / "ours", "ci")
    signer = issue.Issued((made / "ca.key").read_bytes(), (made / "ca.pem").read_bytes())
    now = dt.datetime.now(dt.UTC)
    bad = {
        "other-name": issue.make_server(issue.new_key(), ["elsewhere.example.com"], signer, now, 1),
        "expired": issue.make_server(issue.new_key(), ["localhost"], signer, now - 48 * HOURS, 1),
        "early": issue.make_server(issue.new_key(), ["localhost"], signer, now + 2 * HOURS, 1),
        "old-client": issue.make_client(issue.new_key(), "ci", signer, now - 48 * HOURS, 1),
    }
    for name, issued in bad.items():
        (made / f"{name}.pem").write_bytes(issued.certificate)
        (made / f"{name}.key").write_bytes(issued.key)
    return made


@pytest.fixture(scope="module")
def stranger(authority_in, tmp_path_factory):
    """Another authority."""
    return authority_in(tmp_path_factory.mktemp("tls") / "stranger", "ci")


@contextlib.contextmanager
def served(folder, name="server", *, mutual=False):
    pair = ((folder / f"{name}.key").read_bytes(), (folder / f"{name}.pem").read_bytes())
    clients = (folder / "ca.pem").read_bytes() if mutual else None
    with Suite(credentials=grpc.ssl_server_credentials([pair], clients, mutual)) as running:
        yield running


def tls_of(folder, client="", **given: str):
    pair = {"certificate": folder / f"{client}.pem", "key": folder / f"{client}.key"} if client else {}
    return finetree.TLS(ca=folder / "ca.pem", **pair, **given)


@pytest.mark.parametrize(
    ("certificate", "tls", "sentence"),
    [
        ("server", None, "speaks TLS and this client does not; use https://"),
        ("other-name", {}, "is for elsewhere.example.com, not for 127.0.0.1"),
        ("server", {"server_name": "a.example.com"}, "is for localhost, 127.0.0.1, not for a.example.com"),
        ("expired", {"server_name": "localhost"}, "TLS certificate of .* has expired"),
        ("early", {"server_name": "localhost"}, "TLS certificate of .* is not valid yet"),
    ],
)
def test_what_is_wrong_with_the_servers_side_is_said(do, folder, certificate, tls, sentence):
    with served(folder, certificate) as do.suite, pytest.raises(finetree.Unavailable, match=sentence) as caught:
        do(do.client(tls=tls_of(folder, **tls) if tls is not None else None, retries=0).list_methods())
    assert caught.value.reason == "SERVICE_UNREACHABLE"


@pytest.mark.parametrize(
    ("client", "sentence"),
    [
        ("", "TLS handshake: it requires a client certificate; give yours"),
        ("old-client", "TLS handshake: it refused this client's certificate"),
        ("stranger", "TLS handshake: it refused this client's certificate"),
    ],
)
def test_what_is_wrong_with_the_clients_certificate_is_said(do, folder, stranger, client, sentence):
    if client == "stranger":
        pair = {"certificate": stranger / "client-ci.pem", "key": stranger / "client-ci.key"}
        tls = finetree.TLS(ca=folder / "ca.pem", **pair)
    else:
        tls = tls_of(folder, client)
    with served(folder, mutual=True) as do.suite, pytest.raises(finetree.Unavailable, match=sentence):
        do(do.client(tls=tls, retries=0).list_methods())


def test_a_client_certificate_is_shown(do, folder):
    with served(folder, mutual=True) as do.suite:
        assert len(do(do.client(tls=tls_of(folder, "client-ci")).list_methods())) == 5


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"ca": "missing"}, "tls.ca: cannot read .*missing: No such file"),
        ({"ca": "ca.key"}, "tls.ca: .*ca.key holds no PEM certificate"),
        ({"certificate": "client-ci.pem", "key": "ca.key"}, "tls.key: .* is not the key of `certificate`"),
    ],
)
def test_files_that_cannot_be_used_are_named(do, folder, files, said):
    with pytest.raises(finetree.InvalidArgument, match=said):
        do(do.client(tls=finetree.TLS(**{name: folder / file for name, file in files.items()})).list_methods())


@pytest.fixture
def own(folder, tmp_path):
    """A copy of the authority's folder that a test may change."""
    return shutil.copytree(folder, tmp_path / "own")


def test_changed_files_make_a_new_channel_and_what_is_open_goes_on(do, own, caplog):
    with served(own, mutual=True) as suite:
        do.suite = suite
        client = do.client(tls=tls_of(own, "client-ci"))
        spec = {"model": {"name": "tiny"}, "lora": {}, "dataset": {"name": suite.datasets.add([ROW]).name}}
        stream = do(client.create_job(spec)).events()
        assert do.all(stream, limit=1)[0].seq == 1
        stub = do(stub_of(client)) if do.aio else client.raw.estimator
        do(asked(stub))
        do(client.list_methods())
        before = opened(client)

        (own / "client-ci.key").write_bytes((own / "ca.key").read_bytes())  # in the middle of a renewal
        do(client.list_methods())
        assert opened(client) == before
        assert "changed TLS files are not used: tls.key" in caplog.text

        renew(own, 30, None, ["ci"])
        do(client.list_methods())
        assert not opened(client) & before
        assert do.all(stream, limit=1)[0].seq == 2
        do(asked(stub))  # a program's own stub keeps its channel


ROW = {"prompt": "Two and two?", "completion": "Four."}


def opened(client):
    """Identities of the channels to the recommender that new calls go over."""
    connections = client._transport._connections._open
    by_kind = connections if isinstance(connections, dict) else next(iter(connections.values()))
    return {id(each.channel) for (service, _), each in by_kind.items() if service == "recommender"}


async def stub_of(client):
    return client.raw.estimator


def asked(stub):
    return stub.GetServerInfo(estimator_pb2.GetServerInfoRequest(), timeout=60)
