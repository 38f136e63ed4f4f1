# SPDX-License-Identifier: Apache-2.0
"""A TCP proxy that delays, cuts or resets connections at random bytes, or swallows one or both of their directions."""

import asyncio
import random
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager

READ = 4096


class ChaosProxy:
    """Forwards to a port on loopback. The server's bytes count towards a cut, which ends both connections.

    Every other cut, by chance, is a reset (RST), of which the other end learns by an error, not by an end. With `delay`
    each piece waits up to so many seconds, in order, before it is passed on.
    """

    def __init__(
        self,
        target: int,
        *,
        seed: int = 0,
        cuts: int = 0,
        least: int = 100,
        most: int = 8000,
        delay: float = 0.0,
    ) -> None:
        self.port = 0
        self.made = self.resets = 0
        self._delay = delay
        self.connections = 0
        self._target, self._random = target, random.Random(seed)
        self._left, self._bounds = cuts, (least, most)
        self._swallowing: set[asyncio.Task[None]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()
        if not self._ready.wait(60):
            raise TimeoutError("the proxy does not start")

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join(60)

    def blackhole(self) -> None:
        """Swallow what the open connections carry; new ones are served."""
        self._swallow("up", "down")

    def half_open(self) -> None:
        """Swallow what the clients of open connections send; what the server sends still arrives."""
        self._swallow("up")

    def _swallow(self, *directions: str) -> None:
        done = threading.Event()

        def swallow() -> None:
            self._swallowing = {task for task in self._tasks if task.get_name() in directions}
            done.set()

        self._loop.call_soon_threadsafe(swallow)
        done.wait(60)

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        self._stopped = asyncio.Event()
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stopped.wait()
        server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        budget = self._random.randint(*self._bounds) if self._left > 0 else None
        self._left -= 1
        self.connections += 1
        pumps = [
            self._loop.create_task(self._pump(reader, up_writer, None), name="up"),
            self._loop.create_task(self._pump(up_reader, writer, budget), name="down"),
        ]
        self._tasks.update(pumps)
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for pump in pumps:
            pump.cancel()
            self._tasks.discard(pump)
        writer.transport.abort()
        up_writer.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, budget: int | None) -> None:
        try:
            while data := await reader.read(READ):
                if self._delay:
                    await asyncio.sleep(self._random.uniform(0, self._delay))
                if asyncio.current_task() in self._swallowing:
                    continue
                if budget is not None and len(data) >= budget:
                    writer.write(data[:budget])
                    await writer.drain()
                    self.made += 1
                    if self._random.random() < 0.5:
                        self.resets += 1
                        # Lingering for no time: what is not sent yet is dropped, and the other end gets a reset.
                        raw = writer.get_extra_info("socket")
                        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    return
                budget = budget and budget - len(data)
                writer.write(data)
                await writer.drain()
        except OSError:
            return


@contextmanager
def chaos(address: str, **options: float) -> Iterator[ChaosProxy]:
    """A proxy in front of an address."""
    proxy = ChaosProxy(int(address.rpartition(":")[2]), **options)
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.stop()
