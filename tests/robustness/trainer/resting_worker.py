# SPDX-License-Identifier: Apache-2.0
"""A real worker process whose training is a script, and which rests.

`--script FILE` holds `steps`, their `seconds`, whether it `fails`, and `losses`: the held-out loss of each LoRA rank,
evaluated after every second step. Everything but the training and what it leaves is what the shipped worker runs.
"""
# ruff: noqa: ARG002, E402  # the core's signature; the environment comes before the imports

import json
import sys
import time
from pathlib import Path

from finetree_worker.process.log_capture import set_environment

set_environment()

from finetree_api.trainer.v1 import event_pb2
from finetree_api.worker.v1 import worker_pb2
from finetree_worker.control import Signal
from finetree_worker.errors import Cancelled, DataError
from finetree_worker.process.process import Process, parse

HELD_BYTES = 2**30
"""What it says it holds."""


class Core:
    def __init__(self, script: Path) -> None:
        self.script = script

    def warm_up(self):
        pass

    def train(self, task, reporter, control):
        script = json.loads(self.script.read_text())
        if script.get("fails"):
            raise DataError("MALFORMED_ROW", "Row 7 is not JSON.", field="dataset[7]", remedy="Correct it.", row=7)
        for step in range(1, script["steps"] + 1):
            if control.poll() is Signal.CANCEL:
                raise Cancelled
            reporter.emit(event_pb2.StepMetrics(step=step, total_steps=script["steps"], loss=1.0))
            if step % 2 == 0 and "losses" in script:
                loss = script["losses"][str(task.train.spec.lora.rank)]
                reporter.emit(event_pb2.EvalMetrics(step=step, loss=loss, examples=20))
            time.sleep(script.get("seconds", 0))
        return event_pb2.RunSummary()

    def prepare(self, task, reporter, control):
        pass

    def rest(self, task):
        return worker_pb2.Resting(memory_bytes=HELD_BYTES)


if __name__ == "__main__":
    place = sys.argv.index("--script")
    core = Core(Path(sys.argv[place + 1]))
    sys.exit(Process(parse(sys.argv[1:place] + sys.argv[place + 2 :]), core).run())
