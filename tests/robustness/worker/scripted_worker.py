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

from finetree_api.trainer.v1 import artifact_pb2, event_pb2, job_pb2
from finetree_api.types.v1 import evidence_pb2, hardware_pb2, training_data_pb2
from finetree_api.worker.v1 import worker_pb2
from finetree_worker.atomic_files import atomic_folder
from finetree_worker.control import Signal
from finetree_worker.errors import Cancelled, DataError
from finetree_worker.process.process import Process, parse


class ScriptedCore:
    def warm_up(self):
        pass

    def profile(self):
        return worker_pb2.HostProfile(matrix_rates=hardware_pb2.MatrixRates(bf16_flops_per_second=1e12), threads=2)

    def prepare(self, task, reporter, control):
        reporter.emit(event_pb2.PhaseProgress(phase=job_pb2.JOB_PHASE_TOKENIZE, fraction=1.0))
        profile = training_data_pb2.DatasetProfile(examples=3, exact=True)
        reporter.emit(event_pb2.DatasetReport(split=training_data_pb2.SPLIT_TRAIN, profile=profile))

    def train(self, task, reporter, control):
        script, began = json.loads(Path(task.dataset_file).read_text()), time.monotonic()
        if "child" in script:
            child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
            Path(script["child"]).write_text(str(child.pid))
        for step in range(1, script["steps"] + 1):
            signal = control.poll()
            if signal is Signal.CANCEL:
                raise Cancelled
            if signal is not Signal.NONE:
                reporter.emit(event_pb2.CheckpointSaved(step=step - 1, size_bytes=10))
            if signal in (Signal.PAUSE, Signal.CANCEL_SAVING):
                raise Cancelled
            self.fail(script, step)
            reporter.emit(metrics(step, script["steps"], time.monotonic() - began))
            time.sleep(script.get("seconds", 0))
        self.save(task, reporter)
        return event_pb2.RunSummary(best_step=script.get("best_step", 0))

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

    def save(self, task, reporter):
        with atomic_folder(Path(task.folders.artifact_dir) / "adapter", {}) as draft:
            (draft / "adapter_config.json").write_text("{}")
        base = artifact_pb2.ArtifactBase(hub_id="hub/base", revision="main", fingerprint="f" * 64)
        artifact = artifact_pb2.Artifact(name=f"{task.job}/artifacts/adapter", peft_type="LORA", base=base)
        reporter.emit(event_pb2.ArtifactReady(artifact=artifact))


def metrics(step, total, elapsed):
    remain = elapsed / step * (total - step)
    return event_pb2.StepMetrics(
        step=step,
        total_steps=total,
        loss=2.0 / step,
        memory_bytes=1000,
        processed_tokens=64 * step,
        step_seconds=0.1,
        eta_seconds=evidence_pb2.Interval(low=remain, expected=remain, high=remain),
    )


if __name__ == "__main__":
    sys.exit(Process(parse(sys.argv[1:]), ScriptedCore()).run())
