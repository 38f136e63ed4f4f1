# SPDX-License-Identifier: Apache-2.0
"""Credentials of a channel, made anew when their files change: those of gRPC are fixed (grpc#41779)."""

from __future__ import annotations

import ssl
from pathlib import Path

import grpc

from finetree._shared.channels import LOG
from finetree.config.file import file_stamp
from finetree.config.options import TLS
from finetree.config.settings import invalid
from finetree.errors import InvalidArgument


class Credentials:
    """Channel credentials of PEM bytes or files; where a file changes, a new channel takes new ones.

    Files that do not belong together, as in the middle of a renewal, change nothing. Not thread-safe.

    Raises:
        InvalidArgument: a file cannot be read, or the key is not the certificate's.
    """

    def __init__(self, tls: TLS) -> None:
        self.tls = tls
        self._files = [value for value in (tls.ca, tls.certificate, tls.key) if isinstance(value, Path)]
        self._stamps = self._complained = self._look()
        self.version = 0
        """Grows each time that the files have changed."""
        self.current = self._read()

    def refresh(self) -> int:
        """Read the files if they have changed, and return the version."""
        if self._files and (stamps := self._look()) != self._stamps:
            try:
                self.current = self._read()
            except InvalidArgument as error:
                if stamps != self._complained:
                    LOG.warning("changed TLS files are not used: %s", error.message)
                self._complained = stamps
            else:
                self._stamps, self.version = stamps, self.version + 1
        return self.version

    def _read(self) -> grpc.ChannelCredentials:
        tls = self.tls
        if isinstance(tls.certificate, Path) and isinstance(tls.key, Path):
            try:
                ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(tls.certificate, tls.key, password="")
            except ssl.SSLError:
                text = "the file is damaged, needs a password, or is not the key of `certificate`"
                raise invalid("tls.key", text) from None
            except OSError:
                pass  # which one is said below
        ca = _pem("ca", tls.ca)
        if ca is not None:
            _require_certificates(ca, tls.ca)
        return grpc.ssl_channel_credentials(ca, _pem("key", tls.key), _pem("certificate", tls.certificate))

    def _look(self) -> tuple[tuple[int, int, int] | None, ...]:
        return tuple(file_stamp(path) for path in self._files)


def _pem(name: str, value: bytes | Path | None) -> bytes | None:
    if value is None or isinstance(value, bytes):
        return value
    try:
        return value.read_bytes()
    except OSError as error:
        raise invalid(f"tls.{name}", f"cannot read {value}: {error.strerror}") from None


def _require_certificates(ca: bytes, given: bytes | Path | None) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=ca.decode("utf-8", "replace"))
    except ssl.SSLError:
        what = "it" if isinstance(given, bytes) else given
        raise invalid("tls.ca", f"{what} holds no PEM certificate, or a damaged one") from None
