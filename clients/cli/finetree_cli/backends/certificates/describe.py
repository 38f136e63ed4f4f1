# SPDX-License-Identifier: Apache-2.0
"""What a certificate says: who it is for, by whom, until when, and whether its key lies beside it."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from finetree_cli.backends.certificates import authority as issue
from finetree_cli.backends.certificates.folder import common_name, subject_names
from finetree_cli.errors import BadInput

if TYPE_CHECKING:
    from cryptography import x509

SOON_DAYS = 30
"""Days before its end from which on a certificate is said to expire soon."""


@dataclass(frozen=True, slots=True)
class Described:
    """A certificate as it is shown; times are in UTC."""

    file: str
    use: str
    """authority, server, client, or more than one, or empty where the certificate does not limit it."""
    subject: str
    issuer: str
    names: tuple[str, ...]
    begins: dt.datetime
    ends: dt.datetime
    fingerprint: str
    """SHA-256 of the certificate, hexadecimal."""
    problem: str

    def days_left(self, now: dt.datetime) -> float:
        """Days until the end, negative after it."""
        return (self.ends - now).total_seconds() / 86400


def describe(path: Path) -> list[Described]:
    """Describe the certificates of a PEM file, or those of the files `*.pem` in a folder.

    Raises:
        BadInput: there is none, or a damaged one.
    """
    files = sorted(path.glob("*.pem")) if path.is_dir() else [path]
    if not files:
        raise BadInput(f"there is no .pem file in {path}", remedy="`finetree tls init` makes an authority")
    return [described for file in files for described in _of_file(file)]


def _of_file(path: Path) -> list[Described]:
    from cryptography import x509

    try:
        pem = path.read_bytes()
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}") from None
    try:
        chain = x509.load_pem_x509_certificates(pem)
    except ValueError:
        text = f"{path.name} holds no PEM certificate, or a damaged one"
        raise BadInput(text, reason="CERTIFICATE_INVALID") from None
    return [_of(path, certificate, first=not number) for number, certificate in enumerate(chain)]


def _of(path: Path, certificate: x509.Certificate, *, first: bool) -> Described:
    from cryptography.hazmat.primitives import hashes

    return Described(
        file=path.name,
        use=_use(certificate),
        subject=common_name(certificate.subject),
        issuer=common_name(certificate.issuer),
        names=tuple(name for _, name in subject_names(certificate)),
        begins=certificate.not_valid_before_utc,
        ends=certificate.not_valid_after_utc,
        fingerprint=certificate.fingerprint(hashes.SHA256()).hex(),
        problem=_problem(path, certificate) if first else "",
    )


def _use(certificate: x509.Certificate) -> str:
    from cryptography import x509
    from cryptography.x509.oid import ExtendedKeyUsageOID

    uses = []
    try:
        if certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
            uses.append("authority")
    except x509.ExtensionNotFound:
        pass
    try:
        purposes = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        purposes = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE])
    named = {ExtendedKeyUsageOID.SERVER_AUTH: "server", ExtendedKeyUsageOID.CLIENT_AUTH: "client"}
    return ", ".join([*uses, *(text for oid, text in named.items() if oid in purposes)])


def _problem(path: Path, certificate: x509.Certificate) -> str:
    """Say what is wrong with the key beside a certificate; empty where nothing is, or where none lies there."""
    key = path.with_suffix(".key")
    try:
        content, mode = key.read_bytes(), key.stat().st_mode
    except FileNotFoundError:
        return ""
    except OSError as error:
        return f"cannot read {key.name}: {error.strerror}"
    if not issue.belongs_to(content, certificate, key.name):
        return f"{key.name} is not its key"
    return f"{key.name} can be read by other users" if mode & 0o077 else ""
