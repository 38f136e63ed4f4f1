# SPDX-License-Identifier: Apache-2.0
"""bfloat16 against float32 by instruction set: the products of a training step in each layout, and what is chosen.

    python benchmarks/worker/number_formats.py benchmarks/results/worker/number_formats.json

Instruction sets that this processor has and others have not are taken away from oneDNN in a process of its own
(ONEDNN_MAX_CPU_ISA). That limits bfloat16 alone: torch's float32 products are MKL's, which keep the processor's own
instructions, so that a real processor of the class has a lower float32 rate and a smaller ratio where its vectors are
narrower. One thread, CPU seconds, the fastest repetition: other work on the machine changes little.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ISAS = {"": "the processor's own", "AVX512_CORE": "AVX-512 without bfloat16 products", "AVX2": "AVX2"}
SHAPES = ((512, 1024, 1024), (512, 576, 1536), (64, 576, 576))
"""Tokens, inputs and outputs of a layer."""
SECONDS = 0.3


def main() -> None:
    """Measure each instruction set in a process of its own and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path, nargs="?", help="JSON file to write; without one, print it")
    parser.add_argument("--child", action="store_true", help="measure in this process, and print")
    options = parser.parse_args()
    if options.child:
        print(json.dumps(_measured()))
        return
    found = [{"instructions": title, "onednn_max_cpu_isa": isa, **_child(isa)} for isa, title in ISAS.items()]
    text = json.dumps({"machine": _machine(), "threads": 1, "time": "CPU seconds", "found": found}, indent=1)
    if options.output is None:
        print(text)
    else:
        options.output.write_text(text + "\n", encoding="utf-8")


def _child(isa: str) -> dict[str, Any]:
    variables = dict(os.environ) | ({"ONEDNN_MAX_CPU_ISA": isa} if isa else {})
    command = [sys.executable, __file__, "--child"]
    output = subprocess.run(command, env=variables, check=True, capture_output=True, text=True).stdout
    found: dict[str, Any] = json.loads(output.splitlines()[-1])
    return found


def _machine() -> dict[str, str]:
    from importlib.metadata import version

    from finetree_worker.process.core import cpu_name

    return {"cpu": cpu_name(), "torch": version("torch")}


def _measured() -> dict[str, Any]:
    import torch
    from finetree_api.types.v1 import hardware_pb2, training_pb2
    from finetree_runtime.runspec import number_formats
    from finetree_worker.training import matrix_rate

    torch.set_num_threads(1)
    probed = matrix_rate.measure(1, clock=time.process_time)
    rates = hardware_pb2.MatrixRates(
        bf16_flops_per_second=round(probed.bf16.forward),
        fp32_flops_per_second=round(probed.fp32.forward),
        bf16_backward_flops_per_second=round(probed.bf16.backward),
        fp32_backward_flops_per_second=round(probed.fp32.backward),
    )
    chosen = {
        method: {
            "precision": training_pb2.Precision.Name(number_formats.cpu_precision(rates, method=method)),
            "bf16_times_slower": round(number_formats.times_slower(rates, method), 2),
        }
        for method in ("lora", "full")
    }
    return {
        "onednn_has_bf16": bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()),  # noqa: SLF001 - has no public name
        "probe_flops_per_second": {field.name: value for field, value in rates.ListFields()},
        "chosen": chosen,
        "gflops_per_cpu_second": [_shape(*shape) for shape in SHAPES],
    }


def _shape(tokens: int, inputs: int, outputs: int) -> dict[str, Any]:
    import torch

    found: dict[str, Any] = {"tokens": tokens, "inputs": inputs, "outputs": outputs}
    for name, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        rows, weight = torch.ones(tokens, inputs, dtype=dtype), torch.ones(outputs, inputs, dtype=dtype)
        gradients = torch.ones(tokens, outputs, dtype=dtype)
        layouts: dict[str, Callable[[], torch.Tensor]] = {
            "forward": lambda rows=rows, weight=weight: torch.nn.functional.linear(rows, weight),
            "inputs": lambda gradients=gradients, weight=weight: gradients @ weight,
            "weights": lambda gradients=gradients, rows=rows: gradients.t() @ rows,
        }
        flops = 2.0 * tokens * inputs * outputs
        found[name] = {layout: round(flops / _fastest(product) / 1e9, 1) for layout, product in layouts.items()}
    return found


def _fastest(product: Callable[[], Any]) -> float:
    """CPU seconds of the fastest repetition after a first one."""
    product()
    best, end = float("inf"), time.process_time() + SECONDS
    while time.process_time() < end:
        start = time.process_time()
        product()
        best = min(best, time.process_time() - start)
    return best


if __name__ == "__main__":
    main()
