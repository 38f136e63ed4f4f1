# SPDX-License-Identifier: Apache-2.0
"""What becomes of forked children of a process that uses the SDK: every state of the parent, 100 children each.

    python benchmarks/sdk/fork_matrix.py [--children 100] [--output benchmarks/results/sdk/fork_matrix.json]

Each cell is a process of its own (`forking.py`) beside a fake suite on loopback, once without
GRPC_ENABLE_FORK_SUPPORT, once with 1 and once with 0. A child must make its call; where gRPC cannot work in a child
it must refuse within 100 ms of its CPU time, and say why. Nothing may hang, crash or fail, in the child or in the
parent. It counts what happens and measures no other time, so that what else the machine does is of no matter. The
table is in docs/forking.md.
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import forking
import grpc
from finetree.testing import Script, Suite

PROGRAM = Path(__file__).with_name("forking.py")
SETTINGS = ("unset", "1", "0")
VARIABLE = "GRPC_ENABLE_FORK_SUPPORT"
REFUSED = re.compile(r"refused in (\d+) ms: this process was forked")
ALLOWED_MS = 100
HELD_AFTER = 16


def must_refuse(state: str, setting: str) -> bool:
    """Whether gRPC cannot work in a child of this cell."""
    if setting == "0":
        return state != "never_used"
    return state in {"aio_open", "aio_open_new_client"}


def cell(address: str, job: str, *, state: str, setting: str, children: int) -> dict[str, Any]:
    """Run one cell."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("GRPC_")}
    env = clean if setting == "unset" else clean | {VARIABLE: setting}
    command = [sys.executable, str(PROGRAM), state, address, job, str(children)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=env)
    if done.returncode:
        return verdict(state, setting, [f"the parent ended with {done.returncode}"] * children, [done.stderr])
    told = json.loads(done.stdout)
    return verdict(state, setting, told["children"], told["errors"]) | {"stderr": done.stderr.splitlines()}


def verdict(state: str, setting: str, said: list[str], errors: list[str]) -> dict[str, Any]:
    """Count what the children of a cell said. What gRPC writes to stderr is kept, and is no error of a call."""
    answered = [each for each in said if each.startswith("ok")]
    refused = [int(found[1]) for each in said if (found := REFUSED.match(each))]
    wrong = sorted({each for each in said if not each.startswith("ok") and not REFUSED.match(each)})
    expected = len(refused) if must_refuse(state, setting) else len(answered)
    return {
        "state": state,
        "setting": setting,
        "children": len(said),
        "answered": len(answered),
        "refused": len(refused),
        "slowest_refusal_ms": max(refused, default=0),
        "wrong": wrong,
        "parent_errors": errors,
        "as_required": expected == len(said) and not errors and max(refused, default=0) < ALLOWED_MS,
    }


def job_that_goes_on(suite: Suite) -> str:
    """Name of a job of the suite that does not end."""
    suite.trainer.script = Script(hold_at=HELD_AFTER)
    with suite.client() as client:
        dataset = client.upload_dataset([{"prompt": "Two and two?", "completion": "Four."}])
        spec = {"model": {"name": "tiny"}, "dataset": {"name": dataset.name}, "lora": {"rank": 8}}
        return client.create_job(spec).name


def run(children: int) -> dict[str, Any]:
    """Run every cell."""
    cells = []
    with Suite() as suite:
        job = job_that_goes_on(suite)
        for state in forking.STATES:
            for setting in SETTINGS:
                started = time.monotonic()
                cells.append(cell(suite.address, job, state=state, setting=setting, children=children))
                seconds = time.monotonic() - started
                print(f"{state} {setting}: {cells[-1]['as_required']} in {seconds:.0f} s", file=sys.stderr, flush=True)
    return {
        "benchmark": "fork_matrix",
        "met": all(each["as_required"] for each in cells),
        "machine": {
            "cpu": cpu(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "grpcio": grpc.__version__,
            "system": f"{platform.system()} {platform.machine()}",
        },
        "cells": cells,
    }


def table(results: dict[str, Any]) -> str:
    """The results as a Markdown table."""
    lines = ["| state of the parent | not set | `=1` | `=0` |", "| --- | --- | --- | --- |"]
    by_key = {(each["state"], each["setting"]): each for each in results["cells"]}
    for state, function in forking.STATES.items():
        text = (function.__doc__ or "").strip().rstrip(".")
        told = " | ".join(_said(by_key[state, setting]) for setting in SETTINGS)
        lines.append(f"| {text} | {told} |")
    return "\n".join(lines)


def _said(found: dict[str, Any]) -> str:
    if found["wrong"] or found["parent_errors"]:
        wrong = found["children"] - found["answered"] - found["refused"]
        return f"{found['answered']} answered, {found['refused']} refused, {wrong} wrong"
    if found["refused"] == found["children"]:
        return f"{found['refused']} refused"
    return f"{found['answered']} of {found['children']}"


def cpu() -> str:
    """Name of the processor."""
    names = re.findall(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    return names[0] if names else platform.processor()


def main() -> None:
    """Print the table, write the results, and fail where a cell is not as required."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--children", type=int, default=100, help="children of each cell")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    options = parser.parse_args()
    results = run(options.children)
    print(table(results))
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    sys.exit(0 if results["met"] else 1)


if __name__ == "__main__":
    main()
