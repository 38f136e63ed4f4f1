# SPDX-License-Identifier: Apache-2.0
"""Keys and certificates: an authority of one's own, and what it signs for servers and clients (RFC 5280)."""

from __future__ import annotations

import datetime as dt
import ipaddress
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from finetree_cli.errors import BadInput, NotAvailable

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

AUTHORITY_DAYS = 3650
"""Days that an authority is valid for: clients have to be given another one after it."""
BACKDATED = dt.timedelta(minutes=5)
"""A certificate begins this long before it is made, for machines whose clock is behind."""
SPIFFE = "spiffe://"
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_CLIENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_SPIFFE_ID = re.compile(r"spiffe://[a-z0-9._-]{1,255}(/[A-Za-z0-9._-]+)+")


@dataclass(frozen=True, slots=True)
class Issued:
    """A private key and its certificate, both PEM."""

    key: bytes
    certificate: bytes


def require_cryptography() -> None:
    """Raise NotAvailable where the package that makes certificates is not installed."""
    try:
        import cryptography  # noqa: F401  # whether it is there
    except ImportError as error:
        remedy = "pip install 'finetree-cli[tls]'"
        raise NotAvailable("certificates need cryptography", remedy=remedy, reason="TLS_NOT_INSTALLED") from error


def host_name(text: str) -> str:
    """Normalize a name or an IP address under which a server is reached.

    Raises:
        BadInput: it is neither.
    """
    bare = text.strip().strip("[]")
    try:
        return str(ipaddress.ip_address(bare))
    except ValueError:
        pass
    try:
        name = bare.encode("idna").decode("ascii").lower().rstrip(".")
    except UnicodeError:
        name = ""
    labels = name.removeprefix("*.").split(".")
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise BadInput(f"--name: {text!r} is neither a host name nor an IP address", remedy="leave scheme and port out")
    return name


def client_name(text: str) -> str:
    """Check the name of a client: a SPIFFE id, or up to 64 letters, digits and . _ @ - .

    Raises:
        BadInput: it is neither.
    """
    if text.startswith(SPIFFE):
        if _SPIFFE_ID.fullmatch(text) and len(text) <= 2048:
            return text
        raise BadInput(f"--client: {text!r} is no SPIFFE id", remedy="write spiffe://TRUST-DOMAIN/PATH")
    if not _CLIENT.fullmatch(text):
        raise BadInput(
            f"--client: {text!r} cannot be the name of a client", remedy="take up to 64 letters, digits and . _ @ -"
        )
    return text


def new_key() -> bytes:
    """Make a private key on the curve P-256, which every TLS library has, as PEM without a password."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def make_authority(key: bytes, now: dt.datetime) -> Issued:
    """Make a certificate that signs others, by itself; it may not make further authorities."""
    from cryptography import x509

    private = _load(key)
    # Two authorities of one name would be mixed up by clients that trust both.
    name = _name(f"finetree authority {private.public_key().public_numbers().x % 16**8:08x}")
    builder = _builder(
        name, name, (private.public_key(), private.public_key()), begin=now, end=_after(now, AUTHORITY_DAYS)
    )
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(signs_certificates=True), critical=True)
    return Issued(key, _signed(builder, private))


def make_server(key: bytes, hosts: list[str], authority: Issued, now: dt.datetime, days: int) -> Issued:
    """Make the certificate of a server that is reached under `hosts`, normalized names and IP addresses."""
    from cryptography import x509

    names: list[x509.GeneralName] = []
    for host in hosts:
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            names.append(x509.DNSName(host))
    return _leaf(key, _name(hosts[0][:64]), names, authority, client=False, now=now, days=days)


def make_client(key: bytes, client: str, authority: Issued, now: dt.datetime, days: int) -> Issued:
    """Make the certificate of a client, whose principal is then "certificate:<client>"."""
    from cryptography import x509

    if client.startswith(SPIFFE):
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(client)]
        return _leaf(key, x509.Name([]), names, authority, client=True, now=now, days=days)
    return _leaf(key, _name(client), [], authority, client=True, now=now, days=days)


def load_certificate(pem: bytes, file: str) -> x509.Certificate:
    """Parse the first certificate of a PEM file; `file` is its name for the error.

    Raises:
        BadInput: it holds none.
    """
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificate(pem)
    except ValueError:
        raise BadInput(f"{file} holds no PEM certificate, or a damaged one", reason="CERTIFICATE_INVALID") from None


def belongs_to(key: bytes, certificate: x509.Certificate, file: str) -> bool:
    """Whether a key is that of a certificate; `file` is the key's name for the error.

    Raises:
        BadInput: the key cannot be read.
    """
    try:
        return bool(_load(key).public_key() == certificate.public_key())
    except (ValueError, TypeError):
        text = f"{file} holds no PEM private key without a password"
        raise BadInput(text, reason="CERTIFICATE_INVALID") from None


def _leaf(
    key: bytes,
    subject: x509.Name,
    names: list[x509.GeneralName],
    authority: Issued,
    *,
    client: bool,
    now: dt.datetime,
    days: int,
) -> Issued:
    from cryptography import x509
    from cryptography.x509.oid import ExtendedKeyUsageOID

    signer, private = x509.load_pem_x509_certificate(authority.certificate), _load(authority.key)
    issuer_key: Any = signer.public_key()
    end = min(_after(now, days), signer.not_valid_after_utc)
    builder = _builder(subject, signer.subject, (_load(key).public_key(), issuer_key), begin=now, end=end)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_usage(signs_certificates=False), critical=True)
    purpose = ExtendedKeyUsageOID.CLIENT_AUTH if client else ExtendedKeyUsageOID.SERVER_AUTH
    builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
    if names:  # critical where there is no subject beside them (RFC 5280, 4.2.1.6)
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=not list(subject))
    return Issued(key, _signed(builder, private))


def _builder(
    subject: x509.Name, issuer: x509.Name, keys: tuple[Any, Any], *, begin: dt.datetime, end: dt.datetime
) -> x509.CertificateBuilder:
    """What every certificate has; `keys` are the public ones of the subject and of the issuer."""
    from cryptography import x509

    public, issuer_key = keys
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin - BACKDATED)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False)
    )


def _after(now: dt.datetime, days: int) -> dt.datetime:
    return now + dt.timedelta(days=days)


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common: str) -> x509.Name:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _signed(builder: x509.CertificateBuilder, private: EllipticCurvePrivateKey) -> bytes:
    from cryptography.hazmat.primitives import hashes, serialization

    return builder.sign(private, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _load(key: bytes) -> EllipticCurvePrivateKey:
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    loaded: Any = load_pem_private_key(key, password=None)
    private: EllipticCurvePrivateKey = loaded
    return private
