# SPDX-License-Identifier: Apache-2.0
"""An event loop whose time is virtual, and processes in it that can be frozen and killed between any two callbacks.

Nothing in it waits: when no callback is ready, time jumps to the next one. What a program would do on a thread happens
in one piece after a while that the seed decides, so a seed always gives the same run.
"""

import asyncio
import contextvars
import heapq
import random
import selectors
import weakref
from collections.abc import Callable, Mapping
from typing import Any

PROCESS: contextvars.ContextVar["Process | None"] = contextvars.ContextVar("simulated_process", default=None)
"""The simulated process that a task or a callback belongs to; inherited by what it starts."""

Context = contextvars.Context
TURN_SECONDS = 1e-6
"""What one round of callbacks takes: without it, a loop that waits for the time to pass would never end."""


class StuckError(Exception):
    """Nothing is left to happen, and the run has not ended."""


class Process:
    """Tasks and callbacks that live and die together, as those of one process of an operating system do."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.alive = True
        self.frozen = False
        self.backlog: list[tuple[Callable[..., Any], tuple[Any, ...], Context]] = []
        self.tasks: weakref.WeakSet[asyncio.Task[Any]] = weakref.WeakSet()

    def context(self) -> Context:
        """A context whose tasks belong to this process."""
        context = contextvars.Context()
        context.run(PROCESS.set, self)
        return context


class _Selector(selectors.BaseSelector):
    """No file is ever ready: waiting for one only lets the time pass."""

    def __init__(self) -> None:
        self.now = 0.0
        self._keys: dict[Any, selectors.SelectorKey] = {}

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        key = selectors.SelectorKey(fileobj, fileobj if isinstance(fileobj, int) else fileobj.fileno(), events, data)
        self._keys[fileobj] = key
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._keys.pop(fileobj)

    def select(self, timeout: float | None = None) -> list[Any]:
        raise NotImplementedError  # the loop moves the time itself

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._keys


class VirtualLoop(asyncio.SelectorEventLoop):
    """Runs callbacks of live processes; those of dead ones are dropped, those of frozen ones kept."""

    def __init__(self, generator: random.Random) -> None:
        self._virtual = _Selector()
        self._generator = generator
        self._kept: list[Any] = []
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        """A heap of what is due at a time; what is due at the same time comes in the order of its making."""
        self._made = 0
        super().__init__(self._virtual)
        self.set_exception_handler(lambda *_: None)
        self.set_task_factory(_make_task)

    def time(self) -> float:
        return self._virtual.now

    def _run_once(self) -> None:
        """One round: let the time pass to what is due next where nothing is ready, then run what is.

        As asyncio's own, without what a loop needs that waits for files: this is a third of what a seed costs.
        """
        timers, ready, virtual = self._timers, self._ready, self._virtual
        virtual.now += TURN_SECONDS
        if not ready and not self._stopping:
            while timers and timers[0][2].cancelled():
                heapq.heappop(timers)
            if not timers:
                raise StuckError
            virtual.now = max(virtual.now, timers[0][0])
        while timers and timers[0][0] <= virtual.now:
            ready.append(heapq.heappop(timers)[2])
        for _ in range(len(ready)):
            handle = ready.popleft()
            if not handle.cancelled():
                handle._run()

    def call_soon(self, callback: Any, *args: Any, context: Context | None = None) -> asyncio.Handle:
        context = contextvars.copy_context() if context is None else context
        process = context.get(PROCESS)
        if process is not None:
            callback, args = self._run_of, (process, callback, args)
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_at(self, when: float, callback: Any, *args: Any, context: Context | None = None) -> asyncio.TimerHandle:
        context = contextvars.copy_context() if context is None else context
        process = context.get(PROCESS)
        if process is not None:
            callback, args = self._run_of, (process, callback, args)
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self._made += 1
        heapq.heappush(self._timers, (when, self._made, handle))
        return handle

    def call_soon_threadsafe(self, callback: Any, *args: Any, context: Context | None = None) -> asyncio.Handle:
        return self.call_soon(callback, *args, context=context)

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:
        """Run a function in one piece, after as long as another thread might take to get to it."""
        del executor
        future = self.create_future()

        def run() -> None:
            if future.cancelled():
                return
            try:
                result = func(*args)
            except Exception as error:  # noqa: BLE001 - it goes to whoever waits, as an executor's does
                future.set_exception(error)
            else:
                future.set_result(result)

        self.call_later(self._generator.choice((0.0, 0.0002, 0.001, 0.02)), run)
        return future

    def kill(self, process: Process) -> None:
        """End a process between two of its callbacks. Its tasks are kept, so that nothing of them is run any more."""
        process.alive = False
        process.backlog.clear()
        self._kept.extend(process.tasks)

    def thaw(self, process: Process) -> None:
        """Let a frozen process go on with what has come meanwhile."""
        process.frozen = False
        backlog, process.backlog = process.backlog, []
        for callback, args, context in backlog:
            self.call_soon(callback, *args, context=context)

    @staticmethod
    def _run_of(process: Process, callback: Callable[..., Any], args: tuple[Any, ...]) -> None:
        if not process.alive:
            return
        if process.frozen:
            process.backlog.append((callback, args, contextvars.copy_context()))
            return
        callback(*args)


def _make_task(loop: asyncio.AbstractEventLoop, coroutine: Any, context: Context | None = None) -> "asyncio.Task[Any]":
    """Make a task, and note whose it is."""
    context = contextvars.copy_context() if context is None else context
    task: asyncio.Task[Any] = asyncio.Task(coroutine, loop=loop, context=context)
    process = context.get(PROCESS)
    if process is not None:
        process.tasks.add(task)
    return task
