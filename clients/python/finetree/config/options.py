# SPDX-License-Identifier: Apache-2.0
"""Options of a client: addresses, encryption, deadlines. Nothing here imports gRPC."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from finetree.config.settings import SERVICES, Service, Settings, invalid, resolve, token_of
from finetree.config.token import Token

RETRIES = 3
"""Attempts of a unary call after its first."""
RECONNECT_TIMEOUT = 300.0
"""Seconds of continuous failure after which streams, uploads and downloads give up."""


@dataclass(frozen=True, slots=True)
class TLS:
    """Encryption. Each field is PEM bytes or a path to them.

    `ca` are the authorities to trust (None: the system's), `certificate` and `key` this client's own (mutual TLS),
    `server_name` the name that the server's certificate must carry, when it is not the address's. Files that change
    are used from the next call on; streams that are open go on.
    """

    ca: bytes | Path | None = None
    certificate: bytes | Path | None = None
    key: bytes | Path | None = field(default=None, repr=False)
    server_name: str = ""

    def __post_init__(self) -> None:
        """Take a text for a path, as everybody who does not check types expects."""
        for name in ("ca", "certificate", "key"):
            if isinstance(value := getattr(self, name), str):
                object.__setattr__(self, name, Path(value))


@dataclass(frozen=True, slots=True)
class Target:
    """Address of a service as gRPC takes it ("host:port" or "unix:…"), its encryption; None for plain text."""

    address: str
    tls: TLS | None
    token: Token | None = None


@dataclass(frozen=True, slots=True)
class Options:
    """Options of a client.

    `project` is empty where none was given: ids alone are then sent, which a service takes as those of the caller's own
    project. `timeout` is that of unary calls in seconds, None means the default of each; `retries` are their further
    attempts.
    """

    targets: Mapping[Service, Target]
    project: str
    timeout: float | None = None
    retries: int = RETRIES
    reconnect_timeout: float = RECONNECT_TIMEOUT
    profile: str = ""
    interceptors: Sequence[Any] = ()

    def changed(
        self, *, timeout: float | None = None, retries: bool | int | None = None, reconnect_timeout: float | None = None
    ) -> Options:
        """Make a copy with other limits; None leaves one as it is."""
        return replace(
            self,
            timeout=self.timeout if timeout is None else _positive("timeout", timeout),
            retries=_retries(self.retries if retries is None else retries),
            reconnect_timeout=_positive(
                "reconnect_timeout", self.reconnect_timeout if reconnect_timeout is None else reconnect_timeout
            ),
        )

    def without_secrets(self) -> Options:
        """Make a copy that may be pickled: no private key, and of a token only where it is read."""
        bare = {
            name: replace(
                target,
                tls=target.tls
                and replace(target.tls, key=target.tls.key if isinstance(target.tls.key, Path) else None),
                token=target.token and target.token.without_secrets(),
            )
            for name, target in self.targets.items()
        }
        return replace(self, targets=bare, interceptors=())


def make_options(
    address: str | None,
    addresses: Mapping[Service, str | None],
    *,
    profile: str | None = None,
    project: str | None = None,
    token: str | Callable[[], str] | None = None,
    tls: bool | TLS | None = None,
    timeout: float | None = None,
    retries: bool | int = True,
    reconnect_timeout: float = RECONNECT_TIMEOUT,
    interceptors: Sequence[Any] = (),
) -> Options:
    """Build options from arguments, then environment variables (FINETREE_ADDRESS, …), the profile, defaults."""
    if timeout is not None and timeout <= 0:
        raise invalid("timeout", f"must be more than 0 seconds, got {timeout}")
    given: dict[str, Any] = {f"{service}_address": own for service, own in addresses.items()}
    given |= {"address": address, "project": project, "token": token, "tls": tls, "timeout": timeout}
    settings = resolve(given, profile=profile)
    own_token = token_of(settings)
    targets = {service: _target(service, settings, own_token) for service in SERVICES}
    found = settings.found
    given_project = found["project"].level != "default"
    options = Options(
        targets,
        str(found["project"].value).removeprefix("projects/") if given_project else "",
        found["timeout"].value if "timeout" in found else None,
        profile=settings.profile.value,
        interceptors=tuple(interceptors),
    )
    return options.changed(retries=retries, reconnect_timeout=reconnect_timeout)


def _target(service: Service, settings: Settings, token: Token | None) -> Target:
    address = str(settings.addresses[service].value)
    scheme, separator, rest = address.partition("://")
    if separator and scheme not in {"http", "https", "dns"}:
        raise invalid("address", f"{address!r} has the scheme {scheme!r}; use host:port, http://, https:// or unix:")
    bare = rest.rstrip("/") if separator and scheme != "dns" else address
    if not bare.startswith(("unix:", "dns:")) and not _has_port(bare):
        raise invalid("address", f"{address!r} has no port; write it as host:port, such as 127.0.0.1:50053")
    used = next((key for key in ("token", "token_file", "token_command") if settings.applies(key, service)), "")
    sent = token if used else None
    # A token must not travel in clear text: it switches encryption on, unless the address says http:// or is local.
    exposed = sent is not None and not is_local(bare)
    return Target(bare, _tls(service, settings, scheme if separator else "", exposed=exposed), sent)


def is_local(address: str) -> bool:
    """Whether an address is a Unix socket or loopback: what is sent there stays on this machine."""
    if address.startswith("unix:"):
        return True
    host = address.rpartition(":")[0].removeprefix("[").removesuffix("]")
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _tls(service: Service, settings: Settings, scheme: str, *, exposed: bool) -> TLS | None:
    switch = settings.get("tls", service)
    if isinstance(switch, TLS):
        return switch
    named = {field: settings.get(f"tls_{field}", service) for field in ("ca", "certificate", "key", "server_name")}
    given = {field: value for field, value in named.items() if value is not None}
    implied = scheme == "https" or (scheme != "http" and (exposed or bool(given)))
    return TLS(**given) if (implied if switch is None else switch) else None


def _positive(name: str, seconds: float) -> float:
    if not seconds > 0:
        raise invalid(name, f"must be more than 0 seconds, got {seconds}")
    return seconds


def _retries(retries: int) -> int:
    if retries is True:
        return RETRIES
    if retries < 0:
        raise invalid("retries", f"must be 0 or more further attempts, got {retries}")
    return int(retries)


def _has_port(address: str) -> bool:
    port = address.rpartition(":")[2]
    return port.isdecimal() and 0 < int(port) < 65536
