# SPDX-License-Identifier: Apache-2.0
"""The URL of the trainer's database: which ones are taken, and how one is named without what is secret in it."""

from typing import Any
from urllib.parse import quote

from finetree_runtime.config.settings import SettingsError
from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

DRIVER = "postgresql+psycopg"
_SAME = ("postgresql", "postgres", DRIVER)
"""Schemes that name the one driver that is supported."""
_SECRET_OPTIONS = ("password", "sslpassword", "scram_client_key", "scram_server_key", "oauth_client_secret")
"""Options of a connection that are as secret as its password."""

KEEP_ALIVE: dict[str, Any] = {
    "connect_timeout": 10,
    "keepalives_idle": 15,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
    "fallback_application_name": "finetree-trainer",
}
"""Options of libpq that a URL may set otherwise: a server that has vanished is given up within half a minute."""


def parse(text: str) -> URL:
    """The URL of a PostgreSQL database. Raises SettingsError DATABASE_URL_INVALID, without repeating the URL."""
    try:
        url = make_url(text.strip())
    except (ArgumentError, ValueError):  # the second for a port that is no number
        raise _invalid("it is not a URL such as postgresql+psycopg://USER@HOST:5432/DATABASE") from None
    if url.drivername.startswith("sqlite"):
        raise _invalid("SQLite is embedded and needs no URL: leave it out, and the database is in data_dir")
    if url.drivername not in _SAME:
        raise _invalid(f"{url.drivername[:40]!r} is not supported; use postgresql+psycopg://")
    return url.set(drivername=DRIVER)


def named(url: URL) -> str:
    """Name a database for people: its host, port and name, nothing else."""
    host = url.host or url.query.get("host") or "the default host"
    if isinstance(host, tuple):
        host = ",".join(host)
    database = url.database or url.query.get("dbname") or "the default database"
    return f"{database} on {host}" + (f":{url.port}" if url.port else "")


def redacted(url: URL, text: str) -> str:
    """A text of the driver without any secret of the URL, as it stands there or escaped."""
    found = [url.password, *(url.query.get(name) for name in _SECRET_OPTIONS)]
    for secret in found:
        for value in secret if isinstance(secret, tuple) else (secret,):
            for written in {str(value), quote(str(value), safe="")} if value else set():
                text = text.replace(written, "***")
    return text


def _invalid(why: str) -> SettingsError:
    return SettingsError("DATABASE_URL_INVALID", f"database_url: {why}")
