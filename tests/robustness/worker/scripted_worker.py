# SPDX-License-Identifier: Apache-2.0
"""A real worker process whose training is a script: `steps` optimizer steps of `seconds` each, or a failure.

The script is the dataset's file, as JSON. Everything but the training itself is what the shipped worker runs.
"""
# ruff: noqa: ARG002, E402  # the core's signature; the environment comes before the imports

import errno
import json
import subprocess
import sys
import time
from pathlib import Path

from finetree_worker.process.log_capture import set_environment

set_environment()

from finetree_api.trainer.v1 import artifact_pb2
from finetree_api.worker.v1 import worker_pb2
from finetree_worker.errors import Cancelled, DataError
from finetree_worker.events.types import (
    ArtifactReady,
    CheckpointSaved,
    DatasetReport,
    Phase,
    PhaseProgress,
    Signal,
    StepMetrics,
)
from finetree_worker.process.process import Process, parse


class ScriptedCore:
    def warm_up(self):
        pass

    def profile(self):
        return worker_pb2.HostProfile(bf16_flops_per_second=1e12, threads=2)

    def compatibility(self, folder, base):
        return [artifact_pb2.Compatibility(server="peft", loads=True)]

    def prepare(self, task, reporter, control):
        reporter.emit(PhaseProgress(Phase.TOKENIZE, 1.0, seconds=0.1))
        reporter.emit(DatasetReport("chat", 3, 3, 0, 0, 0, 0, (), 30, 10, 12, 64, ((32, 3),)))

    def train(self, plan, reporter, control):
        script = json.loads(plan.dataset.read_text())
        if "child" in script:
            child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
            Path(script["child"]).write_text(str(child.pid))
        for step in range(1, script["steps"] + 1):
            signal = control.poll()
            if signal is Signal.CANCEL:
                raise Cancelled
            if signal is not Signal.NONE:
                reporter.emit(CheckpointSaved(step - 1, f"step-{step - 1}", 10, False, 0.0))
            if signal in (Signal.PAUSE, Signal.CANCEL_SAVING):
                raise Cancelled
            self.fail(script, step)
            reporter.emit(metrics(step, script["steps"]))
            time.sleep(script.get("seconds", 0))
        self.save(plan, reporter)

    def fail(self, script, step):
        if step != script.get("fail_at"):
            return
        match script["failure"]:
            case "data":
                raise DataError("MALFORMED_ROW", "Row 7 is not JSON.", field="dataset[7]", remedy="Correct it.", row=7)
            case "disk":
                raise OSError(errno.ENOSPC, "No space left on device", "/srv/secret/path")
            case "memory":
                raise MemoryError
            case "bug":
                raise RuntimeError("secret at /srv/secret/path")

    def save(self, plan, reporter):
        plan.artifact.mkdir(parents=True)
        (plan.artifact / "adapter_config.json").write_text("{}")
        files = {"adapter_config.json": "0" * 64}
        reporter.emit(ArtifactReady("adapter", str(plan.artifact), 2, files, "hub/base", "main", "f" * 64, "LORA", 100))


def metrics(step, total):
    return StepMetrics(
        step, total, step / total, 2.0 / step, 1e-3, 0.5, 64 * step, 16 * step, 640.0, 0.1, 0.1 * step, 0.1, 1000
    )


if __name__ == "__main__":
    sys.exit(Process(parse(sys.argv[1:]), ScriptedCore()).run())
