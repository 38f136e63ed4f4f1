# SPDX-License-Identifier: Apache-2.0
"""A real worker on two devices, confined as the service confines it, one of whose processes is killed."""

import asyncio
import contextlib
import importlib.util
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from finetree_api.types.v1 import hardware_pb2, run_spec_pb2, training_pb2
from finetree_api.worker.v1 import worker_pb2
from finetree_data.confinement.policy import VARIABLE, Policy
from google.rpc import error_details_pb2

pytestmark = [pytest.mark.slow(40), pytest.mark.timeout(900)]
_TINY = Path(__file__).parents[1] / "trainer" / "tiny_model.py"


def base(folder: Path) -> Path:
    spec = importlib.util.spec_from_file_location("tiny_model", _TINY)
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.write(folder)
    return folder


def ranks_of(trainer: Any, tmp_path: Path, *, attempt: int, count: int) -> None:
    """Have the trainer's task train a tiny model on ranks of the CPU, for long enough to be disturbed."""
    task = trainer.task
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"text": f"row {i} " + "word " * (i % 7)}) + "\n" for i in range(24)))
    spec = run_spec_pb2.RunSpec(
        hardware=hardware_pb2.Hardware(cpu=hardware_pb2.CpuDevice(), count=count, sharding=hardware_pb2.SHARDING_FULL),
        precision=training_pb2.PRECISION_FP32,
    )
    spec.lora.rank = 4
    training = spec.training
    training.learning_rate, training.effective_batch_size, training.micro_batch_size = 1e-3, 8, 4
    training.sequence_length, training.max_steps, training.seed = 64, 400, 1
    spec.checkpoints.every_steps, spec.checkpoints.keep = 10, 2
    task.attempt, task.threads, task.dataset_file = attempt, 2, str(rows)
    task.train.spec.CopyFrom(spec)
    job = tmp_path / "data" / "jobs" / "p" / "j"
    for name in ("work_dir", "checkpoint_dir", "artifact_dir"):
        place = job / "attempts" / str(attempt) if name == "work_dir" else job / name
        place.mkdir(parents=True, exist_ok=True)
        setattr(task.folders, name, str(place))


SHORT_OF_MEMORY = """
# Imported by every Python process as it starts: a rank other than 0 gets a device whose memory, from the 13th step on,
# does not hold a micro-batch of the size that was asked for.
import sys
from importlib.abc import MetaPathFinder
from importlib.util import find_spec

NAME = "finetree_worker.training.gradients"


class Finder(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != NAME:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(NAME)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            import torch

            whole = module.Gradients.one

            def one(self, step, documents, targets, **named):
                if step >= 12 and self.limit.tokens == 256:
                    raise torch.OutOfMemoryError("not here")
                return whole(self, step, documents, targets, **named)

            module.Gradients.one = one

        spec.loader.exec_module = exec_module
        return spec


if "finetree_worker.process.rank" in sys.orig_argv:
    sys.meta_path.insert(0, Finder())
"""


async def start(
    trainer: Any, tmp_path: Path, model: Path, attempt: int, **environment: str
) -> asyncio.subprocess.Process:
    """Start the worker program with its confinement, and with an inherited lock, as the trainer does."""
    temporary = tmp_path / f"tmp-{attempt}"
    temporary.mkdir()
    trainer.task.base.model_dir = str(model)
    policy = Policy(
        read=(str(tmp_path),),
        write=(str(tmp_path / "data"),),
        temporary=str(temporary),
        sockets=(str(Path(trainer.address.removeprefix("unix:")).parent),),
        loopback=True,
        namespace=namespaces(),
    )
    lock = os.open(tmp_path / "alive.lock", os.O_RDWR | os.O_CREAT)
    try:
        with (tmp_path / f"output-{attempt}").open("wb") as output:
            return await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "finetree_worker", f"--socket={trainer.address}"),
                *("--job=projects/p/jobs/j", f"--attempt={attempt}"),
                env=os.environ
                | {"FINETREE_WORKER_TOKEN": "t", VARIABLE: policy.to_text(), "TMPDIR": str(temporary)}
                | environment,
                start_new_session=True,
                pass_fds=(lock,),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=asyncio.subprocess.STDOUT,
            )
    finally:
        os.close(lock)


def namespaces() -> bool:
    """Whether this system allows a network of one's own, tried in a process of its own."""
    child = os.fork()
    if not child:
        with contextlib.suppress(BaseException):
            from finetree_data.confinement.privileges import leave_network, raise_loopback

            leave_network()
            raise_loopback()
            os._exit(0)
        os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def children(pid: int) -> list[int]:
    """Processes that a process has started."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in found.split()]


def exists(pid: int) -> bool:
    """Whether there is such a process."""
    return Path(f"/proc/{pid}").exists()


def left(folder: Path) -> list[Path]:
    """Folders of ranks that nobody has removed."""
    return list(folder.rglob("ranks-*"))


def holders(lock: Path) -> set[int]:
    """Processes that hold a file open."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            for entry in (process / "fd").iterdir():
                with contextlib.suppress(OSError):
                    if entry.readlink() == lock:
                        found.add(int(process.name))
    return found


async def waited(trainer: Any, condition: Any, what: str) -> None:
    """Wait, up to minutes: two processes load the training libraries on a machine that may be busy."""
    async with asyncio.timeout(400):
        while not condition():
            assert trainer.outcome is None or trainer.outcome.kind != worker_pb2.OUTCOME_KIND_FAILED, trainer.outcome
            await asyncio.sleep(0.05)


def told(trainer: Any, kind: str) -> list[Any]:
    """Payloads of a kind that the trainer has stored."""
    return [getattr(e.event, kind) for e in trainer.stored if e.event.HasField(kind)]


async def test_a_killed_rank_ends_the_attempt_of_all_and_one_device_resumes(trainer: Any, tmp_path: Path) -> None:
    """The checkpoint of two ranks with divided weights is resumed by one: its device may be the one that is left."""
    model = base(tmp_path / "model")
    ranks_of(trainer, tmp_path, attempt=1, count=2)
    await trainer.start()
    worker = await start(trainer, tmp_path, model, 1)
    await waited(trainer, lambda: max(trainer.steps, default=0) >= 12, "a checkpoint")
    environment = told(trainer, "attempt_started")[0].environment
    assert (environment["ranks"], environment["sharding"], environment["backend"]) == ("2", "full", "gloo")
    ranks = told(trainer, "step_metrics")[0].ranks
    assert [rank.rank for rank in ranks] == [0, 1]
    assert all(rank.memory_bytes > 1 << 20 for rank in ranks)
    (rank,) = children(worker.pid)
    assert holders(tmp_path / "alive.lock") >= {worker.pid, rank}
    assert os.getpgid(rank) == worker.pid
    os.kill(rank, signal.SIGKILL)
    async with asyncio.timeout(100):
        await worker.wait()
    outcome = trainer.outcome
    assert (outcome.kind, outcome.retryable) == (worker_pb2.OUTCOME_KIND_FAILED, True)
    info = error_details_pb2.ErrorInfo()
    assert outcome.error.details[0].Unpack(info)
    assert info.reason == "RANK_LOST"
    assert "Rank 1 was ended by signal 9" in outcome.error.message
    assert holders(tmp_path / "alive.lock") == set()
    assert not exists(rank)
    assert not left(tmp_path)

    done = max(trainer.steps)
    trainer.stored.clear()
    ranks_of(trainer, tmp_path, attempt=2, count=1)
    worker = await start(trainer, tmp_path, model, 2)
    await waited(trainer, lambda: trainer.steps, "the first step")
    restored = told(trainer, "attempt_started")[0].restored_step
    assert 10 <= restored <= done
    assert restored % 10 == 0
    assert "EXECUTION_PLAN_CHANGED" in [alert.code for alert in told(trainer, "alert")]
    trainer.command("PAUSE")
    async with asyncio.timeout(100):
        await worker.wait()
    assert trainer.outcome.kind == worker_pb2.OUTCOME_KIND_PAUSED
    assert told(trainer, "checkpoint_saved")[-1].step == max(trainer.steps)


async def test_a_rank_short_of_memory_has_the_next_attempt_take_smaller_micro_batches(
    trainer: Any, tmp_path: Path
) -> None:
    """The other rank waits for it in a pass: the attempt ends as if it were preempted, and nothing is left of it."""
    model, site = base(tmp_path / "model"), tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(SHORT_OF_MEMORY)
    await trainer.start()
    for attempt in (1, 2):
        trainer.stored.clear()
        ranks_of(trainer, tmp_path, attempt=attempt, count=2)
        worker = await start(trainer, tmp_path, model, attempt, PYTHONPATH=str(site))
        if attempt == 2:
            await waited(trainer, lambda: max(trainer.steps, default=0) >= 14, "steps beyond those of the first")
            trainer.command("PAUSE")
        async with asyncio.timeout(400):
            await worker.wait()
        assert not left(tmp_path)
        changes, started = told(trainer, "batch_size_changed"), told(trainer, "attempt_started")[0]
        if attempt == 1:
            assert (trainer.outcome.kind, trainer.outcome.retryable) == (worker_pb2.OUTCOME_KIND_INTERRUPTED, True)
            assert [(c.step, c.previous, c.reason) for c in changes] == [(13, 256, "OUT_OF_MEMORY")]
            assert changes[0].current < 256
            assert started.restored_step == 0
        else:
            assert trainer.outcome.kind == worker_pb2.OUTCOME_KIND_PAUSED
            assert (changes, started.restored_step) == ([], 10)
