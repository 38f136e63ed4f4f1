# SPDX-License-Identifier: Apache-2.0
"""Runs seeds: `python run.py FIRST LAST` prints a JSON line for each, and what was seen; 1 where a promise was broken.

A seed decides everything: how many jobs and slots there are, what clients ask and when, how long each message and each
write takes, what breaks, when, and when it is mended. After the faults comes a quiet time in which every job must end.
"""

import argparse
import asyncio
import contextlib
import gc
import hashlib
import importlib.util
import json
import os
import random
import secrets
import shutil
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import bugs
import structlog
from actors import MIN_RUN_SECONDS, Client, break_things
from finetree_runtime import ids
from finetree_runtime.errors import DomainError
from finetree_trainer import application, parts
from finetree_trainer.scheduling import devices
from finetree_trainer.settings import Settings
from finetree_trainer.store import database
from finetree_trainer.store.backends.sqlite import SQLite
from finetree_trainer.workers.launch import local
from machine import Machine, SimulatedMeter, SimulatedProcess, SimulatedWriter
from sqlalchemy import event
from virtual_loop import StuckError, VirtualLoop

TESTS = Path(__file__).parents[2]
sys.path.append(str(TESTS))  # what the harness imports: no test folder is a package
_spec = importlib.util.spec_from_file_location("harness", TESTS / "contract/trainer/harness.py")
assert _spec is not None
assert _spec.loader is not None
harness = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(harness)

EPOCH = 1_767_225_600
"""Seconds since 1970 at which every run begins."""
FAULT_SECONDS = 240.0
"""Time in which things break."""
MAX_LOST_SECONDS = 30.0
"""Age of a checkpoint with which a training is preempted, in the seeds in which any is."""
LIMITS = (
    "",
    "[default.project]\npreemptible = true",
    "[projects.default]\nweight = 2\n[default.project]\npreemptible = true",
    "[projects.default]\nweight = 2\npreemptible = true\n[projects.other]\nweight = 1\npreemptible = true",
)
"""Limits files: of each seed one."""
QUIET_SECONDS = 1800.0
"""Time after it in which every job must have ended."""
_SHM = Path("/dev/shm")


def run(seed: int, bug: str = "") -> tuple[dict[str, Any], Counter[str]]:
    """Run one seed: its digest, what was violated, and what was seen."""
    chance = random.Random(seed)
    folder = Path(tempfile.mkdtemp(prefix="simulation-", dir=_SHM if _SHM.is_dir() else None))
    loop = VirtualLoop(chance)
    outcome: dict[str, Any] = {"seed": seed}
    seen: Counter[str] = Counter()
    logged: list[str] = []
    try:
        with _interposed(loop, chance, logged), bugs.planted(bug):
            violations, digest, seen = loop.run_until_complete(_world(loop, chance, folder))
        outcome |= {"violations": violations + logged, "digest": digest}
    except StuckError:
        outcome |= {"violations": ["nothing is left to happen, and jobs have not ended", *logged], "digest": ""}
    except DomainError as error:
        outcome |= {"violations": [f"the log could not be read at the end: {error!r}", *logged], "digest": ""}
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return outcome, seen


async def _world(loop: VirtualLoop, chance: random.Random, folder: Path) -> tuple[list[str], str, Counter[str]]:
    slots = chance.choice((1, 2, 3))
    harness.folders(folder)
    limits = folder / "limits.toml"
    limits.write_text(chance.choice(LIMITS))
    options = harness.options_of(
        folder,
        {},
        worker_command=("none",),
        cpu_slots=slots,
        orphan_grace=60.0,
        checkpoint_grace=20.0,
        cancel_grace=5.0,
        limits_file=limits,
        preempt_max_lost=chance.choice((0.0, MAX_LOST_SECONDS, MAX_LOST_SECONDS)),
        preempt_min_run=MIN_RUN_SECONDS,
    )
    machine = Machine(loop, chance, Settings(**options), slots=slots)
    loop.machine = machine  # type: ignore[attr-defined]  # for the clocks
    machine.start_trainer(harness.FixedEstimator())
    clients = [Client(machine, harness, number) for number in range(chance.randint(2, 5))]
    tasks = [loop.create_task(client.live(FAULT_SECONDS)) for client in clients]
    await break_things(machine, harness.FixedEstimator, FAULT_SECONDS, over=lambda: all(task.done() for task in tasks))
    done, late = await asyncio.wait(tasks, timeout=QUIET_SECONDS)
    machine.violations += [f"a client got {task.exception()!r}" for task in done if task.exception() is not None]
    machine.violations += [f"client {number} did not come to an end" for number, t in enumerate(tasks) if t in late]
    log = hashlib.sha256()
    for client in () if machine.violations else clients:
        for content in await client.check():
            log.update(content)
    log.update(repr((sorted(machine.seen.items()), round(loop.time(), 6))).encode())
    machine.kill_trainer()
    for pid in list(machine.workers):
        machine.kill_worker(pid, "the run is over")
    return machine.violations, log.hexdigest(), machine.seen


@contextlib.contextmanager
def _interposed(loop: VirtualLoop, chance: random.Random, logged: list[str]) -> Iterator[None]:
    """Replace clocks, chance, threads, processes and the look at the hardware."""

    def wall() -> float:
        return EPOCH + loop.time() + getattr(getattr(loop, "machine", None), "skew", 0.0)

    def keep(_: Any, __: Any, fields: dict[str, Any]) -> dict[str, Any]:
        error = fields.get("exc_info")
        if fields["event"] in ("supervisor_task_failed", "background_loop_died") or (
            fields["event"] == "background_work_failed" and error is not None and not isinstance(error, OSError)
        ):
            logged.append(f"{fields['event']}: {error!r}")
        raise structlog.DropEvent

    structlog.configure(processors=[keep], cache_logger_on_first_use=False)
    with contextlib.ExitStack() as stack:
        for target, name, value in (
            (time, "time_ns", lambda: int(wall() * 1e9)),
            (time, "time", wall),
            (time, "monotonic", loop.time),
            (secrets, "randbits", chance.getrandbits),
            (secrets, "token_urlsafe", lambda size=32: f"{chance.getrandbits(8 * size):x}"),
            (secrets, "token_hex", lambda size=32: f"{chance.getrandbits(8 * size):0{2 * size}x}"),
            (secrets, "token_bytes", lambda size=32: chance.randbytes(size)),
            (ids, "_last", 0),
            (database, "Writer", SimulatedWriter),
            (SQLite, "_engine", _engine),
            (local, "Process", SimulatedProcess),
            (parts.devices, "discover", _discover),
            (parts, "MachineMeter", SimulatedMeter),
            (application.worker_servicer, "serve", None),
        ):
            stack.enter_context(mock.patch.object(target, name, value))
        yield


_REAL_ENGINE = SQLite._engine
_ENGINES: dict[tuple[str, int], Any] = {}
"""Engines that each start of the trainer takes over: with the statements that they have compiled, and no connection."""
_DATABASE: dict[str, str] = {}
"""The file of the seed at hand."""
_REAL_DISCOVER = devices.discover
_NODES: dict[tuple[int, int], Any] = {}


def _engine(self: SQLite, *, begin: str, size: int) -> Any:
    """An engine that does not wait for the disk: what SIGKILL leaves does not depend on it."""
    _DATABASE["file"] = str(self._file)
    if (begin, size) in _ENGINES:
        engine = _ENGINES[begin, size]
        engine.dispose()
        return engine
    engine = _ENGINES[begin, size] = _REAL_ENGINE(self, begin=begin, size=size)

    @event.listens_for(engine, "do_connect")
    def connect(_: Any, __: Any, ___: Any, options: dict[str, Any]) -> Any:
        return sqlite3.connect(_DATABASE["file"], **options)

    @event.listens_for(engine, "connect")
    def hurry(connection: Any, _: Any) -> None:
        connection.execute("PRAGMA synchronous = OFF")

    engine.dispatch.begin.clear()  # the real one, which does the same by way of a cursor

    @event.listens_for(engine, "begin")
    def start(connection: Any) -> None:
        connection.connection.dbapi_connection.execute(begin)

    return engine


def _discover(slots: int, threads: int, gpus: Any = None) -> Any:
    del gpus
    if (slots, threads) not in _NODES:
        _NODES[slots, threads] = _REAL_DISCOVER(slots, threads)
    return _NODES[slots, threads]


def _seeds(seeds: Iterable[int], bug: str, seen: Counter[str]) -> Iterator[dict[str, Any]]:
    for seed in seeds:
        outcome, found = run(seed, bug)
        seen.update(found)
        yield outcome


def _bugs() -> Iterator[dict[str, Any]]:
    """For each planted bug the first seed that finds it, and what it says; seed 0: none does."""
    for name, (_, first, last) in bugs.BUGS.items():
        outcomes = _seeds(range(first, last + 1), name, Counter())
        found = next((outcome for outcome in outcomes if outcome["violations"]), {"seed": 0, "violations": []})
        yield {"bug": name, "seed": found["seed"], "violation": "".join(found["violations"][:1])}


def main() -> None:
    """Run seeds and print what came out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("first", type=int)
    parser.add_argument("last", type=int)
    parser.add_argument("--bug", default="", choices=("", *bugs.BUGS), help="plant it in each of the seeds")
    parser.add_argument("--each", type=int, default=1 << 62, help="say what was seen after each so many seeds")
    parser.add_argument("--bugs", action="store_true", help="plant each bug afterwards until a seed finds it")
    given = parser.parse_args()
    gc.disable()  # a killed task's finally blocks must not run
    broken = False
    for first in range(given.first, given.last + 1, given.each):
        seen: Counter[str] = Counter()
        for outcome in _seeds(range(first, min(given.last, first + given.each - 1) + 1), given.bug, seen):
            broken |= bool(outcome["violations"])
            print(json.dumps(outcome), flush=True)  # noqa: T201 - a program's result
        print(json.dumps({"seen": dict(sorted(seen.items()))}), flush=True)  # noqa: T201 - a program's result
    for found in _bugs() if given.bugs else ():
        print(json.dumps(found), flush=True)  # noqa: T201 - a program's result
    sys.stdout.flush()
    os._exit(int(broken))


if __name__ == "__main__":
    main()
