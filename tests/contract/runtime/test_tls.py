# SPDX-License-Identifier: Apache-2.0
"""Certificates that change while a service runs: nothing that is open ends, nothing that is new sees the old ones."""

import asyncio
import socket
import ssl
from pathlib import Path

import finetree
import grpc
import pytest
from cryptography import x509
from finetree_api.estimator.v1 import estimator_pb2
from finetree_api.trainer.v1 import event_log_pb2
from finetree_cli.backends.certificates.folder import renew
from finetree_runtime.config.settings import SettingsError
from finetree_runtime.server.access import changes
from finetree_runtime.server.access.roles import Grants, Role
from finetree_runtime.server.access.table import Granted, GrantRow
from finetree_runtime.server.service import serving

WAIT = 60
STREAMS = 20
INFO = estimator_pb2.GetServerInfoRequest()


class Files:
    """The files that a service is set to; what is put there replaces them in one step, as tools that renew do."""

    def __init__(self, folder) -> None:
        self.cert, self.key, self.client_ca = (folder / name for name in ("cert.pem", "key.pem", "clients.pem"))

    def settings(self, program):
        """Settings of a service for which everybody needs a certificate, and ci has one that may read."""
        granted = Granted("default", Grants({"default": Role.READ}))
        changes.set_grant(self.cert.parent / "access", GrantRow("certificate", "ci", granted))
        return program.Settings(
            tls_cert=self.cert, tls_key=self.key, tls_client_ca=self.client_ca, access_dir=self.cert.parent / "access"
        )

    def serve(self, authority):
        self.put(self.key, (authority / "server.key").read_bytes())
        self.put(self.cert, (authority / "server.pem").read_bytes())

    def trust(self, *authorities: Path):
        self.put(self.client_ca, bundle(*authorities))

    @staticmethod
    def put(target, content) -> None:
        scratch = target.with_suffix(".new")
        scratch.write_bytes(content)
        scratch.replace(target)


def bundle(*authorities: Path):
    return b"".join((authority / "ca.pem").read_bytes() for authority in authorities)


def credentials(owner, *trusted: Path):
    """Credentials of the client that a folder has a certificate for."""
    key, certificate = (owner / "client-ci.key").read_bytes(), (owner / "client-ci.pem").read_bytes()
    return grpc.ssl_channel_credentials(bundle(*trusted), key, certificate)


def served_serial(address, owner, *trusted: Path):
    """Serial number of the certificate that a new handshake gets."""
    context = ssl.create_default_context(cadata=bundle(*trusted).decode())
    context.load_cert_chain(owner / "client-ci.pem", owner / "client-ci.key")
    with (
        socket.create_connection(("localhost", int(address.rpartition(":")[2])), WAIT) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as connection,
    ):
        return x509.load_der_x509_certificate(connection.getpeercert(binary_form=True)).serial_number


def serial(authority):
    return x509.load_pem_x509_certificate((authority / "server.pem").read_bytes()).serial_number


class Flow:
    """Calls one after another, every second one over a connection of its own; counts them, and those that fail."""

    def __init__(self, connect, target, creds) -> None:
        self.creds = creds
        self.done, self.failures = 0, []
        self._connect, self._target = connect, target
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        async with self._connect(self._target, self.creds) as kept:
            while True:
                await self._call(kept)
                async with self._connect(self._target, self.creds) as fresh:
                    await self._call(fresh)

    async def _call(self, client) -> None:
        try:
            await client.estimator.GetServerInfo(INFO, timeout=WAIT)
        except grpc.aio.AioRpcError as error:
            self.failures.append(error.details())
        self.done += 1

    async def go_on(self, calls=6):
        """Wait for further calls that were all begun after now."""
        enough = self.done + calls + 1
        while self.done < enough:
            assert not self._task.done()
            await asyncio.sleep(0.005)

    async def stop(self):
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


async def test_certificate_key_and_authority_change_under_streams_and_calls(program, connect, authority_in, tmp_path):
    old, new = (authority_in(tmp_path / name, "ci") for name in ("old", "new"))
    files = Files(tmp_path)
    files.serve(old)
    files.trust(old)
    settings = files.settings(program)
    service = program.build(settings)
    async with serving(service) as address:
        target = f"localhost:{address.rpartition(':')[2]}"
        async with connect(target, credentials(old, old, new)) as early:
            watch = event_log_pb2.WatchJobRequest(name="j")
            streams = [early.trainer.WatchJob(watch, timeout=2 * WAIT) for _ in range(STREAMS)]
            for stream in streams:
                assert await stream.read() == event_log_pb2.WatchJobResponse()
            flow = Flow(connect, target, credentials(old, old, new))
            await flow.go_on()

            renew(old, 30, None)  # the same authority, new keys
            files.serve(old)
            assert await asyncio.to_thread(served_serial, address, old, old) == serial(old)
            await flow.go_on()

            files.trust(old, new)  # both for as long as clients change theirs
            flow.creds = credentials(new, old, new)
            await flow.go_on()
            files.serve(new)
            assert await asyncio.to_thread(served_serial, address, new, new) == serial(new)
            files.trust(new)
            await flow.go_on()

            with pytest.raises((ssl.SSLError, OSError)):
                await asyncio.to_thread(read_after_handshake, address, old, new)
            await flow.stop()
            assert flow.failures == []
            assert flow.done > 24
            assert not any(stream.done() for stream in streams)
            assert service.certificates.reloads >= 4
            service.draining.set()
            assert [(await stream.read()).cursor for stream in streams] == ["goodbye"] * STREAMS


def read_after_handshake(address, owner, trusted):
    """Raise where the server refuses the client's certificate: with TLS 1.3 that comes after the handshake."""
    context = ssl.create_default_context(cadata=bundle(trusted).decode())
    context.load_cert_chain(owner / "client-ci.pem", owner / "client-ci.key")
    with (
        socket.create_connection(("localhost", int(address.rpartition(":")[2])), WAIT) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as connection,
    ):
        if not connection.recv(1):
            raise ConnectionResetError


async def test_a_client_follows_its_own_files_to_another_authority(program, authority_in, tmp_path):
    old, new = (authority_in(tmp_path / name, "ci") for name in ("old", "new"))
    files, own = Files(tmp_path), tmp_path / "own"
    own.mkdir()
    files.serve(old)
    files.trust(old)

    def hold(owner: Path, *trusted: Path) -> None:
        for name in ("client-ci.key", "client-ci.pem"):
            files.put(own / name, (owner / name).read_bytes())
        files.put(own / "ca.pem", bundle(*trusted))

    settings = files.settings(program)
    async with serving(program.build(settings)) as address:
        hold(old, old)
        own_tls = finetree.TLS(ca=own / "ca.pem", certificate=own / "client-ci.pem", key=own / "client-ci.key")
        async with finetree.AsyncClient(estimator_address=address, tls=own_tls, retries=0) as client:
            steps = (
                lambda: None,
                lambda: files.trust(old, new),
                lambda: hold(new, old, new),
                lambda: files.serve(new),
                lambda: files.trust(new),
                lambda: hold(new, new),
            )
            for step in steps:
                step()
                for _ in range(3):
                    await client.server_info("estimator")


@pytest.fixture
def certified(authority_in, tmp_path):
    return authority_in(tmp_path / "ca", "ci")


@pytest.mark.parametrize("fault", ["half", "missing", "other"])
async def test_a_key_that_cannot_be_used_leaves_the_old_one_and_counts(program, certified, tmp_path, capsys, fault):
    authority, files = certified, Files(tmp_path)
    files.serve(authority)
    service = program.build(program.Settings(tls_cert=files.cert, tls_key=files.key))
    before, whole = serial(authority), files.key.read_bytes()
    async with serving(service) as address:
        renew(authority, 30, None)
        files.put(files.cert, (authority / "server.pem").read_bytes())
        if fault == "missing":
            files.key.unlink()
        else:
            files.put(files.key, whole[: len(whole) // 2] if fault == "half" else whole)
        for _ in range(3):
            assert await asyncio.to_thread(served_serial, address, authority, authority) == before
        assert service.certificates.reload_failures == 1, "one state of the files is one failure"
        files.serve(authority)
        assert await asyncio.to_thread(served_serial, address, authority, authority) == serial(authority)
        assert (service.certificates.reloads, service.certificates.reload_failures) == (1, 1)
    logged = capsys.readouterr().err
    assert logged.count('"tls_reload_failed"') == 1
    assert "--tls-key" in logged
    assert str(tmp_path) not in logged


@pytest.mark.parametrize(
    ("cert", "key", "said"),
    [
        ("nothing", "server.key", "--tls-cert: no PEM certificate, or a damaged one"),
        ("server.pem", "nothing", "--tls-key: not a PEM private key without a password"),
        ("server.pem", "ca.key", "--tls-key is not the key of the first certificate in --tls-cert"),
        ("missing", "server.key", "--tls-cert: cannot read the file: No such file or directory"),
    ],
)
async def test_files_that_cannot_be_served_with_prevent_the_start(program, certified, cert, key, said):
    authority = certified
    (authority / "nothing").touch()
    settings = program.Settings(tls_cert=authority / cert, tls_key=authority / key)
    with pytest.raises(SettingsError, match=said):
        async with serving(program.build(settings)):
            pass
