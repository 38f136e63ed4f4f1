# SPDX-License-Identifier: Apache-2.0
"""TLS of a server: which addresses need it, and certificates that are read again when their files change.

gRPC asks for the certificates at each handshake. Connections that are open keep those that they began with, so that a
renewed certificate ends no stream. Files that do not belong together (a key that is half written, a certificate whose
key is still the old one) change nothing: the last good ones go on, and `reload_failures` counts.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import grpc

from finetree_runtime.config.settings import ServiceSettings, SettingsError
from finetree_runtime.meter import Meter, Values
from finetree_runtime.server.logging import get_logger

if TYPE_CHECKING:
    from cryptography import x509

CHECK_SECONDS = 60.0
"""Time between two looks at the files where nobody connects, so that the expiry reported is that of the files."""
WARN_SECONDS = 30 * 86400.0
"""Time before its expiry from which on a certificate is warned of. One of less than 90 days is renewed with a third of
its time left (as ACME clients and cert-manager do), and warned of from then on."""
REPEAT_SECONDS = 86400.0
"""Time between two warnings of an expiry."""

_ADDRESS = re.compile(r"unix:.+|(\[[^]]+]|[^]:/[]+):[0-9]{1,5}")
_FLAGS = ("--tls-cert", "--tls-key", "--tls-client-ca")
_Stamps = tuple[tuple[int, int, int] | None, ...]


def is_local(address: str) -> bool:
    """Whether an address is a Unix socket or loopback, which only this machine can reach."""
    if address.startswith("unix:"):
        return True
    host = address.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def server_certificates(settings: ServiceSettings) -> ServerCertificates | None:
    """Read the certificates to serve with; None for plain text.

    Raises:
        SettingsError: INSECURE_ADDRESS for an address that others reach without TLS, or without anything that tells
            callers apart, unless `insecure` is set; TLS_INCOMPLETE or TLS_UNREADABLE.
    """
    _require_protection(settings)
    if settings.tls_cert is None and settings.tls_key is None:
        if settings.tls_client_ca is not None:
            raise SettingsError("TLS_INCOMPLETE", "--tls-client-ca needs --tls-cert and --tls-key")
        return None
    if settings.tls_cert is None or settings.tls_key is None:
        raise SettingsError("TLS_INCOMPLETE", "--tls-cert and --tls-key go together")
    try:
        return ServerCertificates(settings.tls_cert, settings.tls_key, settings.tls_client_ca)
    except CertificateFault as error:
        raise SettingsError("TLS_UNREADABLE", str(error)) from None


def _require_protection(settings: ServiceSettings) -> None:
    if not _ADDRESS.fullmatch(settings.address):
        text = f"address: {settings.address!r} is no HOST:PORT, [IPV6]:PORT or unix:PATH to listen on"
        raise SettingsError("SETTING_INVALID", f"{text}; a variable for clients (FINETREE_…_ADDRESS) sets it, too")
    if is_local(settings.address) or settings.insecure:
        return
    missing = [
        *(["--tls-cert and --tls-key (finetree tls init)"] if settings.tls_cert is None else []),
        # Tokens of an issuer and client certificates need it too: it says what each caller may do.
        *(["--access-dir (finetree tokens create)"] if settings.access_dir is None else []),
    ]
    if missing:
        text = (
            f"{settings.address} is not loopback: give {', and '.join(missing)}, or --insecure where something else "
            "keeps others out"
        )
        raise SettingsError("INSECURE_ADDRESS", text)


def show(certificates: ServerCertificates | None, meter: Meter) -> None:
    """Show on the page of metrics how the certificates are; nothing of a server that serves plain text."""
    failures = "Times that changed TLS files could not be used; the old certificate stayed in use."
    ends = "End of the TLS certificate in use, in seconds of the Unix epoch."

    def read(value: Callable[[ServerCertificates], float]) -> Callable[[], Values]:
        return lambda: {(): value(certificates)} if certificates is not None else {}

    meter.total("finetree_tls_reload_failures_total", failures, read=read(lambda each: each.reload_failures))
    meter.gauge("finetree_tls_certificate_expiry_timestamp_seconds", ends, read=read(lambda each: each.expiry.at))


class CertificateFault(Exception):  # noqa: N818  # what is wrong with the files, said to whoever set them
    """Files that cannot be served with; the message names the setting, never the path or the content."""


class Expiry(NamedTuple):
    """When a certificate ends, and for how long it is made, in seconds (of the Unix epoch)."""

    at: float
    lifetime: float

    def is_near(self, now: float) -> bool:
        """Whether it is time to renew: see `WARN_SECONDS`."""
        return self.at - now < min(WARN_SECONDS, self.lifetime / 3)


class ServerCertificates:
    """The certificate, key and client authorities of a server, as their files are now.

    Raises:
        CertificateFault: The files cannot be served with.
    """

    def __init__(self, cert: Path, key: Path, client_ca: Path | None) -> None:
        self._paths = (cert, key, *((client_ca,) if client_ca is not None else ()))
        self._requires_client = client_ca is not None
        self._lock = threading.Lock()
        self._stamps = self._look()
        self._complained: _Stamps | None = None
        self._warned: float | None = None
        self.reloads = 0
        self.reload_failures = 0
        """Times that changed files could not be used: once for each state in which they were found."""
        self._current, self.expiry = self._read()
        self._served = self._current

    def credentials(self) -> grpc.ServerCredentials:
        """Build the credentials of a port; its handshakes take what the files hold by then."""
        return grpc.dynamic_ssl_server_credentials(
            self._current,
            self._fetch,  # type: ignore[arg-type]  # None means unchanged, which the types of grpc do not say
            require_client_authentication=self._requires_client,
        )

    def refresh(self) -> None:
        """Read the files if they have changed. Thread-safe; never raises: what cannot be used is counted and logged."""
        with self._lock:
            stamps = self._look()
            if stamps == self._stamps:
                return
            try:
                current, expiry = self._read()
            except CertificateFault as error:
                # Tried again at the next handshake, but told once: a flood of connections fills no log.
                if stamps != self._complained:
                    self._complained = stamps
                    self.reload_failures += 1
                    get_logger().error("tls_reload_failed", problem=str(error), failures=self.reload_failures)
                return
            self._current, self.expiry, self._stamps = current, expiry, stamps
            self._complained = self._warned = None
            self.reloads += 1
            get_logger().info("tls_reloaded", expires=_date(expiry.at))

    def warn_of_expiry(self, now: float) -> None:
        """Log, once a day, that the certificate ends soon or has ended. `now` is in seconds of the Unix epoch."""
        expiry = self.expiry
        if not expiry.is_near(now) or (self._warned is not None and now - self._warned < REPEAT_SECONDS):
            return
        self._warned = now
        days = round((expiry.at - now) / 86400, 1)
        advice = "renew the certificate: the new files are taken without a restart"
        get_logger().warning("tls_certificate_expires", expires=_date(expiry.at), days_left=days, advice=advice)

    async def watch(self) -> None:
        """Look at the files once in `CHECK_SECONDS`, for ever, and warn of an expiry."""
        while True:
            self.warn_of_expiry(dt.datetime.now(dt.UTC).timestamp())
            await asyncio.sleep(CHECK_SECONDS)
            await asyncio.to_thread(self.refresh)

    def _fetch(self) -> grpc.ServerCertificateConfiguration | None:
        """Return the new certificates, or None; gRPC calls this at each handshake and hides what it raises."""
        self.refresh()
        if self._current is self._served:
            return None
        self._served = self._current
        return self._served

    def _look(self) -> _Stamps:
        return tuple(_stamp(path) for path in self._paths)

    def _read(self) -> tuple[grpc.ServerCertificateConfiguration, Expiry]:
        cert, key, *client_ca = (
            _content(path, flag)
            for path, flag in zip(self._paths, _FLAGS, strict=False)  # there may be no third path
        )
        expiry = _checked(cert, key, client_ca[0] if client_ca else None)
        return grpc.ssl_server_certificate_configuration([(key, cert)], client_ca[0] if client_ca else None), expiry


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_ino, stat.st_size


def _content(path: Path, flag: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CertificateFault(f"{flag}: cannot read the file: {error.strerror}") from None


def _checked(cert: bytes, key: bytes, client_ca: bytes | None) -> Expiry:
    """Check that certificate and key belong together and return when the first certificate of the chain ends.

    gRPC itself takes whatever it is given, and refuses every handshake with it.
    """
    # A quarter of a second on a slow core, only needed with TLS on.
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    chain = _certificates(cert, "--tls-cert")
    if client_ca is not None:
        _certificates(client_ca, "--tls-client-ca")
    try:
        private = load_pem_private_key(key, password=None)
    except (ValueError, TypeError):  # TypeError: it needs a password
        raise CertificateFault("--tls-key: not a PEM private key without a password") from None
    if private.public_key() != chain[0].public_key():
        raise CertificateFault("--tls-key is not the key of the first certificate in --tls-cert")
    first = min(chain, key=lambda each: each.not_valid_after_utc)
    lifetime = first.not_valid_after_utc - first.not_valid_before_utc
    return Expiry(first.not_valid_after_utc.timestamp(), lifetime.total_seconds())


def _certificates(pem: bytes, flag: str) -> list[x509.Certificate]:
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise CertificateFault(f"{flag}: no PEM certificate, or a damaged one") from None


def _date(seconds: float) -> str:
    return dt.datetime.fromtimestamp(seconds, dt.UTC).isoformat(timespec="seconds")
