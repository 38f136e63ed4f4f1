# SPDX-License-Identifier: Apache-2.0
"""When a certificate is warned of, and which addresses are of this machine alone."""

import asyncio
import datetime as dt
import re

import pytest
from finetree_cli.backends.certificates.folder import init
from finetree_runtime.server.metrics.prometheus import PrometheusMeter
from finetree_runtime.server.tls import Expiry, ServerCertificates, is_local, show

DAY = 86400.0


@pytest.mark.parametrize(
    ("address", "local"),
    [
        ("127.0.0.1:1", True),
        ("127.8.9.1:1", True),
        ("[::1]:1", True),
        ("localhost:1", True),
        ("unix:/run/x", True),
        ("0.0.0.0:1", False),
        ("[::]:1", False),
        ("localhost.example.com:1", False),
        ("10.0.0.1:1", False),
    ],
)
def test_only_loopback_and_unix_sockets_are_local(address, local):
    assert is_local(address) is local


@pytest.mark.parametrize(
    ("lifetime", "left", "near"),
    [(365, 31, False), (365, 29, True), (365, -1, True), (30, 11, False), (30, 9, True), (1, 0.5, False)],
)
def test_a_certificate_is_near_its_end_30_days_or_a_third_of_its_life_before(lifetime, left, near):
    assert Expiry(at=left * DAY, lifetime=lifetime * DAY).is_near(now=0.0) is near


def test_the_end_is_warned_of_once_a_day(tmp_path, capsys):
    init(tmp_path, ["localhost"], [], 40)
    certificates = ServerCertificates(tmp_path / "server.pem", tmp_path / "server.key", None)
    now = dt.datetime.now(dt.UTC).timestamp()
    for after in (0.0, 30 * DAY, 30.5 * DAY, 31.1 * DAY):
        certificates.warn_of_expiry(now + after)
    logged = capsys.readouterr().err
    assert logged.count('"tls_certificate_expires"') == 2
    assert '"days_left": 10.0' in logged
    assert '"days_left": 8.9' in logged


async def test_a_page_of_metrics_has_failures_and_the_end(tmp_path):
    init(tmp_path, ["localhost"], [], 40)
    certificates = ServerCertificates(tmp_path / "server.pem", tmp_path / "server.key", None)
    meter, plain = (PrometheusMeter(asyncio.get_running_loop()) for _ in range(2))
    show(certificates, meter)
    show(None, plain)
    (tmp_path / "server.key").unlink()
    certificates.refresh()
    page = (await asyncio.to_thread(meter.page)).decode()
    assert "finetree_tls_reload_failures_total 1.0" in page
    shown = re.search(r"^finetree_tls_certificate_expiry_timestamp_seconds (\S+)$", page, re.MULTILINE)
    assert float(shown[1]) == certificates.expiry.at
    assert not re.search(rb"^finetree_tls", await asyncio.to_thread(plain.page), re.MULTILINE)
