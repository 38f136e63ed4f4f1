# SPDX-License-Identifier: Apache-2.0
"""Why a TLS connection is not to be had, in a sentence: gRPC often says "Socket closed" and no more.

A look is a handshake of its own with Python's `ssl`, of at most `PROBE_SECONDS` a step. It sends no call and no token.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
import time
from pathlib import Path

from finetree.config.options import TLS, Target
from finetree.config.settings import Service
from finetree.errors import FinetreeError

PROBE_SECONDS = 1.0
"""Longest time that a connection, a handshake or the first bytes after it may take."""
REMEMBERED_SECONDS = 5.0
"""Time for which a sentence serves further errors of the same service: the attempts of one call end soon after
another."""
_UNEXPLAINED = ("is not reachable", "is for another name")
"""What `status` says where it has only gRPC's text."""
_WANTS_CERTIFICATE = (
    "it requires a client certificate; give yours as tls=TLS(certificate=…, key=…), or as FINETREE_TLS_CERTIFICATE and "
    "FINETREE_TLS_KEY"
)
_REFUSED = (
    "it refused this client's certificate: that has expired, or the service does not trust its authority "
    "(`finetree tls show FILE` prints both)"
)
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
"""What a client of HTTP/2 says first (RFC 9113, 3.4), with empty settings."""


class Explainer:
    """Explains failures to connect to the services of a client. `explain` blocks: call it off an event loop."""

    def __init__(self) -> None:
        self._reached: set[Service] = set()
        self._looks: dict[Service, tuple[float, str]] = {}

    def note_reached(self, service: Service) -> None:
        """Record that a service answered: a client without TLS that fails later does not fail for want of it."""
        self._reached.add(service)

    def may_help(self, service: Service, error: FinetreeError, target: Target) -> bool:
        """Whether something listens and hangs up, for a reason that a look may find."""
        if error.reason != "SERVICE_UNREACHABLE" or (target.tls is None and service in self._reached):
            return False
        return any(text in error.message for text in _UNEXPLAINED)

    def explain(self, service: Service, error: FinetreeError, target: Target) -> FinetreeError:
        """Return the error, its message replaced where a look finds why."""
        now = time.monotonic()
        seen = self._looks.get(service)
        if seen is None or now - seen[0] > REMEMBERED_SECONDS:
            seen = self._looks[service] = (now, reason(target))
        if seen[1]:
            error.message = seen[1]
        return error


def reason(target: Target) -> str:
    """Say why a service cannot be reached by TLS, or without it; empty where a look does not show it."""
    host, _, port = target.address.rpartition(":")
    if not port.isdecimal() or target.address.startswith(("unix:", "dns:")):
        return ""
    place = (host.strip("[]"), int(port))
    if target.tls is None:
        if not _speaks_tls(place):
            return ""
        return f"{target.address} speaks TLS and this client does not; use https://{target.address} or tls=True"
    return _refusal(target.address, place, target.tls)


def _speaks_tls(place: tuple[str, int]) -> bool:
    try:
        with _connected(place, _unverified(), place[0]):
            return True
    except OSError:
        return False


def _refusal(address: str, place: tuple[str, int], tls: TLS) -> str:
    """Shake hands as the client does, but for the name, and read what the server says first."""
    name = tls.server_name or place[0]
    shaken = False
    try:
        with _connected(place, _verified(tls), name) as connection:
            shaken = True
            certificate = connection.getpeercert() or {}
            names = [str(entry[1]) for entry in certificate.get("subjectAltName", ())]
            if not _covered(name, names):
                return _other_name(address, name, names)
            connection.sendall(_PREFACE)
            if connection.recv(1):
                return ""
    except TimeoutError:
        return ""
    except ssl.SSLCertVerificationError:
        return ""  # gRPC's own text says so
    except OSError as error:
        if not shaken and not _is_alert(error):
            return ""
    # The server has seen what this client has to show, and hung up (gRPC) or sent an alert (others).
    why = _WANTS_CERTIFICATE if tls.certificate is None else _REFUSED
    return f"{address} ended the TLS handshake: {why}"


def _other_name(address: str, name: str, names: list[str]) -> str:
    listed = ", ".join(names[:8]) or "no name at all"
    return (
        f"the TLS certificate of {address} is for {listed}, not for {name}; connect to one of its "
        "names, or give tls=TLS(server_name=…) or FINETREE_TLS_SERVER_NAME"
    )


def _connected(place: tuple[str, int], context: ssl.SSLContext, name: str) -> ssl.SSLSocket:
    plain = socket.create_connection(place, PROBE_SECONDS)
    try:
        plain.settimeout(PROBE_SECONDS)
        return context.wrap_socket(plain, server_hostname=name)
    except BaseException:
        plain.close()
        raise


def _unverified() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _verified(tls: TLS) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=_text(tls.ca) if tls.ca is not None else None)
    context.check_hostname = False  # compared by itself, so that the names can be told
    context.set_alpn_protocols(["h2"])
    if isinstance(tls.certificate, Path) and isinstance(tls.key, Path):
        context.load_cert_chain(tls.certificate, tls.key)
    return context


def _is_alert(error: OSError) -> bool:
    return isinstance(error, ssl.SSLError) and "ALERT" in (error.reason or "")


def _covered(name: str, names: list[str]) -> bool:
    """Whether a certificate's names include one; a wildcard stands for one label (RFC 9525, 6.3)."""
    wanted = _plain(name)
    wildcard = f"*.{wanted.partition('.')[2]}"
    return any(_plain(each) in (wanted, wildcard) for each in names)


def _plain(name: str) -> str:
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        return name.lower()


def _text(value: bytes | Path) -> str:
    return (value if isinstance(value, bytes) else value.read_bytes()).decode("ascii", "replace")
