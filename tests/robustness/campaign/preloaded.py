# SPDX-License-Identifier: Apache-2.0
"""Real service and worker processes without the seconds of their imports: forked from a process that has done those.

`python preloaded.py SOCKET KIND` imports what a kind of program needs and waits; each connection brings a program's
arguments, environment, folder and open files, and becomes a process of its own. `python preloaded.py SOCKET` is the
other end, started in place of the program: it passes signals on, ends with the program and as the program does. A
program that was started so is killed with its starter, and the other way round.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

HERE = Path(__file__).parent
TINY_MODEL = "tiny-model"
"""In place of a program: write the model of tiny_model.py to a folder. A worker has the libraries loaded for it."""
WORKER_MODULES = ("generate.serve", "models.gguf", "plan_from_task", "training.run", "training.optimizers")


def _load(kind: str):  # noqa: ANN202 - the program's main function
    """Import a kind of program; return what runs it with the arguments of its command line."""
    sys.path.insert(0, str(HERE))
    if kind == "trainer":
        from finetree_trainer.__main__ import main

        return main
    from finetree_worker.process.log_capture import set_environment

    set_environment()
    from finetree_worker.process.process import Process, parse

    if kind == "worker":
        import importlib

        for module in WORKER_MODULES:
            importlib.import_module(f"finetree_worker.{module}")
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


def serve(path: str, kind: str) -> None:
    """Fork a process for each connection, for ever."""
    main = _load(kind)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel collects what has ended
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listening.bind(path + ".new")
    listening.listen(64)
    Path(path + ".new").rename(path)
    while True:
        connection, _ = listening.accept()
        content, files, _, _ = socket.recv_fds(connection, 1 << 20, 16)
        if content and os.fork() == 0:
            listening.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os._exit(_run(main, connection, json.loads(content), files))
        for descriptor in files:
            os.close(descriptor)
        connection.close()


def _run(main, connection: socket.socket, asked: dict, files: list[int]) -> int:
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
    connection.sendall(b"%d\n" % os.getpid())
    threading.Thread(target=_die_with, args=(connection,), daemon=True).start()
    code = 70
    try:
        code = main()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except BaseException:  # noqa: BLE001 - as the interpreter does
        import traceback

        traceback.print_exc()
    sys.stdout.flush()
    connection.sendall(b"%d\n" % code)
    return code


def _die_with(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        if connection.recv(1):
            return
    os.kill(os.getpid(), signal.SIGKILL)


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
        """The exit status; -9 of a process that was killed."""
        return int(self._answers.readline() or -signal.SIGKILL)

    def close(self) -> None:
        """End the process, if it has not ended."""
        self._answers.close()
        self.connection.close()


def start(path: str) -> None:
    """Run the program that was asked for in place of this one, and end as it does."""
    held = (int(name) for name in os.listdir("/proc/self/fd"))  # noqa: PTH208 - quick: it starts each worker
    locks = [number for number in held if number > 2 and _target(number).endswith(".lock")]
    starter = Starter(path, sys.argv, (1, 2, *locks))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _: os.kill(starter.pid, received))
    code = starter.wait()
    if code < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    os._exit(code)


def _target(number: int) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{number}")  # noqa: PTH115
    except OSError:
        return ""


class Preloaded:
    """A process that has a kind of program loaded, for as long as the block lasts."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.path = str(folder / f"{kind}.sock")
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

    def make_tiny_model(self, folder: Path) -> None:
        """Write the tiny model to a folder; a worker's libraries are loaded."""
        made = Starter(self.path, [TINY_MODEL, str(folder)], (1, 2))
        assert made.wait() == 0
        made.close()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


if __name__ == "__main__":
    socket_path = sys.argv.pop(1)
    if len(sys.argv) == 2 and sys.argv[1] in ("trainer", "worker", "scripted"):
        serve(socket_path, sys.argv[1])
    else:
        start(socket_path)
