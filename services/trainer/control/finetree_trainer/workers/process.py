# SPDX-License-Identifier: Apache-2.0
"""Worker processes: started in a session of their own, recognized after a restart of the service, ended as a group.

Proof of death is a file lock: a worker inherits the open `alive.lock` of its folder, so the kernel holds the lock for
as long as the worker or anything that it started lives, and whoever can take the lock knows that none does. A restart
of the service, a reused process id and another process namespace cannot make that wrong.
"""

import asyncio
import enum
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from finetree_data.fail_points import fail_point

from finetree_trainer.worker_user import WorkerUser, own_folder, passage

LOCK, NOTE, OUTPUT = "alive.lock", "process.json", "output.log"

TEMPORARY = "tmp"
"""A worker's own temporary files: all of its folder that it may write to, where it is confined."""

MAX_OUTPUT_BYTES = 8 * 1024 * 1024
"""Length at which the file of what a worker prints is cut: beside its logs, libraries write to stdout and stderr."""
KEPT_OUTPUT_BYTES = 256 * 1024
"""What is kept of a file that is cut: its end says what a process died of."""

_PASSED_ON = (
    *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR"),
    *("LD_LIBRARY_PATH", "VIRTUAL_ENV", "PYTHONPATH", "CUDA_HOME", "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"),
    *("NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR"),
    *("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"),
    # An operator's limit of the instructions that torch and its libraries use.
    *("ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS", "ATEN_CPU_CAPABILITY"),
)
"""Variables of the service's environment that a worker gets: none that could be a secret of the service."""


class Liveness(enum.Enum):
    """What is known of a process. On UNKNOWN nothing is done but wait."""

    ALIVE = "alive"
    DEAD = "dead"
    UNKNOWN = "unknown"


def worker_environment(source: Mapping[str, str], *, threads: int, **extra: str) -> dict[str, str]:
    """Build a worker's environment: the allowed variables, no network for libraries, and `extra`.

    `threads` is the number that its libraries begin with, before it has a task.
    """
    kept = {name: source[name] for name in _PASSED_ON if name in source}
    kept |= {"PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    # OpenMP's threads wait for each other by spinning, by default for so long that beside other processes they burn the
    # time slices of the threads they wait for. A step of the small model on 2 cores, alone and beside 2 busy processes:
    # 0.56 s and more than 2.4 s by default, 0.47 s and 1.1 s with this many turns, 0.87 s and 0.86 s without spinning.
    kept |= {"GOMP_SPINCOUNT": "10000", "OMP_NUM_THREADS": str(threads)}
    return kept | extra


def liveness(folder: Path) -> Liveness:
    """Find out whether the worker of a folder, or anything that it started, is alive."""
    try:
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return Liveness.UNKNOWN
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return Liveness.ALIVE
    except OSError:
        return Liveness.UNKNOWN
    finally:
        os.close(descriptor)
    return Liveness.DEAD


class WorkerOutput:
    """What a worker prints, in a file of its folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def limit_output(self) -> None:
        """Cut the file of what the process prints where it has grown too long: its newest part is kept.

        The process appends to it, so that it goes on behind what is left.
        """
        path = self.folder / OUTPUT
        with suppress(OSError):
            if path.stat().st_size <= MAX_OUTPUT_BYTES:
                return
            with path.open("rb") as stream:
                stream.seek(-KEPT_OUTPUT_BYTES, os.SEEK_END)
                kept = stream.read()
            os.truncate(path, 0)
            with path.open("ab") as stream:
                stream.write(b"[earlier output was removed]\n" + kept[kept.find(b"\n") + 1 :])

    def hand_over_output(self, folder: Path) -> None:
        """Move what the process has printed so far to a folder: it belongs to an attempt that has ended."""
        with suppress(OSError):
            # Not into what a link leads to: the folder is the worker's.
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
            with (
                (self.folder / OUTPUT).open("rb") as printed,
                os.fdopen(os.open(folder / OUTPUT, flags, 0o600), "wb") as kept,
            ):
                shutil.copyfileobj(printed, kept)
            os.truncate(self.folder / OUTPUT, 0)


class Process(WorkerOutput):
    """A worker process, started by this run of the service or by an earlier one.

    `exit` says how it ended, `reason` why the service ended it, if it did; `dead` is set by proof of death alone.
    """

    def __init__(self, folder: Path, pid: int, child: "subprocess.Popen[bytes] | None") -> None:
        super().__init__(folder)
        self.pid = pid
        self.exit: str = ""
        self.reason: str = ""
        self.overran = False
        """Whether the kernel ended it since what it rendered or tokenized did not come to an end: never of an adopted
        one, whose status goes to another process."""
        self.signalled = False
        """Whether the service has asked it to end by a signal."""
        self.dead = asyncio.Event()
        self._child = child
        self._loop = asyncio.get_running_loop()
        # Daemons: a service that stops leaves its workers running, and these threads must not keep it from stopping.
        threading.Thread(target=self._watch, name=f"worker-{pid}", daemon=True).start()

    @classmethod
    def start(
        cls, command: Sequence[str], environment: Mapping[str, str], folder: Path, user: WorkerUser | None = None
    ) -> "Process":
        """Start a worker; its output goes to a file in its folder. Raises OSError; then nothing of it is left.

        `user`: whose its temporary files are; the worker becomes that user itself, as its environment says.
        """
        try:
            return cls._start(command, environment, folder, user)
        except OSError:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    @classmethod
    def _start(
        cls, command: Sequence[str], environment: Mapping[str, str], folder: Path, user: WorkerUser | None
    ) -> "Process":
        passage(folder, user)
        own_folder(folder / TEMPORARY, user)
        lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with (folder / OUTPUT).open("ab") as output:
                child = subprocess.Popen(
                    list(command),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=dict(environment),
                    cwd=folder,
                    pass_fds=(lock,),
                    start_new_session=True,
                )
        finally:
            # The worker has its own descriptor of the same lock; from here on the lock lives as long as it does.
            os.close(lock)
        fail_point("attempt.before_note")
        note = {"pid": child.pid, "started": _start_ticks(child.pid)}
        try:
            (folder / NOTE).write_text(json.dumps(note), encoding="ascii")
        except OSError:
            # Nobody could find it again after a restart of the service.
            child.kill()
            child.wait()
            raise
        return cls(folder, child.pid, child)

    @classmethod
    def adopt(cls, folder: Path, pid: int) -> "Process":
        """Watch a worker that an earlier run of the service started and that is known to be alive."""
        return cls(folder, pid, None)

    async def placed(self) -> None:
        """Return at once: it runs from its start on."""

    def activity(self) -> tuple[int, ...] | None:
        """What the process has done so far: clock ticks of processor time, bytes read, bytes written.

        None where it cannot be told, and for a process that waits for a processor or a disk.
        """
        try:
            fields = Path(f"/proc/{self.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            moved = Path(f"/proc/{self.pid}/io").read_text(encoding="ascii").split()
        except OSError:
            return None
        if fields[0] in "RD" or not self._is_ours():
            return None
        return int(fields[11]), int(fields[12]), *(int(count) for count in moved[1::2])

    def terminate(self) -> None:
        """Ask the worker to end (SIGTERM)."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End the worker and everything in its process group (SIGKILL)."""
        self._signal(signal.SIGKILL)

    def give_up(self) -> None:
        """End it; its death is seen all the same, by its lock."""
        self.kill()

    def _signal(self, number: signal.Signals) -> None:
        if self.dead.is_set() or not self._is_ours():
            return
        self.signalled = True
        with suppress(ProcessLookupError, PermissionError):
            if number is signal.SIGKILL:
                os.killpg(self.pid, number)
            else:
                os.kill(self.pid, number)

    def _is_ours(self) -> bool:
        """Return whether the process id is still the worker's: a signal must not reach a later owner of the id."""
        if self._child is not None and self._child.returncode is None:
            return True
        try:
            note = json.loads((self.folder / NOTE).read_text(encoding="ascii"))
        except (OSError, ValueError):
            return False
        return bool(note == {"pid": self.pid, "started": _start_ticks(self.pid)})

    def _watch(self) -> None:
        exited = self._await_leader()
        try:
            lock = os.open(self.folder / LOCK, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            if not exited:
                return  # nothing is known, so nothing is concluded
        else:
            fcntl.flock(lock, fcntl.LOCK_EX)
            os.close(lock)
        with suppress(RuntimeError):  # the service has stopped meanwhile
            self._loop.call_soon_threadsafe(self.dead.set)

    def _await_leader(self) -> bool:
        """Wait until the worker itself has exited, then kill its process group; return whether its exit was seen."""
        if self._child is not None:
            # Not reaped yet, so that the group's id cannot belong to another one when it is killed.
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
            code = self._child.wait()
            # Workers have this limit while they render and tokenize alone (finetree_worker.tokenize.limits).
            self.overran, self.exit = code == -signal.SIGXCPU, _exit_text(code)
            return True
        try:
            descriptor = os.pidfd_open(self.pid)
        except (OSError, AttributeError):
            return False
        try:
            if not self._is_ours():
                return False
            select.select([descriptor], [], [])
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
            return True
        finally:
            os.close(descriptor)


_SIGNS = {
    "SIGKILL": " (often a sign of too little memory)",
    "SIGXCPU": " (the model's chat template or tokenizer did not come to an end)",
    "SIGSYS": " (it made a system call that its confinement forbids)",
}
"""What ends by some signals are signs of."""


def _exit_text(code: int) -> str:
    if code >= 0:
        return f"it exited with status {code}"
    name = signal.Signals(-code).name if -code in {s.value for s in signal.Signals} else f"signal {-code}"
    return f"it was ended by {name}{_SIGNS.get(name, '')}"


def _start_ticks(pid: int) -> int:
    """When a process started, in clock ticks since boot; 0 where that cannot be read."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return 0
    return int(fields[19])
