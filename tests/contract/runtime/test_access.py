# SPDX-License-Identifier: Apache-2.0
"""Who is let in, over a real connection: tokens of an access file, what they may do, and how a stream ends with one."""

import asyncio
import contextlib
import datetime as dt
import json

import grpc
import pytest
from finetree_api.estimator.v1 import calibration_pb2, catalog_pb2, estimator_pb2
from finetree_api.trainer.v1 import dataset_pb2, event_log_pb2
from finetree_api.worker.v1 import worker_pb2, worker_pb2_grpc
from finetree_runtime.config.settings import SettingsError
from finetree_runtime.server.access import changes, file
from finetree_runtime.server.access.roles import Grants, Role
from finetree_runtime.server.access.table import Granted
from finetree_runtime.server.access.token import make_token
from finetree_runtime.server.entry import revalidation
from finetree_runtime.server.service import serving
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status

WAIT = 60  # no call of these tests takes long; a hang becomes DEADLINE_EXCEEDED
READER = Granted("search", Grants({"search": Role.READ}))
TRAINER = Granted("search", Grants({"search": Role.TRAIN}))


def bearer(token):
    return [("authorization", f"Bearer {token}")]


async def refusal(call):
    """Code, reason and metadata of a call's error."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    (packed, *_) = rpc_status.from_call(caught.value).details
    info = error_details_pb2.ErrorInfo()
    assert packed.Unpack(info)
    return caught.value.code().name, info.reason, dict(info.metadata)


@pytest.fixture
def make(tmp_path):
    """Make a token: its row and its text."""
    return lambda granted, expires=None: changes.create_token(tmp_path, "ci", granted, expires=expires)


@pytest.fixture
def settings(program, tmp_path):
    return program.Settings(access_dir=tmp_path)


async def test_a_call_without_a_token_or_with_a_wrong_one_is_refused_and_health_is_open(
    program, connect, make, settings, capsys
):
    row, token = make(READER)
    _, old = make(READER, dt.timedelta(seconds=-1))
    revoked, late = make(READER)
    changes.revoke_token(settings.access_dir, revoked.id)
    async with serving(program.build(settings)) as address, connect(address) as client:

        async def asked(metadata) -> tuple[str, str]:
            call = client.estimator.ListModels(catalog_pb2.ListModelsRequest(), metadata=metadata, timeout=WAIT)
            return (await refusal(call))[:2]

        assert await asked(None) == ("UNAUTHENTICATED", "TOKEN_MISSING")
        wrong = token[:-1] + ("0" if token[-1] != "0" else "1")
        for text in (make_token(), wrong, "ft_", "eyJhbGciOi.J9.x"):
            assert await asked(bearer(text)) == ("UNAUTHENTICATED", "TOKEN_INVALID")
        assert await asked([("authorization", f"Basic {token}")]) == ("UNAUTHENTICATED", "TOKEN_INVALID")
        assert await asked(bearer(old)) == ("UNAUTHENTICATED", "TOKEN_EXPIRED")
        assert await asked(bearer(late)) == ("UNAUTHENTICATED", "TOKEN_REVOKED")
        await client.estimator.ListModels(
            catalog_pb2.ListModelsRequest(), metadata=[("authorization", f"bearer {token}")], timeout=WAIT
        )
        health = health_pb2_grpc.HealthStub(client.channel)
        assert (await health.Check(health_pb2.HealthCheckRequest(), timeout=WAIT)).status == 1
    said = capsys.readouterr().err
    assert token not in said
    assert token[3:46] not in said
    lines = [json.loads(line) for line in said.splitlines() if '"rpc"' in line]
    assert (lines[0]["principal"], lines[-1]["principal"], lines[-1]["credential"]) == ("unknown", "ci", row.id)


async def test_reflection_is_for_known_callers(program, connect, make, settings):
    _, token = make(READER)
    listing = reflection_pb2.ServerReflectionRequest(list_services="")
    async with serving(program.build(settings)) as address, connect(address) as client:
        reflect = reflection_pb2_grpc.ServerReflectionStub(client.channel).ServerReflectionInfo
        code, reason, _ = await refusal(reflect(iter([listing]), timeout=WAIT).read())
        assert (code, reason) == ("UNAUTHENTICATED", "TOKEN_MISSING")
        reply = await reflect(iter([listing]), metadata=bearer(token), timeout=WAIT).read()
        assert len(reply.list_services_response.service) > 2


async def test_what_a_token_may_not_do_is_refused_with_the_role_that_it_needs(program, connect, make, settings):
    _, reader = make(READER)
    _, trainer = make(TRAINER)
    _, operator = make(Granted("default", Grants(operator=True)))
    async with serving(program.build(settings)) as address, connect(address) as client:
        reset = client.estimator.ResetCalibration
        request = calibration_pb2.ResetCalibrationRequest()
        refused = await refusal(reset(request, metadata=bearer(trainer), timeout=WAIT))
        assert refused == ("PERMISSION_DENIED", "ROLE_MISSING", {"role": "operator"})
        let_in = await refusal(reset(request, metadata=bearer(operator), timeout=WAIT))
        assert let_in[1] == "INTERNAL_ERROR"  # the test service has no such method
        write = client.trainer.WriteDataset
        for token, name, expected in (
            (reader, "d", {"role": "train"}),
            (trainer, "projects/ads/datasets/d", {"role": "train", "project": "ads"}),
        ):
            pieces = [dataset_pb2.WriteDatasetRequest(name=name)]
            refused = await refusal(write(iter(pieces), metadata=bearer(token), timeout=WAIT))
            assert refused == ("PERMISSION_DENIED", "ROLE_MISSING", expected)
        pieces = [dataset_pb2.WriteDatasetRequest(name="d"), dataset_pb2.WriteDatasetRequest(offset=1)]
        reply = await write(iter(pieces), metadata=bearer(trainer), timeout=WAIT)
        assert reply.dataset.committed_bytes == 2
        # A request that cannot be read is refused for what it is, and only to those who may ask at all.
        raw = client.channel.unary_unary("/finetree_api.estimator.v1.EstimatorService/EstimateRun")
        assert (await refusal(raw(b"\xff", metadata=bearer(reader), timeout=WAIT)))[1] == "MALFORMED_REQUEST"
        assert (await refusal(raw(b"\xff", timeout=WAIT)))[1] == "TOKEN_MISSING"


async def test_an_open_stream_ends_when_its_token_is_revoked(program, connect, make, settings, monkeypatch):
    monkeypatch.setattr(revalidation, "CHECK_SECONDS", 0.05)
    row, token = make(READER)
    _, other = make(READER)
    async with serving(program.build(settings)) as address, connect(address) as client:
        request = event_log_pb2.WatchJobRequest(name="deaf")
        stream = client.trainer.WatchJob(request, metadata=bearer(token), timeout=WAIT)
        kept = client.trainer.WatchJob(request, metadata=bearer(other), timeout=WAIT)
        await stream.read()
        await kept.read()
        changes.revoke_token(settings.access_dir, row.id)
        assert (await refusal(stream.read()))[:2] == ("UNAUTHENTICATED", "TOKEN_REVOKED")
        assert not kept.done()
        kept.cancel()


async def test_a_client_that_does_not_read_does_not_keep_its_stream(program, connect, make, settings, monkeypatch):
    """What lies in gRPC's buffers is in the way of the status: the stream is dropped."""
    monkeypatch.setattr(revalidation, "CHECK_SECONDS", 0.05)
    row, token = make(READER)
    service = program.build(settings)
    trainer = service.servicers[1][1]
    async with serving(service) as address, connect(address) as client:
        request = event_log_pb2.WatchJobRequest(name="flood")
        stream = client.trainer.WatchJob(request, metadata=bearer(token), timeout=WAIT)
        await stream.read()
        changes.revoke_token(settings.access_dir, row.id)
        await asyncio.wait_for(trainer.closed.wait(), WAIT)
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.CancelledError):
            while await stream.read() is not grpc.aio.EOF:
                pass
        assert await stream.code() in (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAUTHENTICATED)


async def test_a_stream_ends_when_its_token_expires(program, connect, make, settings, monkeypatch):
    monkeypatch.setattr(revalidation, "CHECK_SECONDS", 0.05)
    _, token = make(READER, dt.timedelta(seconds=1.5))
    async with serving(program.build(settings)) as address, connect(address) as client:
        request = event_log_pb2.WatchJobRequest(name="deaf")
        stream = client.trainer.WatchJob(request, metadata=bearer(token), timeout=WAIT)

        async def rest() -> None:
            while await stream.read() is not grpc.aio.EOF:
                pass

        assert (await refusal(rest()))[:2] == ("UNAUTHENTICATED", "TOKEN_EXPIRED")


async def test_a_damaged_file_stops_all_calls_and_open_streams_until_it_is_mended(
    program, connect, make, settings, monkeypatch
):
    monkeypatch.setattr(revalidation, "CHECK_SECONDS", 0.05)
    _, token = make(READER)
    path = settings.access_dir / file.NAME
    sound = path.read_bytes()
    async with serving(program.build(settings)) as address, connect(address) as client:
        stream = client.trainer.WatchJob(
            event_log_pb2.WatchJobRequest(name="deaf"), metadata=bearer(token), timeout=WAIT
        )
        await stream.read()
        path.write_bytes(sound[:40])
        assert (await refusal(stream.read()))[:2] == ("UNAVAILABLE", "ACCESS_UNAVAILABLE")
        info = estimator_pb2.GetServerInfoRequest()
        for metadata in (bearer(token), None):
            call = client.estimator.GetServerInfo(info, metadata=metadata, timeout=WAIT)
            assert (await refusal(call))[1] in ("ACCESS_UNAVAILABLE", "TOKEN_MISSING")
        path.write_bytes(sound)
        await client.estimator.GetServerInfo(info, metadata=bearer(token), timeout=WAIT)


async def test_a_service_that_nobody_could_call_does_not_start(program, settings):
    with pytest.raises(SettingsError) as refused:
        async with serving(program.build(settings)):
            pass
    assert refused.value.reason == "ACCESS_FILE_UNUSABLE"


async def test_an_rpc_that_states_no_role_is_refused_to_everybody(program, connect):
    """Also where no token is asked for: the omission shows with the first call."""
    service = program.build(program.Settings())
    name = (
        "finetree_api.worker.v1.WorkerService"  # its callers have a token for each attempt, and a socket of their own
    )
    service.add(worker_pb2_grpc.add_WorkerServiceServicer_to_server, worker_pb2_grpc.WorkerServiceServicer(), name)
    async with serving(service) as address, connect(address) as client:
        attach = worker_pb2_grpc.WorkerServiceStub(client.channel).Attach
        refused = await refusal(attach(iter([worker_pb2.AttachRequest()]), timeout=WAIT).read())
    assert refused[:2] == ("PERMISSION_DENIED", "RPC_WITHOUT_ROLE")
