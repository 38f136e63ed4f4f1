# SPDX-License-Identifier: Apache-2.0
"""One run on 1, 2 and 4 devices: its speed, how equal it is, and what each rank holds.

    python benchmarks/worker/several_devices.py [--counts 1,2,4] [--only PATTERN] [--steps N] [--threads N]
        [--device cuda] [--output FILE]

On a CPU the ranks are processes that share `--threads` threads, so that more of them are no more processor: what is
measured there is what dividing a run costs. In float32, so that differences are those of the order of sums. Each run is
a fresh process, one after the other; nothing else should run beside it. Speed is the median of the recent steps.
"""

import argparse
import json
import os
import sys
import tempfile
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from cuda_check import SHARDINGS, Case, apart, device_facts, measured, prepare
from method_process import machine

CASES = [
    Case("full fp32", {"full": {}}, "FP32"),
    Case("lora fp32", {"lora": {"dropout": 0.1}}, "FP32"),
    Case("qlora nf4 fp32", {"qlora": {}}, "FP32"),
    Case("prefix fp32", {"prefix": {}}, "FP32"),
    Case("adapter fp32", {"adapter": {}}, "FP32"),
]


def relative(one: list[float], other: list[float]) -> float:
    """The largest relative difference of two lists of numbers."""
    return max((abs(a - b) / abs(a) for a, b in zip(one, other, strict=True) if a), default=0.0)


def compared(one: dict[str, Any], seen: dict[str, Any]) -> dict[str, Any]:
    """What a run has measured, beside the run on one device."""
    if "error" in seen or "error" in one:
        return {"error": seen.get("error") or one["error"]}
    return {
        "tokens_per_second": seen["tokens_per_second"],
        "speedup": seen["tokens_per_second"] / one["tokens_per_second"],
        "loss_difference_nats": apart(one, seen),
        "grad_norm_relative_difference": relative(one["grad_norms"], seen["grad_norms"]),
        "ranks": seen["ranks"],
        "losses": seen["losses"],
    }


def main() -> int:
    """Measure the chosen cases and print or write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", default="1,2,4", help="numbers of devices, 1 first")
    parser.add_argument("--only", default="*", help="pattern of the cases' names")
    parser.add_argument("--steps", type=int, default=12, help="optimizer steps of a run")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="CPU threads of all ranks")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cpu")
    parser.add_argument("--output", type=Path, help="file for the results as JSON")
    arguments = parser.parse_args()
    counts = [int(count) for count in arguments.counts.split(",")]
    hardware: dict[str, Any] = (
        {"cpu": {}} if arguments.device == "cpu" else {"unknown_accelerator": {"marketed_memory_gb": 24}}
    )
    how = {"steps": arguments.steps, "device": arguments.device, "threads": arguments.threads}
    results = []
    with tempfile.TemporaryDirectory(prefix="several-devices-") as name:
        model = Path(name) / "smollm2"
        prepare(model)
        for case in CASES:
            if not fnmatchcase(case.name, arguments.only):
                continue
            one = measured(case, model, hardware, **how)
            results.append({"case": case.name, "count": 1, **compared(one, one)})
            for count, sharding in ((c, s) for c in counts if c > 1 for s in SHARDINGS):
                seen = measured(case, model, hardware | {"count": count, "sharding": f"SHARDING_{sharding}"}, **how)
                results.append({"case": case.name, "count": count, "sharding": sharding, **compared(one, seen)})
                print(json.dumps({k: v for k, v in results[-1].items() if k not in ("ranks", "losses")}), flush=True)
    device = device_facts() if arguments.device == "cuda" else machine(arguments.threads)
    found = {**how, "device": device, "load": os.getloadavg(), "runs": results}
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return 1 if not results or any("error" in run for run in results) else 0


if __name__ == "__main__":
    sys.exit(main())
