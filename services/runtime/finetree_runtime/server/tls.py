# SPDX-License-Identifier: Apache-2.0
"""TLS of a server: which addresses need it, and certificates that are read again when their files change."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import grpc

from finetree_runtime.config.settings import ServiceSettings, SettingsError
from finetree_runtime.server.logging import get_logger


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


def server_credentials(settings: ServiceSettings) -> grpc.ServerCredentials | None:
    """Build the credentials to serve with; None for plain text.

    Raises:
        SettingsError: INSECURE_ADDRESS for plain text on an address that others reach, unless `insecure` is set;
            TLS_INCOMPLETE or TLS_UNREADABLE.
    """
    if settings.tls_cert is None and settings.tls_key is None:
        if settings.tls_client_ca is not None:
            raise SettingsError("TLS_INCOMPLETE", "--tls-client-ca needs --tls-cert and --tls-key")
        if not is_local(settings.address) and not settings.insecure:
            text = f"{settings.address} is not loopback: give --tls-cert and --tls-key, or --insecure"
            raise SettingsError("INSECURE_ADDRESS", text)
        return None
    if settings.tls_cert is None or settings.tls_key is None:
        raise SettingsError("TLS_INCOMPLETE", "--tls-cert and --tls-key go together")
    files = _Files(settings.tls_cert, settings.tls_key, settings.tls_client_ca)
    try:
        first = files.read()
    except OSError as error:
        raise SettingsError("TLS_UNREADABLE", f"cannot read the TLS files: {error.strerror}") from None
    return grpc.dynamic_ssl_server_credentials(
        first,
        files.read_if_changed,  # type: ignore[arg-type]  # None means unchanged, which the types of grpc do not say
        require_client_authentication=settings.tls_client_ca is not None,
    )


class _Files:
    """The certificate files of a server."""

    def __init__(self, cert: Path, key: Path, client_ca: Path | None) -> None:
        self._cert, self._key, self._client_ca = cert, key, client_ca
        self._seen: list[tuple[int, int]] = []

    def read(self) -> grpc.ServerCertificateConfiguration:
        self._seen = self._stamps()
        chain = (self._key.read_bytes(), self._cert.read_bytes())
        roots = self._client_ca.read_bytes() if self._client_ca else None
        return grpc.ssl_server_certificate_configuration([chain], roots)

    def read_if_changed(self) -> grpc.ServerCertificateConfiguration | None:
        """Return the new certificates, or None; gRPC calls this at each handshake and hides what it raises."""
        try:
            return None if self._stamps() == self._seen else self.read()
        except OSError as error:
            get_logger().error("tls_reload_failed", problem=error.strerror)
            return None

    def _stamps(self) -> list[tuple[int, int]]:
        stats = [path.stat() for path in (self._cert, self._key, self._client_ca) if path is not None]
        return [(stat.st_mtime_ns, stat.st_ino) for stat in stats]
