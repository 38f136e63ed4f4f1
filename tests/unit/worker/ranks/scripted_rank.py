# SPDX-License-Identifier: Apache-2.0
"""A rank without libraries: gives signs of life until something happens to it.

Its first argument says what: "work" for ever, "fail" with an outcome, "leave" when it is done, "sleep" without a sign.
"""

import sys
import time
from pathlib import Path

from finetree_api.worker.v1 import worker_pb2
from finetree_worker.errors import MemoryExhaustedError
from finetree_worker.process import outcome
from finetree_worker.process.rank import die_with
from finetree_worker.ranks.launch import BEATS, OUTCOME, TASK
from finetree_worker.ranks.progress import Beats


def main(what: str, rank: int, folder: Path, parent: int) -> int:
    """Do as it is told, and say that it has begun."""
    die_with(parent)
    task = worker_pb2.Task.FromString((folder / TASK).read_bytes())
    if task.token or task.HasField("hub"):
        return 9
    if what != "sleep":
        Beats(folder / BEATS, 2).keep(rank)
    (folder / "begun").touch()
    if what == "leave":
        return 0
    if what == "fail":
        error = MemoryExhaustedError("OUT_OF_MEMORY", "No memory.", field="training.sequence_length")
        (folder / f"{OUTCOME}-{rank}").write_bytes(outcome.failed(error).SerializeToString())
        return 1
    while True:
        time.sleep(0.05)


if __name__ == "__main__":
    _, what, _, rank, _, folder, _, parent = sys.argv
    sys.exit(main(what, int(rank), Path(folder), int(parent)))
