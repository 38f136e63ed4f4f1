# SPDX-License-Identifier: Apache-2.0
"""Replicas of a trainer as processes, to be killed, and clients that go on at another one."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator

import grpc
from finetree_api.trainer.v1 import event_log_pb2, event_pb2
from finetree_runtime.config.settings import SecretUrl
from held_port import held_port
from trainer_harness import Server, end_workers

STEP = event_pb2.EVENT_KIND_STEP_METRICS
KILLS = int(os.environ.get("FINETREE_LEADER_KILLS", "0"))
PATIENCE = 90.0
"""Seconds that anything may take here on a busy machine."""


class Replicas:
    """Trainers on one database and one folder, each in a process of its own; `own(number)` has settings of each."""

    def __init__(self, tmp_path, script, postgresql, schema, *, count=3, own=lambda _: {}, **changes: object) -> None:
        self._postgresql, self._schema, self.folder = postgresql, schema, tmp_path
        url = SecretUrl(postgresql.url(schema))
        self.servers = {}
        for number in range(count):
            address = f"127.0.0.1:{held_port()}"
            usual = {"database_url": url, "address": address, "replica_address": address}
            self.servers[address] = Server(tmp_path, script, **usual, **changes, **own(number))
        self.talks, self._channels = {}, []

    async def start(self, address) -> None:
        self.talks[address] = await self.servers[address].start()

    async def start_all(self) -> None:
        for address in self.servers:
            await self.start(address)

    async def leader(self, *, other_than="") -> str:
        """The address of the replica that leads, once one does other than a former one."""
        async with asyncio.timeout(PATIENCE):
            while True:
                query = "SELECT value FROM meta WHERE key = 'leader'"
                found = str((await asyncio.to_thread(self._postgresql.run, query, database=self._schema))[0][0])
                if found != other_than and self.servers[found].process.returncode is None:
                    return found
                await asyncio.sleep(0.05)

    async def kill(self, address) -> None:
        """SIGKILL; streams to it break, as they would in another process."""
        del self.talks[address]
        server = self.servers[address]
        self._channels.append(server.channel)
        server.process.kill()
        await asyncio.wait_for(server.process.wait(), PATIENCE)

    @contextlib.asynccontextmanager
    async def frozen(self, *addresses: str) -> AsyncIterator[None]:
        """Stop processes meanwhile: they do nothing, and keep what they have."""
        for address in addresses:
            self.servers[address].process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            for address in addresses:
                self.servers[address].process.send_signal(signal.SIGCONT)

    async def end(self) -> None:
        for server in self.servers.values():
            if server.process is not None:
                await server.kill()
        for channel in self._channels:
            await channel.close()
        end_workers(self.folder)


async def follow(replicas, address, name) -> list:
    """Every event of a job from one replica, again from the last cursor when the stream breaks, as the SDK does."""
    found, cursor = [], ""
    async with asyncio.timeout((2 + KILLS) * PATIENCE):
        while not found or found[-1].kind != event_pb2.EVENT_KIND_TERMINAL:
            if address in replicas.talks:
                stub, start = replicas.talks[address].stub, {"cursor": cursor} if cursor else {}
                with contextlib.suppress(grpc.aio.AioRpcError, grpc.aio.UsageError):
                    async for batch in stub.WatchJob(event_log_pb2.WatchJobRequest(name=name, **start)):
                        found.extend(batch.events)
                        cursor = batch.cursor
            await asyncio.sleep(0.1)
    return found


async def insist(replicas, address, request):
    """Create a job through one replica, again while it says that nobody leads: with one request_id."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                return (await replicas.talks[address].stub.CreateJob(request)).job
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
            await asyncio.sleep(0.1)


async def until_step(replicas, address, job, step) -> None:
    async with asyncio.timeout(PATIENCE):
        while True:
            with contextlib.suppress(grpc.aio.AioRpcError):
                await replicas.talks[address].until(
                    job.name, lambda e: e.kind == STEP and e.step_metrics.step >= step, seconds=PATIENCE
                )
                return
            await asyncio.sleep(0.1)
