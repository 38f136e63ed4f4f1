# SPDX-License-Identifier: Apache-2.0
"""`python -m finetree_worker.process.rank`: a rank of a run on several devices that does not speak; started by rank 0.

It trains as the worker does, reports nothing, and ends with the process that has started it.
"""

import argparse
import ctypes
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from finetree_worker.process.log_capture import set_environment

# Libraries read their settings when they are imported, so this comes before everything that imports one.
set_environment()

from finetree_api.trainer.v1 import event_pb2  # noqa: E402 - see above
from finetree_api.worker.v1 import worker_pb2  # noqa: E402 - see above

from finetree_worker.control import Signal  # noqa: E402 - see above
from finetree_worker.errors import Cancelled  # noqa: E402 - see above
from finetree_worker.events.envelope import Level, Payload  # noqa: E402 - see above
from finetree_worker.process import log_capture, outcome  # noqa: E402 - see above
from finetree_worker.ranks.launch import BEATS, OUTCOME, TASK  # noqa: E402 - see above
from finetree_worker.ranks.progress import Beats  # noqa: E402 - see above

_PARENT_DEATH_SIGNAL = 1
"""PR_SET_PDEATHSIG of prctl(2)."""
_log = logging.getLogger(__name__)


class Silent:
    """Reporter and control of a rank that does not speak: what it sees is what the speaker reports."""

    def emit(self, payload: Payload, /, *, message: str = "", level: Level = event_pb2.EVENT_LEVEL_UNSPECIFIED) -> None:
        """Report nothing."""

    def poll(self) -> Signal:
        """Ask for nothing."""
        return Signal.NONE


def die_with(parent: int) -> None:
    """End this process as soon as the one that has started it ends, also where it is killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)

    def run() -> None:
        # Where the system has no such signal, and where the parent has ended before it was asked for.
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(0)

    threading.Thread(target=run, name="parent-watch", daemon=True).start()


def main(arguments: Sequence[str]) -> int:
    """Train as a rank of the task in the folder; its exit status."""
    parser = argparse.ArgumentParser(prog="python -m finetree_worker.process.rank", description="Started by a worker.")
    parser.add_argument("--rank", type=int, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--parent", type=int, required=True)
    options = parser.parse_args(arguments)
    die_with(options.parent)
    # The service and the machine signal the worker, which passes on what is to be done.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    task = worker_pb2.Task.FromString((options.folder / TASK).read_bytes())
    log_capture.capture()
    file = log_capture.BoundedLog(Path(task.folders.work_dir), f"rank-{options.rank}.log")
    logging.getLogger().addHandler(file)
    try:
        _train(task, options.rank, options.folder)
    except Cancelled:
        return 0
    except BaseException as error:  # noqa: BLE001 - whatever ends the rank is told to the speaker
        _log.error("the rank failed", exc_info=error)
        draft = options.folder / f".{OUTCOME}-{options.rank}"
        draft.write_bytes(outcome.failed(error).SerializeToString())
        draft.replace(options.folder / f"{OUTCOME}-{options.rank}")
        return 1
    finally:
        file.close()
    return 0


def _train(task: worker_pb2.Task, rank: int, folder: Path) -> None:
    from finetree_worker.methods.lazy_bitsandbytes import import_peft

    import_peft()
    from finetree_worker.plan_from_task import train_plan
    from finetree_worker.process.core import TrainingCore
    from finetree_worker.ranks.join import join
    from finetree_worker.ranks.membership import Membership, never_lost
    from finetree_worker.training.run import train

    plan = train_plan(task)
    Beats(folder / BEATS, plan.ranks).keep(rank)
    TrainingCore().warm_up()
    member = Membership(rank, plan.ranks, kind=plan.device, folder=folder, device_ids=plan.device_ids, alive=never_lost)
    silent = Silent()
    with join(member, plan.sharding) as ranks:
        train(plan, silent, silent, ranks=ranks)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
