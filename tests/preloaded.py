# SPDX-License-Identifier: Apache-2.0
"""Real service and worker processes without the seconds of their imports: forked from a process that has done those.

`python preloaded.py SOCKET KIND` imports what a kind of program needs and waits; each connection brings a program's
arguments, environment, folder and open files, and becomes a process of its own. `python preloaded.py SOCKET` is the
other end, started in place of the program: it passes signals on, ends with the program and as the program does. A
program that was started so is killed with its starter, and the other way round. What one end alone needs is imported
there: each start waits for the rest.
"""

import contextlib
import fcntl
import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType

TESTS = Path(__file__).parent
CAMPAIGN = TESTS / "robustness" / "campaign"
KINDS = ("trainer", "worker", "armed", "scripted", "stand-in")
"""Programs: the trainer, the worker as it is shipped, the worker and a scripted training that are armed at fail points
(tests/robustness/campaign), and the worker without any of its code (tests/contract/trainer)."""
TINY_MODEL = "tiny-model"
"""In place of a program: write the model of tiny_model.py to a folder. A worker has the libraries loaded for it."""


def _load(kind: str) -> Callable[[], int]:
    """Import a kind of program; return what runs it with the arguments of its command line."""
    if kind == "trainer":
        from finetree_trainer.__main__ import main

        return main
    if kind == "stand-in":
        return _module(TESTS / "contract" / "trainer" / "scripted_worker.py").main
    sys.path.insert(0, str(CAMPAIGN))
    from finetree_worker.process.log_capture import set_environment

    set_environment()
    if kind == "worker":
        _warm_up()
        return _shipped_worker
    from finetree_worker.process.process import Process, parse

    if kind == "armed":
        _warm_up()
        from finetree_worker.process.core import TrainingCore as Core
    else:
        from scripted_training import Core
    from arming import Armed

    def main() -> int:
        if sys.argv[0] == TINY_MODEL:
            import tiny_model

            tiny_model.make(Path(sys.argv[1]))
            return 0
        return Process(parse(sys.argv[1:]), Armed(Core())).run()

    return main


def _module(file: Path) -> ModuleType:
    import importlib.util

    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _warm_up() -> None:
    from finetree_worker.process.core import TrainingCore

    TrainingCore().warm_up()


def _shipped_worker() -> int:
    """Run the worker from its first line on: it is confined when its program is imported, as a single thread."""
    import finetree_worker.__main__ as program

    return program.main()


class _Server:
    """Forks a process for each connection, for ever; tells the connection how its process has ended."""

    def __init__(self, path: str, kind: str) -> None:
        self._main, self._kind = _load(kind), kind
        self._given: dict[int, socket.socket] = {}
        signal.signal(signal.SIGCHLD, self._collect)
        self._listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listening.bind(path + ".new")
        self._listening.listen(64)
        Path(path + ".new").rename(path)

    def serve(self) -> None:
        while True:
            connection, _ = self._listening.accept()
            content, files, _, _ = socket.recv_fds(connection, 1 << 20, 16)
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
            pid = os.fork() if content else -1
            if pid == 0:
                self._become(connection, json.loads(content), files)
            for descriptor in files:
                os.close(descriptor)
            if content:
                self._given[pid] = connection
            else:
                connection.close()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])

    def _become(self, connection: socket.socket, asked: dict, files: list[int]) -> None:
        self._listening.close()
        for other in self._given.values():
            other.close()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
        os._exit(_run(self._main, connection, asked, files))

    def _collect(self, *_: object) -> None:
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                pid, status = ended
                if self._kind != "trainer":
                    # What a worker has started is of its starter's group elsewhere, which whoever started it ends.
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(pid, signal.SIGKILL)
                connection = self._given.pop(pid)
                with contextlib.suppress(OSError):
                    connection.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))
                connection.close()


def _run(main: Callable[[], int], connection: socket.socket, asked: dict, files: list[int]) -> int:
    os.setsid()
    for number, descriptor in enumerate(files[:2], start=1):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(asked["environment"])
    os.chdir(asked["folder"])
    sys.argv = asked["arguments"]
    from finetree_data import fail_points

    fail_points.arm(os.environ.get(fail_points.VARIABLE, ""))
    _die_with(connection)
    connection.sendall(b"%d\n" % os.getpid())
    try:
        return main() or 0
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:  # noqa: BLE001 - as the interpreter does
        import traceback

        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()


def _die_with(connection: socket.socket) -> None:
    """Have the kernel end this process when the other end goes, without a thread: a worker is confined as one."""
    fcntl.fcntl(connection, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(connection, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(connection, fcntl.F_SETFL, os.O_ASYNC)


class Starter:
    """The starting end: asks for a process, and knows its id."""

    def __init__(self, path: str, arguments: list[str], files: tuple[int, ...], **more: object) -> None:
        self.connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.connection.connect(path)
        asked = {"arguments": arguments, "environment": dict(os.environ), "folder": str(Path.cwd()), **more}
        socket.send_fds(self.connection, [json.dumps(asked).encode()], files)
        self._answers = self.connection.makefile("rb")
        self.pid = int(self._answers.readline() or 0)

    def wait(self) -> int:
        """The exit status; that of SIGKILL where whoever started the process has gone."""
        return int(self._answers.readline() or -signal.SIGKILL)

    def close(self) -> None:
        """End the process, if it has not ended."""
        self._answers.close()
        self.connection.close()


class Program:
    """A started program, with the interface of asyncio.subprocess.Process as far as tests use it."""

    def __init__(self, starter: Starter) -> None:
        self._starter, self._status = starter, None
        self.pid = starter.pid
        self._died = os.pidfd_open(self.pid)

    @property
    def returncode(self) -> int | None:
        """The exit status, negative for a signal; None while the process lives."""
        if self._status is None and select.select([self._died], [], [], 0)[0]:
            self._status = self._starter.wait()
            self._starter.close()
            os.close(self._died)
        return self._status

    def send_signal(self, number: int) -> None:
        """Send a signal. Raises ProcessLookupError where the process has ended."""
        if self.returncode is not None:
            raise ProcessLookupError
        signal.pidfd_send_signal(self._died, number)

    def kill(self) -> None:
        """Send SIGKILL. Raises ProcessLookupError where the process has ended."""
        self.send_signal(signal.SIGKILL)

    async def wait(self) -> int:
        """Wait for the end; the exit status."""
        import asyncio

        if self.returncode is None:
            loop, ended = asyncio.get_running_loop(), asyncio.Event()
            loop.add_reader(self._died, ended.set)
            try:
                await ended.wait()
            finally:
                loop.remove_reader(self._died)
        assert self.returncode is not None
        return self.returncode


def start(path: str) -> None:
    """Run the program that was asked for in place of this one, and end as it does."""
    held = (int(link.name) for link in Path("/proc/self/fd").iterdir())
    locks = [number for number in held if number > 2 and _target(number).endswith(".lock")]
    starter = Starter(path, sys.argv, (1, 2, *locks))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _: os.kill(starter.pid, received))
    code = starter.wait()
    if code < 0:
        if -code not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


def _target(number: int) -> str:
    try:
        return str(Path(f"/proc/self/fd/{number}").readlink())
    except OSError:
        return ""


class Preloaded:
    """A process that has a kind of program loaded, until it is closed."""

    def __init__(self, kind: str) -> None:
        import subprocess
        import tempfile

        self._folder = Path(tempfile.mkdtemp(prefix="finetree-loaded-"))
        self.path = str(self._folder / f"{kind}.sock")
        environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, __file__, self.path, kind], env=environment, stdin=subprocess.DEVNULL
        )

    @property
    def command(self) -> tuple[str, ...]:
        """The command that runs the program."""
        return (sys.executable, "-I", "-S", __file__, self.path)

    def wait(self, seconds: float = 240.0) -> "Preloaded":
        """Wait until it is loaded."""
        deadline = time.monotonic() + seconds
        while not Path(self.path).exists():
            assert self.process.poll() is None, "the programs cannot be loaded"
            assert time.monotonic() < deadline, "the programs are not loaded in time"
            time.sleep(0.02)
        return self

    def start(self, arguments: list[str], environment: Mapping[str, str]) -> Program:
        """Start the program with this process's output."""
        return Program(Starter(self.path, arguments, (1, 2), environment=dict(environment)))

    def make_tiny_model(self, folder: Path) -> None:
        """Write the tiny model to a folder; a worker's libraries are loaded."""
        made = Starter(self.path, [TINY_MODEL, str(folder)], (1, 2))
        assert made.wait() == 0
        made.close()

    def close(self) -> None:
        """End it; what it has started ends with whoever asked for that."""
        import shutil

        self.process.kill()
        self.process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)


_loaded: dict[str, Preloaded] = {}


def loaded(kind: str) -> Preloaded:
    """Return this test process's one of a kind, which is started when it is first asked for."""
    if kind not in _loaded:
        _loaded[kind] = Preloaded(kind)
    return _loaded[kind]


def close_all() -> None:
    """End all that this test process has loaded."""
    while _loaded:
        _loaded.popitem()[1].close()


if __name__ == "__main__":
    socket_path = sys.argv.pop(1)
    if len(sys.argv) == 2 and sys.argv[1] in KINDS:
        _Server(socket_path, sys.argv[1]).serve()
    else:
        start(socket_path)
