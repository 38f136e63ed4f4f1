# SPDX-License-Identifier: Apache-2.0
"""Settings of a service: a frozen dataclass, filled from the command line, the environment and a TOML file.

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Settings(ServiceSettings):
        data_dir: Path = setting(Path("data"), "Folder of everything the service keeps.")

    settings = load(Settings, sys.argv[1:], os.environ, prefix="FINETREE_TRAINER")

`data_dir` is then, first match wins: `--data-dir`, FINETREE_TRAINER_DATA_DIR, `data_dir` in the file that `--config`
or FINETREE_TRAINER_CONFIG names, the default. A `Secret` comes from the environment or from a file (`--x-file`,
..._X_FILE, `x_file`), never from the command line, which every process of the machine can see. A `SecretUrl` may stand
there while it has no password.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import tomllib
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar

from finetree_runtime.config.values import (
    Duration,
    Secret,
    SecretUrl,
    Size,
    carries_password,
    convert,
    kind_of,
    metavar,
)
from finetree_runtime.errors import DomainError

__all__ = [
    "Duration",
    "Secret",
    "SecretUrl",
    "ServiceSettings",
    "SettingsError",
    "Size",
    "listen_address",
    "load",
    "load_or_exit",
    "refuse_start",
    "required",
    "setting",
]

T = TypeVar("T")


class SettingsError(Exception):
    """A setting that cannot be used. The message names the flag, variable or key, and what is wrong with its value.

    Attributes:
        reason: SETTING_INVALID, SETTING_MISSING, SETTING_UNKNOWN, CONFIG_UNREADABLE or, from a service's start,
            INSECURE_ADDRESS, ADDRESS_UNAVAILABLE and the like.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def setting(default: Any, text: str) -> Any:
    """Define a field with a default and the line that `--help` shows for it."""
    return dataclasses.field(default=default, metadata={"help": text})


def required(text: str) -> Any:
    """Define a field without a default: starting without it is an error."""
    return dataclasses.field(metadata={"help": text})


def listen_address(port: int) -> Any:
    """Define the `address` field of a service; its default is `port` on loopback."""
    return setting(f"127.0.0.1:{port}", "Where to listen: HOST:PORT (port 0: any free one) or unix:PATH.")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ServiceSettings:
    """Settings that every service has; a service's own settings extend this class."""

    address: str = listen_address(0)
    insecure: bool = setting(
        default=False, text="Allow an address that is not loopback without TLS or without --access-dir."
    )
    tls_cert: Path | None = setting(None, "PEM certificate chain; read again when the file changes.")
    tls_key: Path | None = setting(None, "PEM private key of the certificate.")
    tls_client_ca: Path | None = setting(None, "PEM authorities that clients' certificates must be of (mutual TLS).")
    access_dir: Path | None = setting(
        None, "Folder of the access file, which says who may call (finetree tokens). Default: every caller may do all."
    )
    oidc_issuer: str = setting(
        "", "URL of the OpenID Connect issuer whose JSON Web Tokens are taken, as it stands in them (iss); https."
    )
    oidc_audience: str = setting(
        "", "Audience (aud) that such tokens must be for: the name of this installation there."
    )
    oidc_groups_claim: str = setting("", "Claim with the groups of such a token; a.b for one inside of another.")
    oidc_jwks_uri: str = setting("", "URL of the issuer's keys, where that is on another host than the issuer's own.")
    ready_file: Path | None = setting(None, "Write the ready line (JSON with the bound address) here, not to stdout.")
    stop_with_stdin: bool = setting(
        default=False,
        text="Stop as after SIGTERM when standard input ends: the process that started the service is gone.",
    )
    metrics_address: str = setting(
        "",
        "HOST:PORT of /metrics, /healthz and /readyz, plain HTTP; a port alone is on loopback. Empty: none of them.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = setting("info", "Least important log line to write.")
    drain_time: Duration = setting(10.0, "Longest time that running calls get after SIGTERM.")
    max_call_time: Duration = setting(60.0, "Longest time of a unary call.")
    max_running_calls: int = setting(32, "Most unary calls that are worked on at once.")
    max_waiting_calls: int = setting(64, "Most unary calls that wait for those; one more is refused at once.")
    max_streams: int = setting(4096, "Most streams that are open at once, calls that only wait among them.")
    max_request_bytes: int = setting(
        256 * 1024, "Largest request message; those of a client's stream have their own limit."
    )
    max_stream_message_bytes: int = setting(0, "Largest message of a client's stream; 0: as other requests.")
    audit: Literal["auto", "changes", "all", "off"] = setting(
        "auto",
        "Which calls the audit log has: changes and refusals, all, or none. auto: changes where it has a folder.",
    )
    audit_dir: Path | None = setting(None, "Folder of audit logs; each service writes in a folder of its own below it.")
    audit_required: bool = setting(default=False, text="Refuse changes while the audit log cannot be written.")
    audit_file_bytes: Size = setting(64 * 1024**2, "Size at which the audit log goes on in another file.")
    limits_file: Path | None = setting(None, "Limits of principals and projects (TOML, docs/limits.md).")
    page_token_key: Secret = setting(
        Secret(), "Key that signs page tokens; the same for all replicas. Default: random."
    )


def load(cls: type[T], argv: Sequence[str], env: Mapping[str, str], prefix: str) -> T:
    """Load settings.

    Args:
        cls: A dataclass whose fields are str, int, float, bool, Path, Duration, Secret, Literal of words or
            tuple[str, ...], or one of these or None.
        argv: The command line without the program's name. `--help` prints every setting and exits with 0.
        env: The environment.
        prefix: Of the environment's variables, for example "FINETREE_ESTIMATOR".

    Raises:
        SettingsError: For the first setting that cannot be used.
    """
    types = typing.get_type_hints(cls)
    options = [
        option
        for field in dataclasses.fields(cls)  # type: ignore[arg-type]  # every T here is a dataclass
        for option in _Option.of(field, types[field.name], prefix)
    ]
    flags = vars(_parser(options, prefix).parse_args(list(argv)))
    config = flags.pop("config") or env.get(f"{prefix}_CONFIG")
    layers: list[_Layer] = [
        {o.key: (o.flag, flags[o.key]) for o in options if flags.get(o.key) is not None},
        {o.key: (o.variable, env[o.variable]) for o in options if o.variable in env},
        _file_layer(config, options),
    ]
    return cls(**_values(options, layers))


def load_or_exit(cls: type[T], prefix: str) -> T:
    """Load settings from this process's arguments and environment; a bad one ends it with one line and exit code 2."""
    try:
        return load(cls, sys.argv[1:], os.environ, prefix)
    except SettingsError as error:
        raise SystemExit(refuse_start(error)) from None


def refuse_start(error: SettingsError | DomainError) -> int:
    """Write why a program cannot start to stderr, as its one line, and return its exit code, 2."""
    sys.stderr.write(f"{error.reason}: {error}\n")  # logging is not set up yet
    return 2


_Layer = dict[str, tuple[str, Any]]  # by key: where it was given, and the value as it was given there


@dataclasses.dataclass(frozen=True, slots=True)
class _Option:
    """One way to give a field. A secret has two: its value, and the file that holds it."""

    key: str
    field: dataclasses.Field[Any]
    kind: Any
    prefix: str
    is_file: bool = False

    @classmethod
    def of(cls, field: dataclasses.Field[Any], annotation: Any, prefix: str) -> list[_Option]:
        kind = kind_of(annotation)
        options = [cls(field.name, field, kind, prefix)]
        if kind in (Secret, SecretUrl):
            options.append(cls(f"{field.name}_file", field, kind, prefix, is_file=True))
        return options

    @property
    def flag(self) -> str:
        return "--" + self.key.replace("_", "-")

    @property
    def variable(self) -> str:
        return f"{self.prefix}_{self.key.upper()}"

    @property
    def has_flag(self) -> bool:
        return self.kind is not Secret or self.is_file

    @property
    def required(self) -> bool:
        return self.field.default is dataclasses.MISSING and self.field.default_factory is dataclasses.MISSING

    @property
    def help(self) -> str:
        text = self.field.metadata.get("help", "")
        if self.is_file:
            return f"File that holds: {text[:1].lower()}{text[1:]} [{self.variable}]"
        default = self.field.default
        hidden = isinstance(default, Secret) or default in (dataclasses.MISSING, None, "", ())
        shown = "" if hidden else f", default {_shown(default)}"
        return f"{text} [{self.variable}{', required' if self.required else shown}]"

    def convert(self, origin: str, raw: Any) -> Any:
        try:
            if self.is_file:
                return convert(self.kind, Path(str(raw)).read_text(encoding="utf-8").strip())
            if self.kind is SecretUrl and origin == self.flag:
                self._require_no_password(raw)
            return convert(self.kind, raw)
        except OSError as error:
            raise SettingsError("SETTING_INVALID", f"{origin}: cannot read the file: {error.strerror}") from None
        except ValueError as error:
            raise SettingsError("SETTING_INVALID", f"{origin}: {error}") from None

    def _require_no_password(self, url: str) -> None:
        if carries_password(url):
            ways = f"{self.variable}, {self.flag}-file, or what the client library reads by itself"
            raise ValueError(f"every process of this machine sees a password given here; use {ways}")


def _values(options: list[_Option], layers: list[_Layer]) -> dict[str, Any]:
    """Take each field's value from the first layer that has it; fields that no layer has keep their default."""
    values: dict[str, Any] = {}
    for layer in layers:
        for option in options:
            if option.field.name not in values and option.key in layer:
                values[option.field.name] = option.convert(*layer[option.key])
    for option in options:
        if option.required and option.field.name not in values:
            ways = f"give {option.flag} or set {option.variable}" if option.has_flag else f"set {option.variable}"
            raise SettingsError("SETTING_MISSING", f"{option.key} is not set: {ways}")
    return values


def _file_layer(config: str | None, options: list[_Option]) -> _Layer:
    if not config:
        return {}
    try:
        content = tomllib.loads(Path(config).read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError("CONFIG_UNREADABLE", f"the configuration file cannot be read: {error.strerror}") from None
    except ValueError as error:  # TOML syntax and bytes that are not UTF-8
        raise SettingsError("CONFIG_UNREADABLE", f"the configuration file is not TOML: {error}") from None
    unknown = sorted(content.keys() - {option.key for option in options})
    if unknown:
        raise SettingsError("SETTING_UNKNOWN", f"{unknown[0]} in the configuration file is not a setting; see --help")
    return {key: (f"{key} in the configuration file", value) for key, value in content.items()}


class _Parser(argparse.ArgumentParser):
    """Raises SettingsError instead of printing the usage and ending the program."""

    def error(self, message: str) -> NoReturn:
        unknown = "unrecognized" in message
        raise SettingsError("SETTING_UNKNOWN" if unknown else "SETTING_INVALID", f"{message}; see --help")


def _parser(options: list[_Option], prefix: str) -> _Parser:
    parser = _Parser(
        prog=f"python -m {prefix.lower()}",
        allow_abbrev=False,
        description="Flags override environment variables [in brackets], these the TOML file, the file the defaults.",
        epilog="Secrets are given by the environment or by a file: "
        + (", ".join(option.variable for option in options if not option.has_flag) or "none here"),
    )
    parser.add_argument("--config", metavar="FILE", help=f"TOML file of settings [{prefix}_CONFIG]")
    for option in options:
        if not option.has_flag:
            continue
        text = option.help.replace("%", "%%")
        if option.kind is bool:
            parser.add_argument(option.flag, dest=option.key, action=argparse.BooleanOptionalAction, help=text)
        else:
            action = "append" if option.kind is tuple else "store"
            name = "FILE" if option.is_file else metavar(option.kind)
            parser.add_argument(option.flag, dest=option.key, action=action, metavar=name, help=text)
    return parser


def _shown(default: Any) -> str:
    return ",".join(default) if isinstance(default, tuple) else str(default)
