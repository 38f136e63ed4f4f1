# SPDX-License-Identifier: Apache-2.0
"""The probe of containers, against a service with TLS and tokens."""

import asyncio

import pytest
from finetree_runtime.server import probe
from finetree_runtime.server.access import changes
from finetree_runtime.server.access.roles import Grants, Role
from finetree_runtime.server.access.table import Granted, GrantRow
from finetree_runtime.server.service import serving

ESTIMATOR = "finetree_api.estimator.v1.EstimatorService"


@pytest.fixture
async def service(program, authority_in, tmp_path):
    """Address and authority of a service that everybody needs a certificate and a grant for."""
    authority = authority_in(tmp_path / "tls", "ci")
    granted = Granted("default", Grants({"default": Role.READ}))
    changes.set_grant(tmp_path / "access", GrantRow("certificate", "ci", granted))
    settings = program.Settings(
        tls_cert=authority / "server.pem",
        tls_key=authority / "server.key",
        tls_client_ca=authority / "ca.pem",
        access_dir=tmp_path / "access",
    )
    built = program.build(settings)
    async with serving(built) as address:
        yield built, f"localhost:{address.rpartition(':')[2]}", authority


async def test_it_asks_over_tls_with_a_certificate_and_without_a_token(service, capsys):
    built, address, authority = service
    pair = ("--tls-cert", str(authority / "client-ci.pem"), "--tls-key", str(authority / "client-ci.key"))
    trusting = ("--tls-ca", str(authority / "ca.pem"))
    assert await asyncio.to_thread(probe.main, [address, ESTIMATOR, *trusting, *pair]) == 0
    assert capsys.readouterr().out == "SERVING\n"
    await built.set_ready(ready=False)
    assert await asyncio.to_thread(probe.main, [address, ESTIMATOR, *trusting, *pair]) == 1
    assert capsys.readouterr().out == "NOT_SERVING\n"
    assert await asyncio.to_thread(probe.main, [address, *trusting, *pair]) == 0, "it lives"


async def test_it_fails_where_it_cannot_ask(service, tmp_path, capsys):
    _, address, _ = service
    assert await asyncio.to_thread(probe.main, [address, ESTIMATOR]) == 1, "in plain text"
    missing = str(tmp_path / "none.pem")
    assert await asyncio.to_thread(probe.main, [address, "--tls-ca", missing]) == 2
    assert missing not in capsys.readouterr().err
    for wrong in (["--tls-ca", missing, "--tls-cert", missing], ["--tls-server-name", "x"]):
        with pytest.raises(SystemExit, match="2"):
            probe.main([address, *wrong])
