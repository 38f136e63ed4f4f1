# SPDX-License-Identifier: Apache-2.0
"""`python -m finetree_console`: serve HTTP in front of the three services, until a signal."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Any

import click

from finetree_console.settings import Settings, SettingsError, host_and_port

ENV_PREFIX = "FINETREE_CONSOLE"
"""Prefix of the environment variables: `--tls-cert` is FINETREE_CONSOLE_TLS_CERT."""
_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command(context_settings={"auto_envvar_prefix": ENV_PREFIX, "show_default": True})
@click.option("--address", default="127.0.0.1:8080", metavar="HOST:PORT", help="Where to listen; port 0: any free one.")
@click.option("--recommender-address", metavar="ADDRESS", help="Where the recommender is.  [default: as of the SDK]")
@click.option("--estimator-address", metavar="ADDRESS", help="Where the estimator is.  [default: as of the SDK]")
@click.option("--trainer-address", metavar="ADDRESS", help="Where the trainer is.  [default: as of the SDK]")
@click.option("--insecure", is_flag=True, help="Allow an address that is not loopback without TLS or a token.")
@click.option("--tls-cert", type=_FILE, help="PEM certificate chain.")
@click.option("--tls-key", type=_FILE, help="PEM private key of the certificate.")
@click.option("--token-file", type=_FILE, help=f"File with the token that requests must carry [or {ENV_PREFIX}_TOKEN].")
@click.option("--pass-tokens", is_flag=True, help="Requests carry tokens of the services, which check them.")
@click.option("--allowed-host", "allowed_hosts", multiple=True, help="Name that the Host header may have; repeatable.")
@click.option("--max-body-bytes", type=click.IntRange(min=1), default=2 << 20, help="Largest JSON body.")
@click.option("--max-calls", type=click.IntRange(min=1), default=64, help="Calls at once.")
@click.option("--max-streams", type=click.IntRange(min=1), default=256, help="Event streams and transfers at once.")
@click.option("--drain-seconds", type=click.FloatRange(min=0), default=10.0, help="Time to end requests at a stop.")
@click.option("--ready-file", type=_FILE, help="Write the ready line (JSON) here, not to stdout.")
@click.option("--stop-with-stdin", is_flag=True, help="Stop when standard input ends.")
def main(
    *, address: str, token_file: Path | None, ready_file: Path | None, stop_with_stdin: bool, **given: Any
) -> None:
    """Serve JSON over HTTP, event streams, uploads and downloads in front of the three services.

    Each option can also be given by an environment variable, such as FINETREE_CONSOLE_ADDRESS.
    """
    logging.basicConfig(format="%(message)s", level=logging.WARNING, stream=sys.stderr)
    logging.getLogger("finetree_console").setLevel(logging.INFO)
    if ready_file is not None:
        ready_file.unlink(missing_ok=True)  # an earlier run's file would report this one as ready
    try:
        host, port = host_and_port(address)
        settings = Settings(host=host, port=port, token=_token(token_file), **given)
        settings.check()
        serve(settings, ready_file, ends_with_stdin=stop_with_stdin)
    except SettingsError as error:
        print(f"{error.reason}: {error}", file=sys.stderr)  # noqa: T201  # a program's last words
        raise SystemExit(2) from None


def serve(settings: Settings, ready_file: Path | None, *, ends_with_stdin: bool) -> None:
    """Serve until a signal.

    Raises:
        SettingsError: ADDRESS_UNAVAILABLE, TLS_UNREADABLE.
    """
    from finetree_console.application import build
    from finetree_console.server.listener import address_of, announce, bind
    from finetree_console.server.server import Server, stop_with_stdin

    listener = bind(settings)
    address = address_of(listener)
    try:
        running = Server(build(settings), settings, lambda: announce(address, ready_file))
        running.config.load()
    except OSError as error:  # ssl.SSLError is one
        raise SettingsError("TLS_UNREADABLE", f"cannot use the TLS files: {error.strerror or error}") from None
    if ends_with_stdin:
        stop_with_stdin(running)
    running.run([listener])


def _token(file: Path | None) -> str:
    if file is None:
        return os.environ.get(f"{ENV_PREFIX}_TOKEN", "")
    try:
        token = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        text = f"--token-file: cannot read the file: {getattr(error, 'strerror', None) or 'it is not text'}"
        raise SettingsError("SETTING_INVALID", text) from None
    if not token:
        raise SettingsError("SETTING_INVALID", "--token-file: the file is empty")
    return token


if __name__ == "__main__":
    main()
