# SPDX-License-Identifier: Apache-2.0
"""Deadlines, request ids, user agents, and the ways in which a connection is not to be had."""

import asyncio
import gc
import shutil
import socket
import subprocess
import time

import finetree
import grpc
import pytest
from finetree.testing import Suite

NAME = "projects/default/jobs/1"
SPEC = {"model": {"name": "tiny"}, "lora": {"rank": 8}, "hardware": {"accelerator": "rtx-4090"}}
CALLS = {
    "Recommend": lambda c, **o: c.recommend({"model": {"name": "tiny"}}, **o),
    "ListMethods": lambda c, **o: c.list_methods(**o),
    "GetMethod": lambda c, **o: c.get_method("lora", **o),
    "EstimateRun": lambda c, **o: c.estimate(SPEC, **o),
    "BatchEstimateRuns": lambda c, **o: c.estimate_batch({"a": SPEC}, **o),
    "ListModels": lambda c, **o: c.list_models(**o),
    "ListAccelerators": lambda c, **o: c.list_accelerators(**o),
    "GetServerInfo": lambda c, **o: c.server_info("trainer", **o),
    "CreateDataset": lambda c, **o: c.upload_dataset(b"{}", **o),
    "GetDataset": lambda c, **o: c.get_dataset("1", **o),
    "ListDatasets": lambda c, **o: c.list_datasets(**o),
    "DeleteDataset": lambda c, **o: c.delete_dataset("1", **o),
    "PreviewDataset": lambda c, **o: c.preview_dataset("1", **o),
    "ValidateJob": lambda c, **o: c.validate_job({"model": {"name": "tiny"}}, **o),
    "CreateJob": lambda c, **o: c.create_job({"model": {"name": "tiny"}}, **o),
    "GetJob": lambda c, **o: c.get_job("1", **o),
    "ListJobs": lambda c, **o: c.list_jobs(**o),
    "CancelJob": lambda c, **o: c.job(NAME).cancel(**o),
    "WatchJob": lambda c, **o: c.job(NAME).wait(**o),
    "ListEvents": lambda c, **o: c.job(NAME).list_events(**o),
    "ListArtifacts": lambda c, **o: c.job(NAME).artifacts(**o),
    "GetCapacity": lambda c, **o: c.capacity(**o),
}


def arrival(suite, rpc):
    deadline = time.monotonic() + 60
    while not suite.faults.calls(rpc) and time.monotonic() < deadline:
        time.sleep(0.01)


def run(do, value):
    return do.all(value) if hasattr(value, "pages") else do(value)


@pytest.mark.parametrize("rpc", sorted(CALLS))
def test_every_call_ends_by_its_deadline(do, suite, rpc):
    suite.faults.hold(rpc)
    while not suite.faults.calls(rpc):  # on a busy machine a deadline may pass before the call is sent
        started = time.monotonic()
        with pytest.raises(finetree.FinetreeTimeout):
            run(do, CALLS[rpc](do.client(), timeout=0.2))
        assert time.monotonic() - started < 9
    assert suite.faults.calls(rpc)[0].seconds <= 0.25


def test_calls_have_a_default_deadline_and_a_clients_own_replaces_it(do, suite):
    run(do, CALLS["EstimateRun"](do.client()))
    run(do, CALLS["EstimateRun"](do.client(timeout=3)))
    run(do, CALLS["EstimateRun"](do.client(timeout=3), timeout=2))
    seconds = [call.seconds for call in suite.faults.calls("EstimateRun")]
    assert [round(each) for each in seconds] == [10, 3, 2]


def test_every_page_has_the_deadline(do, suite):
    do.all(do.client().list_models(page_size=6, timeout=7))
    assert [round(call.seconds) for call in suite.faults.calls("ListModels")] == [7, 7, 7]


def test_the_request_id_and_user_agent_arrive(do, suite):
    client = do.client()
    do(client.recommend({"model": {"name": "tiny"}}, request_id="mine"))
    do(client.list_methods())
    (recommend,), (methods,) = suite.faults.calls("Recommend"), suite.faults.calls("ListMethods")
    assert recommend.request_id == "mine"
    assert len(methods.request_id) == 36
    assert recommend.user_agent.startswith(f"finetree-python/{finetree.__version__}")


def test_errors_carry_the_id_and_the_servers_version(do):
    with pytest.raises(finetree.NotFound) as caught:
        do(do.client().estimate(SPEC | {"model": {"name": "none"}}, request_id="mine"))
    assert (caught.value.request_id, caught.value.server_version) == ("mine", finetree.__version__)


def test_nothing_listens(do):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        do.suite = Elsewhere(f"127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(finetree.Unavailable, match=r"nothing listens at 127\.0\.0\.1:\d+; start the service"):
            do(do.client().list_methods())


def test_a_service_that_comes_back_is_used_again(do, suite):
    client = do.client()
    do(client.list_methods())
    suite.restart()
    assert len(do(client.list_methods())) == 5


def test_a_closed_client_says_so(do):
    client = do.client()
    do(client.list_methods())
    do(client.close())
    with pytest.raises(finetree.ClientClosed):
        do(client.list_methods())


def test_closing_the_client_ends_its_streams(suite, spec):
    client = suite.client()
    suite.trainer.script = finetree.testing.Script(hold_at=3)
    stream = client.create_job(spec).events()
    assert next(stream).seq == 1
    client.close()
    with pytest.raises(finetree.ClientClosed):
        list(stream)


async def test_closing_the_async_client_ends_its_streams_and_calls(suite, spec):
    client = suite.async_client()
    suite.trainer.script = finetree.testing.Script(hold_at=3)
    stream = (await client.create_job(spec)).events()
    assert (await anext(stream)).seq == 1
    suite.faults.hold("ListMethods")
    tasks = [asyncio.create_task(collected(stream)), asyncio.create_task(client.list_methods())]
    await asyncio.to_thread(arrival, suite, "ListMethods")
    await client.close()
    for ended in await asyncio.gather(*tasks, return_exceptions=True):
        assert isinstance(ended, finetree.ClientClosed)


async def collected(stream):
    return [event async for event in stream]


def test_one_async_client_in_two_loops(suite):
    client = suite.async_client()

    async def use() -> int:
        answer = await client.list_methods()
        await client.close()
        return len(answer)

    assert asyncio.run(use()) == 5
    again = suite.async_client()

    async def ask() -> int:
        return len(await again.list_methods())

    assert [asyncio.run(ask()) for _ in range(2)] == [5, 5]
    gc.collect()


async def test_cancelling_a_task_is_not_an_error_of_the_service(suite):
    suite.faults.hold("ListMethods")
    async with suite.async_client() as client:
        task = asyncio.create_task(client.list_methods())
        await asyncio.to_thread(arrival, suite, "ListMethods")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_cancelling_a_task_that_reads_events(suite, spec):
    suite.trainer.script = finetree.testing.Script(hold_at=1)
    async with suite.async_client() as client:
        job = await client.create_job(spec)
        stream = job.events()
        assert (await anext(stream)).seq == 1
        task = asyncio.create_task(anext(stream))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await stream.close()


class Elsewhere:
    """Makes clients of an address where no suite is."""

    def __init__(self, address) -> None:
        self.address = address

    def client(self, **options: object):
        return finetree.Client(self.address, **options)

    def async_client(self, **options: object):
        return finetree.AsyncClient(self.address, **options)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl makes the certificate")
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    command = [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", str(key), "-out", str(cert), "-days", "2", "-subj", "/CN=localhost"]
    subprocess.run([*command, "-addext", "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True)
    return cert, key


@pytest.fixture
def encrypted(certificate):
    cert, key = certificate
    credentials = grpc.ssl_server_credentials([(key.read_bytes(), cert.read_bytes())])
    with Suite(credentials=credentials) as running:
        yield running


def test_tls(do, encrypted, certificate):
    do.suite = encrypted
    client = do.client(tls=finetree.TLS(ca=certificate[0]), token="secret")
    assert len(do(client.list_methods())) == 5


def test_a_plaintext_client_at_a_tls_port_is_told_so(do, encrypted):
    do.suite = encrypted
    with pytest.raises(finetree.Unavailable, match="speaks TLS and this client does not; use https://"):
        do(do.client().list_methods())


def test_a_tls_client_at_a_plaintext_port_is_told_so(do):
    with pytest.raises(finetree.Unavailable, match="does not speak TLS and this client does"):
        do(do.client(tls=True).list_methods())


def test_an_unknown_authority_is_told_so(do, encrypted):
    do.suite = encrypted
    with pytest.raises(finetree.Unavailable, match="is not trusted; give its authority"):
        do(do.client(tls=True).list_methods())
