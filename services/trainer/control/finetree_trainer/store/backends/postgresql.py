# SPDX-License-Identifier: Apache-2.0
"""PostgreSQL: one service writes, through one connection that holds the database's lock (decision 0065).

The lock is a session's advisory lock, so that it lasts exactly as long as the server's process behind the connection:
while a COMMIT of that one can still take effect nobody else writes, and whoever holds the lock next sees what became of
it. A transaction is known by its number, which the server remembers, so that nobody guesses at a commit without an
answer.
"""

import re
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from finetree_runtime.config.settings import SettingsError
from finetree_runtime.errors import Unavailable
from sqlalchemy import URL, Connection, Engine, create_engine, event, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import QueuePool

from finetree_trainer.store.backends.failures import sqlstate, unavailable
from finetree_trainer.store.backends.folder_mark import FolderMark
from finetree_trainer.store.backends.url import KEEP_ALIVE, named, redacted

OLDEST_SERVER = 140000
"""Lowest server_version_num that is taken: the oldest release that its makers still mend (November 2026)."""

LOCK_SECONDS = 5.0
"""How long a start waits for the lock of a trainer that was just killed; a server notices that within milliseconds."""
_LOCK_POLL_SECONDS = 0.2

OWNER, FOLDER, LEADER = "owner", "data_folder", "leader"
"""Keys in `meta`: the run of a service that wrote last, the data folder that the database belongs to, and the address
at which that run is reached by the other replicas, "" where it has none."""

_FACTS = """
SELECT current_setting('server_version_num')::int, current_setting('server_version'),
  current_setting('server_encoding'), pg_is_in_recovery() OR current_setting('transaction_read_only')::bool,
  current_schema()"""

# The server's own end of it: else a lock whose holder's machine has vanished would be held for hours.
_KEEP_ALIVE = """
SELECT set_config('tcp_keepalives_idle', '15', false), set_config('tcp_keepalives_interval', '5', false),
  set_config('tcp_keepalives_count', '3', false)"""

# One lock for each schema, so that several installations may share a database.
_LOCK = """
SELECT pg_try_advisory_lock(1179537477, (SELECT oid::int4 FROM pg_namespace WHERE nspname = current_schema()))"""

_MARK = "SELECT pg_current_xact_id()::text, pg_backend_pid()"
# One for each transaction, however much is in it, and without a round trip of its own.
_MARK_AND_NOTIFY = f"{_MARK}, pg_notify(%s, '')"
_CHANNEL = "SELECT 'finetree_' || oid FROM pg_namespace WHERE nspname = current_schema()"
_FATE = text("SELECT pg_xact_status(CAST(:mark AS xid8))")
_VALUE = text("SELECT value FROM meta WHERE key = :key")
_PUT = text("""
INSERT INTO meta (key, value) VALUES (:key, :value) ON CONFLICT (key) DO UPDATE SET value = excluded.value""")

_UNKNOWN_TRANSACTION = "22023"
"""SQLSTATE of pg_xact_status for a number that was never given: a copy took over that had not received the commit."""


_REFUSED_USER = ("authentication failed", "no password supplied", "pg_hba.conf", 'role "')
_NO_DATABASE = re.compile(r'database "[^"]*" does not exist')
"""Words of a refusal to connect, for which the driver gives no SQLSTATE; of a server that speaks another language the
text is shown as it is."""


@dataclass(frozen=True, slots=True)
class _Facts:
    """What a server says of itself and of this session."""

    number: int
    version: str
    encoding: str
    read_only: bool
    schema: str | None

    def refusal(self) -> tuple[str, str] | None:
        """Reason and text where the store cannot be kept here."""
        oldest = OLDEST_SERVER // 10000
        if self.number < OLDEST_SERVER:
            return "DATABASE_UNSUPPORTED", f"the server is PostgreSQL {self.version}; use {oldest} or newer"
        if self.encoding != "UTF8":
            return "DATABASE_UNSUPPORTED", f"its encoding is {self.encoding}; create one with ENCODING 'UTF8'"
        if self.read_only:
            return "DATABASE_READ_ONLY", "it takes no writes: a replica, or set to read-only; name the primary server"
        if not self.schema:
            return "DATABASE_UNUSABLE", "it has no schema for the tables; see search_path and the rights of the role"
        return None


class PostgreSQL:
    """A database on a server, for the trainer of one data folder.

    `replica` is where the other replicas of the trainer reach this one; "" for a trainer that is alone. Replicas are
    told of each commit. `on_superseded` is called on the writer's thread once another run has taken the database.
    """

    def __init__(
        self, url: URL, mark: FolderMark, *, replica: str = "", on_superseded: Callable[[], None] = lambda: None
    ) -> None:
        self._url, self._folder, self._replica, self._on_superseded = url, mark, replica, on_superseded
        self._run = secrets.token_hex(8)
        self._taken = False
        self.patience = 0.0 if replica else LOCK_SECONDS
        """How long the lock is waited for, seconds."""
        self.closing = threading.Event()
        """Ends every wait for the lock."""

    def writing(self) -> Engine:
        """Make the engine of the writer.

        READ COMMITTED is enough: with one transaction at a time each statement sees all that was committed before.
        """
        engine = self._engine(size=1, isolation="READ COMMITTED")
        event.listen(engine, "connect", self._claim)
        return engine

    def reading(self, size: int) -> Engine:
        """Make the engine of so many readers. REPEATABLE READ is PostgreSQL's one view for a whole transaction."""
        engine = self._engine(size=size, isolation="REPEATABLE READ")

        @event.listens_for(engine, "connect")
        def configure(driver: Any, _record: Any) -> None:
            driver.read_only = True

        return engine

    def listening(self) -> Engine:
        """Make the engine of one connection that is told of each commit of a leader: its driver's `notifies`."""
        engine = self._engine(size=1, isolation="AUTOCOMMIT")

        @event.listens_for(engine, "connect")
        def listen(driver: Any, _record: Any) -> None:
            driver.autocommit = True
            driver.execute(f'LISTEN "{driver.execute(_CHANNEL).fetchone()[0]}"')

        return engine

    def prepare(self, engine: Engine) -> None:
        """Refuse a server that cannot be used, and a database of another folder.

        Raises SettingsError DATABASE_UNREACHABLE, DATABASE_CREDENTIALS, DATABASE_MISSING, DATABASE_UNSUPPORTED,
        DATABASE_READ_ONLY, DATABASE_UNUSABLE, DATABASE_IN_USE, DATABASE_OF_OTHER_FOLDER.
        """
        try:
            with engine.begin() as connection:
                found = None
                if connection.exec_driver_sql("SELECT to_regclass('meta')").scalar() is not None:
                    found = connection.execute(_VALUE, {"key": FOLDER}).scalar()
        except DBAPIError as error:
            raise self.refused(error) from None
        self.require_folder(found)

    def require_folder(self, found: str | None) -> None:
        """Refuse a database that belongs to another folder. Raises SettingsError DATABASE_OF_OTHER_FOLDER."""
        if found is not None and found != self._folder.read():
            why = "it belongs to another data folder, which has the files and the workers of its jobs; name that one in"
            raise SettingsError("DATABASE_OF_OTHER_FOLDER", self.told(f"{why} data_dir, or an empty database"))

    def take(self, engine: Engine) -> None:
        """Note which folder and which run of a service the database belongs to, and where that is reached."""
        values = {FOLDER: self._folder.make(), OWNER: self._run, LEADER: self._replica}
        with engine.begin() as connection:
            connection.execute(_PUT, [{"key": key, "value": value} for key, value in values.items()])
        self._taken = True

    def mark(self, connection: Connection) -> str:
        """Return the number of the transaction.

        Raises Unavailable where the connection is not the one that took the lock, as behind a pool of transactions.
        """
        info = connection.connection.info
        if self._replica:
            mark, process, _ = connection.exec_driver_sql(_MARK_AND_NOTIFY, (info.get("channel"),)).one()
        else:
            mark, process = connection.exec_driver_sql(_MARK).one()
        if info.get("process") != process:
            raise unavailable()
        return str(mark)

    def is_committed(self, connection: Connection, mark: str) -> bool | None:
        """Return what became of a transaction: the lock that this connection holds says that it is over."""
        asking = connection.begin()
        try:
            fate = connection.execute(_FATE, {"mark": mark}).scalar()
        except DBAPIError as error:
            if sqlstate(error) == _UNKNOWN_TRANSACTION:
                return False
            raise
        finally:
            asking.rollback()
        return {"committed": True, "aborted": False}.get(str(fate))

    def abandon(self, connection: Connection) -> None:
        """Give up a connection that is still in a transaction after its rollback."""
        driver: Any = connection.connection.driver_connection
        if driver is None or driver.closed or driver.info.transaction_status:
            connection.invalidate()

    def refused(self, error: DBAPIError) -> SettingsError:
        """What keeps a service from starting, from the driver's error; no secret of the URL is in it."""
        state = sqlstate(error)
        said = " ".join(redacted(self._url, str(error.orig)).split())[:300]
        if any(words in said for words in _REFUSED_USER):
            why = f"the server refuses the user or the password ({said}); docs/scale.md says how to give them"
            return SettingsError("DATABASE_CREDENTIALS", self.told(why))
        if _NO_DATABASE.search(said):
            return SettingsError(
                "DATABASE_MISSING", self.told("there is no such database on the server; create it first")
            )
        if not state:
            return SettingsError("DATABASE_UNREACHABLE", self.told(f"no connection ({said})"))
        if state[:2] in ("08", "53", "57"):
            return SettingsError("DATABASE_UNREACHABLE", self.told(f"the server takes no connection now ({said})"))
        return SettingsError("DATABASE_UNUSABLE", self.told(f"it cannot be used ({said})"))

    def _engine(self, *, size: int, isolation: Any) -> Engine:
        options = {name: value for name, value in KEEP_ALIVE.items() if name not in self._url.query}
        try:
            # Values never reach an error's text: they hold what users wrote.
            return create_engine(
                self._url,
                poolclass=QueuePool,
                pool_size=size,
                max_overflow=0,
                isolation_level=isolation,
                hide_parameters=True,
                use_native_hstore=False,
                connect_args=options,
            )
        except ImportError:
            text_ = "PostgreSQL's driver is not installed; pip install 'finetree-trainer[postgres]'"
            raise SettingsError("DATABASE_DRIVER_MISSING", f"database_url: {text_}") from None

    def _claim(self, driver: Any, record: Any) -> None:
        """Make a new connection the one that writes; it is closed where it cannot be."""
        try:
            driver.autocommit = True
            self._require(_Facts(*driver.execute(_FACTS).fetchone()))
            driver.execute(_KEEP_ALIVE)
            self._lock(driver)
            record.info["process"] = driver.info.backend_pid
            record.info["channel"] = driver.execute(_CHANNEL).fetchone()[0]
            driver.autocommit = False
        except BaseException:
            driver.close()
            raise

    def _require(self, facts: _Facts) -> None:
        refusal = facts.refusal()
        if refusal is not None:
            reason, why = refusal
            raise unavailable() if self._taken else SettingsError(reason, self.told(why))

    def _lock(self, driver: Any) -> None:
        deadline = time.monotonic() + self.patience
        while not driver.execute(_LOCK).fetchone()[0]:
            if self._taken:
                self._require_own(driver)
                raise unavailable()
            if time.monotonic() >= deadline or self.closing.wait(_LOCK_POLL_SECONDS):
                why = "another trainer uses it; stop it first. Where its machine is gone, the server lets go within"
                raise SettingsError("DATABASE_IN_USE", self.told(f"{why} a minute"))
        if self._taken:
            self._require_own(driver)

    def _require_own(self, driver: Any) -> None:
        """Refuse to write again where another run has written: what this one has in memory is not what is stored."""
        owner = driver.execute(_VALUE.text.replace(":key", "%s"), (OWNER,)).fetchone()
        if owner is None or owner[0] != self._run:
            self._on_superseded()
            raise Unavailable("STORE_UNAVAILABLE", "Another trainer has taken the database; restart this one.")

    def told(self, why: str) -> str:
        """A text about this database, which it names for people."""
        return f"database_url: {named(self._url)}: {why}"
