# SPDX-License-Identifier: Apache-2.0
"""Settings of the console, and which of them go together."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path


class SettingsError(Exception):
    """A setting that cannot be used. `reason` is UPPER_SNAKE, the message names the flag and what to do."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of the console; `check` says which of them do not go together.

    Attributes:
        host: address or name to listen on.
        port: port to listen on; 0 means any free one.
        recommender_address: where the recommender is; None means the SDK's default, as for the other two.
        estimator_address: where the estimator is.
        trainer_address: where the trainer is.
        insecure: allow an address that others reach without TLS or without a token.
        tls_cert: PEM certificate chain to serve with.
        tls_key: PEM private key of the certificate.
        token: bearer token that every request must carry; empty: requests are passed on with what they carry.
        pass_tokens: requests carry tokens of the services, which check them; needed, without a token of the console's
            own, where others reach the address.
        allowed_hosts: names that the Host header may have; IP addresses and "localhost" always may.
        max_body_bytes: largest JSON body of a request.
        max_calls: requests at once; more are refused with 429.
        max_streams: event streams, uploads and downloads at once; more are refused with 429.
        drain_seconds: longest time that running requests get after SIGTERM.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    recommender_address: str | None = None
    estimator_address: str | None = None
    trainer_address: str | None = None
    insecure: bool = False
    tls_cert: Path | None = None
    tls_key: Path | None = None
    token: str = field(default="", repr=False)
    pass_tokens: bool = False
    allowed_hosts: tuple[str, ...] = ()
    max_body_bytes: int = 2 * 1024 * 1024
    max_calls: int = 64
    max_streams: int = 256
    drain_seconds: float = 10.0

    def check(self) -> None:
        """Refuse settings that do not go together.

        Raises:
            SettingsError: TLS_INCOMPLETE; SETTING_INVALID; INSECURE_ADDRESS: others reach the address, and TLS or a
                token is missing.
        """
        if (self.tls_cert is None) != (self.tls_key is None):
            raise SettingsError("TLS_INCOMPLETE", "--tls-cert and --tls-key go together")
        if self.token and self.pass_tokens:
            raise SettingsError(
                "SETTING_INVALID", "--pass-tokens: the console has a token of its own; give one of the two"
            )
        if is_loopback(self.host) or self.insecure:
            return
        missing = [  # as a service does; and a token, since the services themselves may take every caller
            *(["--tls-cert and --tls-key"] if self.tls_cert is None else []),
            *([] if self.token or self.pass_tokens else ["--token-file or --pass-tokens"]),
        ]
        if missing:
            text = f"{self.host} is not loopback: give {' and '.join(missing)}, or --insecure"
            raise SettingsError("INSECURE_ADDRESS", text)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a host."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def is_local(address: str) -> bool:
    """Whether an address of gRPC ("host:port", "unix:…") is on this machine."""
    return address.startswith("unix:") or is_loopback(address.rpartition(":")[0])


def host_and_port(address: str) -> tuple[str, int]:
    """Split HOST:PORT; the host of an IPv6 address is in brackets, and given back without them.

    Raises:
        SettingsError: SETTING_INVALID.
    """
    host, separator, port = address.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    if not separator or not bare or (":" in bare and not host.startswith("[")):
        raise SettingsError("SETTING_INVALID", f"--address: {address!r} is not HOST:PORT, such as 127.0.0.1:8080")
    if not (port.isascii() and port.isdecimal() and int(port) < 65536):
        raise SettingsError("SETTING_INVALID", f"--address: {port!r} is no port; take 0 to 65535")
    return bare, int(port)
