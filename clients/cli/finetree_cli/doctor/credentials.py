# SPDX-License-Identifier: Apache-2.0
"""What lets clients in: the servers' certificates, the access file, and the client's own configuration file."""

import json
import os
import socket
import ssl
import stat
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from finetree_cli.doctor.finding import Finding, Installation, Level

if TYPE_CHECKING:
    from finetree_cli.backends.certificates.describe import Described

SUBJECT = "credentials"
SOON = timedelta(days=30)
"""How long before its end a certificate is a warning."""
ACCESS_FILE = "access.json"


def check(installation: Installation) -> Iterator[Finding]:
    """Check certificates of the services that are called over TLS, and who may read secrets."""
    for host, port, ca in _tls_servers(installation):
        yield _server(host, port, ca, installation.timeout)
    if installation.certificates:
        from finetree_cli.backends.certificates.authority import require_cryptography
        from finetree_cli.backends.certificates.describe import describe

        require_cryptography()
        for path in installation.certificates:
            yield from (described(each, datetime.now(UTC)) for each in describe(path))
    if installation.access_dir is not None:
        yield _access(installation.access_dir / ACCESS_FILE)
    yield from _configuration()


def _tls_servers(installation: Installation) -> list[tuple[str, int, str | None]]:
    """Host, port and authority of each server that the settings call over TLS, once each."""
    from finetree import InvalidArgument

    try:
        targets = installation.settings.options().targets.values()
    except InvalidArgument:
        return []  # `services` says so
    found: dict[tuple[str, int, str | None], None] = {}
    for target in targets:
        if target.tls is None:
            continue
        parts = urlsplit(f"https://{target.address.removeprefix('dns:').lstrip('/')}")
        ca = target.tls.ca
        found[(parts.hostname or "", parts.port or 443, str(ca) if isinstance(ca, Path) else None)] = None
    return list(found)


def _server(host: str, port: int, ca: str | None, timeout: float) -> Finding:
    name = f"{host}:{port}"
    try:
        context = ssl.create_default_context(cafile=ca)
        context.set_alpn_protocols(["h2"])
        with (
            socket.create_connection((host, port), timeout) as connection,
            context.wrap_socket(connection, server_hostname=host) as tls,
        ):
            shown = tls.getpeercert() or {}
    except ssl.SSLCertVerificationError as error:
        remedy = "give the authority with tls_ca, or a certificate with this name to the server"
        return Finding(SUBJECT, name, Level.PROBLEM, f"its certificate is refused: {error.verify_message}", remedy)
    except (OSError, ValueError) as error:
        text = f"no TLS connection: {getattr(error, 'strerror', None) or error}"
        return Finding(SUBJECT, name, Level.PROBLEM, text, "look whether the server has TLS, and its address")
    return dated(name, shown, datetime.now(UTC))


def described(each: "Described", now: datetime) -> Finding:
    """Judge a certificate file: its dates, and the key beside it."""
    name = f"{each.file} ({each.subject})" if each.subject else each.file
    if each.problem:
        return Finding(SUBJECT, name, Level.PROBLEM, each.problem, "finetree tls renew makes certificate and key anew")
    return _by_dates(name, ", ".join(each.names) or each.subject, (each.begins, each.ends), now)


def dated(name: str, certificate: Any, now: datetime) -> Finding:
    """Judge the dates of a certificate, as `ssl` gives them."""
    begins, ends = (
        datetime.fromtimestamp(ssl.cert_time_to_seconds(certificate[key]), UTC) for key in ("notBefore", "notAfter")
    )
    names = ", ".join(str(value) for _, value in certificate.get("subjectAltName", ()))
    return _by_dates(name, names, (begins, ends), now)


def _by_dates(name: str, names: str, valid: tuple[datetime, datetime], now: datetime) -> Finding:
    begins, ends = valid
    text = f"certificate for {names or 'no names'}, until {ends:%Y-%m-%d}"
    if not begins <= now < ends:
        return Finding(SUBJECT, name, Level.PROBLEM, f"{text}: not valid now", "renew it, and look at the clock")
    if ends - now < SOON:
        return Finding(SUBJECT, name, Level.WARNING, f"{text}, in {(ends - now).days} days", "renew it")
    return Finding(SUBJECT, name, Level.OK, text)


def _access(file: Path) -> Finding:
    try:
        found = file.stat()
        json.loads(file.read_bytes())
    except FileNotFoundError:
        text = "there is no access file: services that are given this folder take no call"
        return Finding(SUBJECT, "access file", Level.PROBLEM, text, "finetree tokens create NAME --access-dir makes it")
    except OSError as error:
        return Finding(
            SUBJECT, "access file", Level.PROBLEM, f"it cannot be read: {error.strerror}", "look at its owner"
        )
    except ValueError:
        return Finding(SUBJECT, "access file", Level.PROBLEM, "it is no JSON: services take no call", "restore it")
    return private("access file", found, "chmod 600 access.json, owned by the user of the services")


def private(name: str, found: os.stat_result, remedy: str) -> Finding:
    """Judge whether a file with secrets is its owner's alone."""
    mode = stat.S_IMODE(found.st_mode)
    if mode & 0o077:
        return Finding(SUBJECT, name, Level.PROBLEM, f"it has mode {mode:03o}: others can read or change it", remedy)
    return Finding(SUBJECT, name, Level.OK, "it is its owner's alone")


def _configuration() -> Iterator[Finding]:
    """The client's configuration file, where it holds a token."""
    from finetree.config.file import config_path

    file = config_path()
    if file is None:
        return
    try:
        has_token = any(line.strip().startswith("token ") for line in file.read_text(encoding="utf-8").splitlines())
        if has_token:
            yield private("configuration", file.stat(), f"chmod 600 {file}")
    except OSError:
        return
