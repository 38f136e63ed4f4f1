# SPDX-License-Identifier: Apache-2.0
"""This process as one of a trainer's replicas: what it has beside the parts of a trainer that is alone."""

import asyncio
from collections.abc import Awaitable, Callable

import grpc
from finetree_runtime.config.settings import SettingsError
from finetree_runtime.meter import Meter

from finetree_trainer.api.servicer import TrainerServicer
from finetree_trainer.joblog.log import EventLog
from finetree_trainer.layout import Layout
from finetree_trainer.replicas.following import Following
from finetree_trainer.replicas.leader import LeaderConnection
from finetree_trainer.replicas.opening import open_replica
from finetree_trainer.replicas.role import Replica, end_process
from finetree_trainer.replicas.servicer import ASKS_STORE, READ_HERE, ReplicaServicer
from finetree_trainer.settings import Settings
from finetree_trainer.store.backends.folder_mark import FolderMark
from finetree_trainer.store.database import Store


class Member:
    """Opens the database, joins the others, follows or leads, and leaves. Raises SettingsError SETTING_INVALID."""

    def __init__(self, settings: Settings, layout: Layout) -> None:
        if not settings.database_url:
            raise _invalid("replicas share a PostgreSQL database; give database_url, too")
        if settings.tls_client_ca is not None:
            raise _invalid("a call that is sent on has no client's certificate; leave tls_client_ca out, use tokens")
        self._address, self._settings, self._layout = settings.replica_address, settings, layout
        self._credentials = _credentials(settings)

    async def open(self) -> Store:
        """Open the database, to lead where nobody does, else to follow. Raises as `open_replica`."""
        url = self._settings.database_url
        store, self._backend = await asyncio.to_thread(
            open_replica, self._layout, url, self._address, on_superseded=_superseded
        )
        return store

    @property
    def page_token_key(self) -> str:
        """The key of page tokens, the same for all replicas also where the settings have none."""
        return self._settings.page_token_key.reveal() or FolderMark(self._layout.database_mark).read()

    async def join(
        self, log: EventLog, servicer: TrainerServicer, take_over: Callable[[], Awaitable[None]], meter: Meter
    ) -> ReplicaServicer:
        """Begin to follow what is stored; return what answers the calls. `take_over` begins to lead, later than now."""
        following = Following(log, servicer.project_watches, self._backend)
        await following.begin()
        self._role = role = Replica(self._address, log.store, self._backend, following=following, take_over=take_over)
        self._leader = LeaderConnection(lambda: role.leader, self._credentials, meter)
        meter.gauge("finetree_leader", "Whether this replica leads: 1 or 0.", read=lambda: {(): float(role.leading)})
        here = READ_HERE - ASKS_STORE if self._settings.object_store else READ_HERE
        return ReplicaServicer(servicer, role, self._leader, here=here)

    def lead(self) -> None:
        """Answer every call here: this process writes, and has taken over."""
        self._role.leading = True

    async def run(self) -> None:
        """Follow, then lead, until the service stops."""
        await self._role.run()

    async def leave(self) -> None:
        """Follow no longer; before the store is closed."""
        await self._role.close()
        await self._leader.close()


def _credentials(settings: Settings) -> grpc.ChannelCredentials | None:
    """What the leader is reached with: TLS as this replica serves it, or plain text."""
    if settings.tls_cert is None:
        return None
    try:
        trusted = settings.replica_ca.read_bytes() if settings.replica_ca is not None else None
    except OSError as error:
        raise SettingsError("TLS_UNREADABLE", f"replica_ca: it cannot be read: {error.strerror}") from None
    return grpc.ssl_channel_credentials(trusted)


def _superseded() -> None:
    end_process("another replica has the lock of the database")


def _invalid(why: str) -> SettingsError:
    return SettingsError("SETTING_INVALID", f"replica_address: {why}")
