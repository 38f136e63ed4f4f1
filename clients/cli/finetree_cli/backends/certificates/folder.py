# SPDX-License-Identifier: Apache-2.0
"""The folder of a private authority: what is missing in it is made, what is there is renewed or left alone.

DIR/ca.pem, ca.key            the authority: clients get the first, nobody gets the second
DIR/server.pem, server.key    of the services
DIR/client-NAME.pem, .key     of a client
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from finetree_cli.backends.certificates import authority as issue
from finetree_cli.backends.certificates.authority import Issued
from finetree_cli.backends.private_files import PRIVATE, write_private
from finetree_cli.errors import BadInput

if TYPE_CHECKING:
    from cryptography import x509

PUBLIC, FOLDER = 0o644, 0o700
"""Modes of certificates and of a folder that is made."""
CERTIFICATE_EXISTS = "CERTIFICATE_EXISTS"


@dataclass(frozen=True, slots=True)
class Change:
    """A certificate of the folder, and whether it was made now."""

    path: Path
    made: bool


def init(folder: Path, hosts: Sequence[str], clients: Sequence[str], days: int) -> list[Change]:
    """Make what is missing: the authority, the certificate of the services, those of clients. Changes no file.

    Raises:
        BadInput: a name is none; what is there is of another authority or for other names; the folder is not writable.
    """
    names, wanted = _unique(map(issue.host_name, hosts)), _unique(map(issue.client_name, clients))
    _make_folder(folder)
    now = dt.datetime.now(dt.UTC)
    store = _Folder(folder)
    changes = [store.ensure("ca", lambda key: issue.make_authority(key, now))]
    signer = store.authority()
    if names:
        store.refuse_other_names(names)
        changes.append(store.ensure("server", lambda key: issue.make_server(key, names, signer, now, days)))
    for client in wanted:
        made = store.ensure(stem(client), lambda key, own=client: issue.make_client(key, own, signer, now, days))  # type: ignore[misc]  # mypy does not see the default
        changes.append(made)
    for change in changes:
        store.refuse_strangers(change.path)
    return changes


def renew(folder: Path, days: int, within: float | None, clients: Sequence[str] | None = None) -> list[Change]:
    """Make the certificates of the folder anew, with new keys, for the names that they have.

    Args:
        folder: of an authority that `init` made.
        days: that the new ones are valid for.
        within: renew those alone that end within so many seconds; None means all.
        clients: of clients renew these alone; None means all, and the server's.

    Raises:
        BadInput: there is no authority, or a certificate is not one of it.
    """
    now = dt.datetime.now(dt.UTC)
    store = _Folder(folder)
    signer = store.authority()
    paths = [
        path for path in sorted(folder.glob("*.pem")) if path.name == "server.pem" or path.name.startswith("client-")
    ]
    if clients is not None:
        named = {f"{stem(issue.client_name(client))}.pem" for client in clients}
        if missing := sorted(named - {path.name for path in paths}):
            raise BadInput(f"there is no {missing[0]} in the folder", remedy="`finetree tls init` makes it")
        paths = [path for path in paths if path.name in named]
    changes = []
    for path in paths:
        old = store.refuse_strangers(path)
        due = within is None or (old.not_valid_after_utc - now).total_seconds() <= within
        if due:
            store.replace(path.stem, _again(old, signer, now, days))
        changes.append(Change(path, made=due))
    return changes


def stem(client: str) -> str:
    """Name of a client's files, without their endings."""
    return "client-" + re.sub(r"[^A-Za-z0-9._@-]+", "-", client.removeprefix(issue.SPIFFE))


def server_names(certificate: x509.Certificate) -> list[str]:
    """Names and IP addresses that a certificate is for."""
    return [name for kind, name in subject_names(certificate) if kind in ("dns", "ip")]


def subject_names(certificate: x509.Certificate) -> list[tuple[str, str]]:
    """Alternative names of a certificate, each with its kind: dns, ip, uri."""
    from cryptography import x509

    kinds: dict[type, str] = {x509.DNSName: "dns", x509.IPAddress: "ip", x509.UniformResourceIdentifier: "uri"}
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [(kinds[type(name)], str(name.value)) for name in found if type(name) in kinds]


def common_name(name: x509.Name) -> str:
    """Common name of a subject or an issuer; the whole name where it has none."""
    from cryptography.x509.oid import NameOID

    found = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found[0].value) if found else name.rfc4514_string()


def _again(old: x509.Certificate, signer: Issued, now: dt.datetime, days: int) -> Issued:
    key = issue.new_key()
    if hosts := server_names(old):
        return issue.make_server(key, hosts, signer, now, days)
    uris = [name for kind, name in subject_names(old) if kind == "uri"]
    return issue.make_client(key, uris[0] if uris else common_name(old.subject), signer, now, days)


class _Folder:
    """Reads and writes the files of a folder by their stem."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def authority(self) -> Issued:
        """Read the authority. Raises BadInput where it is not complete."""
        pem, key = self._read("ca.pem"), self._read("ca.key")
        if pem is None or key is None:
            lacking = "ca.pem" if pem is None else "ca.key"
            remedy = (
                "`finetree tls init` makes an authority" if pem is None else "run this where the authority's key is"
            )
            raise BadInput(f"the folder has no {lacking}", remedy=remedy, reason="AUTHORITY_INCOMPLETE")
        if not issue.belongs_to(key, issue.load_certificate(pem, "ca.pem"), "ca.key"):
            raise BadInput("ca.key is not the key of ca.pem", reason="AUTHORITY_INCOMPLETE")
        return Issued(key, pem)

    def ensure(self, name: str, make: Callable[[bytes], Issued]) -> Change:
        """Make a certificate if there is none; a key that a killed run left is used."""
        path = self._folder / f"{name}.pem"
        if path.exists():
            return Change(path, made=False)
        key = self._read(f"{name}.key")
        if key is None:
            key = issue.new_key()
            self._write(f"{name}.key", key, PRIVATE, replace=False)
        self._write(path.name, make(key).certificate, PUBLIC, replace=False)
        return Change(path, made=True)

    def replace(self, name: str, issued: Issued) -> None:
        """Replace key and certificate, each in one step; services go on with the old ones until both are there."""
        self._write(f"{name}.key", issued.key, PRIVATE, replace=True)
        self._write(f"{name}.pem", issued.certificate, PUBLIC, replace=True)

    def refuse_other_names(self, names: list[str]) -> None:
        """Raise BadInput where the server's certificate lacks a name that is asked for."""
        pem = self._read("server.pem")
        if pem is None:
            return
        has = server_names(issue.load_certificate(pem, "server.pem"))
        if lacking := [name for name in names if name not in has]:
            raise BadInput(
                f"server.pem exists and is for {', '.join(has) or 'no name'}, not for {', '.join(lacking)}",
                remedy="move it and its key away, or take another folder: nothing is overwritten",
                reason=CERTIFICATE_EXISTS,
            )

    def refuse_strangers(self, path: Path) -> x509.Certificate:
        """Return a certificate. Raises BadInput where it is not signed by the authority of the folder."""
        from cryptography.exceptions import InvalidSignature

        found = issue.load_certificate(path.read_bytes(), path.name)
        signer = issue.load_certificate((self._folder / "ca.pem").read_bytes(), "ca.pem")
        try:
            found.verify_directly_issued_by(signer)
        except (ValueError, TypeError, InvalidSignature):
            text = f"{path.name} is not of the authority in ca.pem"
            raise BadInput(text, remedy="take another folder", reason=CERTIFICATE_EXISTS) from None
        return found

    def _read(self, name: str) -> bytes | None:
        try:
            return (self._folder / name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise BadInput(f"cannot read {name}: {error.strerror}") from None

    def _write(self, name: str, content: bytes, mode: int, *, replace: bool) -> None:
        try:
            write_private(self._folder / name, content, mode=mode, new=not replace)
        except OSError as error:
            raise BadInput(f"cannot write {name}: {error.strerror}") from None


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=FOLDER, parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"cannot make the folder: {error.strerror}") from None


def _unique(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))
