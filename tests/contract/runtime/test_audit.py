# SPDX-License-Identifier: Apache-2.0
"""Calls that are refused for lack of rights, in the audit log of a service."""

import grpc
import pytest
from finetree_api.estimator.v1 import catalog_pb2
from finetree_cli.backends.audit.records import lines
from finetree_cli.backends.audit.verify import verify
from finetree_runtime.errors import PermissionDenied, Unauthenticated
from finetree_runtime.server.service import serving

WAIT = 60


class Refusing:
    """Knows nobody, or somebody who may do nothing."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    async def authenticate(self, method: str, metadata: object, peer: object) -> object:  # noqa: ARG002 - the protocol's
        raise self._error


async def refused(program, connect, tmp_path, error):
    """Records of a call that a service has refused."""
    service = program.build(program.Settings(audit_dir=tmp_path, log_level="error"))
    service.authenticator = Refusing(error)
    async with serving(service) as address, connect(address) as client:
        with pytest.raises(grpc.aio.AioRpcError):
            await client.estimator.ListModels(catalog_pb2.ListModelsRequest(), timeout=WAIT)
    assert verify(tmp_path / "probe").fault is None
    return [line.record for line in lines(tmp_path / "probe") if line.record["event"] not in ("start", "stop")]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Unauthenticated("TOKEN_INVALID", "who are you?"), "UNAUTHENTICATED"),
        (PermissionDenied("ROLE_MISSING", "you may not"), "PERMISSION_DENIED"),
    ],
    ids=["unknown", "not allowed"],
)
async def test_a_read_that_is_refused_has_a_record(program, connect, tmp_path, error, code):
    (record,) = await refused(program, connect, tmp_path, error)
    assert (record["event"], record["code"], record["reason"]) == ("call", code, error.reason)
    assert (record["principal"], record["peer"].partition(":")[0]) == ("unknown", "ipv4")
