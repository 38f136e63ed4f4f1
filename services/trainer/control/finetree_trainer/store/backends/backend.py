# SPDX-License-Identifier: Apache-2.0
"""What a database must offer to the store: two engines, and the truth about a commit that got no answer."""

from typing import Protocol

from sqlalchemy import Connection, Engine


class Backend(Protocol):
    """A database. The engine that writes has one connection, and no other process can write through one like it."""

    def writing(self) -> Engine:
        """Make the engine of the writer: each of its transactions excludes every other one that writes."""

    def reading(self, size: int) -> Engine:
        """Make the engine of so many readers: each of its transactions is one consistent view."""

    def prepare(self, engine: Engine) -> None:
        """Refuse a database that is not the one of this data folder. Nothing is written yet. Raises SettingsError."""

    def take(self, engine: Engine) -> None:
        """Make a database that has its tables this service's own."""

    def mark(self, connection: Connection) -> str:
        """Return what a transaction that has begun is known by afterwards; "" where its commit is never in doubt."""

    def is_committed(self, connection: Connection, mark: str) -> bool | None:
        """Return whether the transaction of a mark, which is over, was committed; None where that is not known."""

    def abandon(self, connection: Connection) -> None:
        """Leave a connection that has failed fit for its next transaction, or invalidated."""
