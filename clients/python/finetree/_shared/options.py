# SPDX-License-Identifier: Apache-2.0
"""Options of a client: addresses, encryption, deadlines. Nothing here imports gRPC."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from finetree.errors import InvalidArgument, Violation

Service = Literal["recommender", "estimator", "trainer"]
SERVICES: tuple[Service, ...] = ("recommender", "estimator", "trainer")
DEFAULT_ADDRESS: Mapping[Service, str] = {
    "recommender": "127.0.0.1:50051",
    "estimator": "127.0.0.1:50052",
    "trainer": "127.0.0.1:50053",
}
RETRIES = 3
"""Attempts of a unary call after its first."""
RECONNECT_TIMEOUT = 300.0
"""Seconds of continuous failure after which streams, uploads and downloads give up."""


@dataclass(frozen=True, slots=True)
class TLS:
    """Encryption. Each field is PEM bytes or a path to them.

    `ca` are the authorities to trust (None: the system's), `certificate` and `key` this client's own (mutual TLS),
    `server_name` the name that the server's certificate must carry, when it is not the address's.
    """

    ca: bytes | Path | None = None
    certificate: bytes | Path | None = None
    key: bytes | Path | None = field(default=None, repr=False)
    server_name: str = ""


@dataclass(frozen=True, slots=True)
class Target:
    """Address of a service as gRPC takes it ("host:port" or "unix:…"), and its encryption; None for plain text."""

    address: str
    tls: TLS | None


@dataclass(frozen=True, slots=True)
class Options:
    """Options of a client.

    `timeout` is that of unary calls in seconds, None means the default of each; `retries` are their further attempts.
    """

    targets: Mapping[Service, Target]
    project: str
    token: str | None = field(default=None, repr=False)
    timeout: float | None = None
    retries: int = RETRIES
    reconnect_timeout: float = RECONNECT_TIMEOUT

    def changed(
        self, *, timeout: float | None = None, retries: bool | int | None = None, reconnect_timeout: float | None = None
    ) -> Options:
        """Make a copy with other limits; None leaves one as it is."""
        return replace(
            self,
            timeout=self.timeout if timeout is None else _positive("timeout", timeout),
            retries=_retries(self.retries if retries is None else retries),
            reconnect_timeout=(
                self.reconnect_timeout
                if reconnect_timeout is None
                else _positive("reconnect_timeout", reconnect_timeout)
            ),
        )

    def without_secrets(self) -> Options:
        """Make a copy that may be pickled: no token, no private key."""
        bare = {name: replace(t, tls=t.tls and replace(t.tls, key=None)) for name, t in self.targets.items()}
        return replace(self, targets=bare, token=None)


def make_options(
    address: str | None,
    addresses: Mapping[Service, str | None],
    *,
    project: str | None,
    token: str | None,
    tls: bool | TLS | None,
    timeout: float | None,
    retries: bool | int,
    reconnect_timeout: float,
) -> Options:
    """Build options from arguments, then environment variables (FINETREE_ADDRESS, …), then defaults."""
    token = token or os.environ.get("FINETREE_TOKEN") or None
    targets = {
        service: _target(_address(service, address, addresses.get(service)), tls=tls, token=token)
        for service in SERVICES
    }
    project = project or os.environ.get("FINETREE_PROJECT") or "default"
    bare = Options(targets, project.removeprefix("projects/"), token)
    return bare.changed(timeout=timeout, retries=retries, reconnect_timeout=reconnect_timeout)


def _address(service: Service, shared: str | None, own: str | None) -> str:
    env = os.environ
    return (
        own
        or shared
        or env.get(f"FINETREE_{service.upper()}_ADDRESS")
        or env.get("FINETREE_ADDRESS")
        or DEFAULT_ADDRESS[service]
    )


def _target(address: str, *, tls: bool | TLS | None, token: str | None) -> Target:
    scheme, separator, rest = address.partition("://")
    if separator and scheme not in {"http", "https", "dns"}:
        raise _invalid("address", f"{address!r} has the scheme {scheme!r}; use host:port, http://, https:// or unix:")
    bare = rest.rstrip("/") if separator and scheme != "dns" else address
    if not bare.startswith(("unix:", "dns:")) and not _has_port(bare):
        raise _invalid("address", f"{address!r} has no port; write it as host:port, such as 127.0.0.1:50053")
    if isinstance(tls, TLS):
        return Target(bare, tls)
    # A token must not travel in clear text: it switches encryption on, unless the caller wrote http://.
    encrypt = (
        tls if tls is not None else scheme == "https" or (token is not None and not (separator and scheme == "http"))
    )
    return Target(bare, TLS() if encrypt else None)


def _positive(name: str, seconds: float) -> float:
    if not seconds > 0:
        raise _invalid(name, f"must be more than 0 seconds, got {seconds}")
    return seconds


def _retries(retries: int) -> int:
    if retries is True:
        return RETRIES
    if retries < 0:
        raise _invalid("retries", f"must be 0 or more further attempts, got {retries}")
    return int(retries)


def _has_port(address: str) -> bool:
    port = address.rpartition(":")[2]
    return port.isdecimal() and 0 < int(port) < 65536


def _invalid(name: str, text: str) -> InvalidArgument:
    return InvalidArgument(f"{name}: {text}", reason="INVALID_OPTION", violations=(Violation(name, text),))
