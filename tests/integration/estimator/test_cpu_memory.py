# SPDX-License-Identifier: Apache-2.0
"""What the estimator says of the worker's memory on this machine's CPU, against the worker itself."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[3] / "benchmarks" / "estimator" / "cpu_memory.py"
pytestmark = [pytest.mark.slow(25), pytest.mark.timeout(240)]


CASE = "llama-30m lora fp32 256"
"""One of some thirty that the benchmark has: the method that is used most, in the format that every CPU computes, on a
model so small that most of the memory is what a step keeps."""


def test_the_predicted_peaks_are_within_a_tenth_of_what_the_worker_needs(smollm2: Path, tmp_path: Path) -> None:
    target = tmp_path / "found.json"
    command = [
        sys.executable,
        str(BENCHMARK),
        f"--only={CASE}",
        f"--models={smollm2.parent}",
        f"--output={target}",
        "--quick",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert target.exists(), done.stderr
    (found,) = json.loads(target.read_text())["cases"]
    assert found["case"] == CASE
    # One process, whose tensors are counted; what it takes as a whole would include the profiler's records.
    assert found["error"]["allocated"] == pytest.approx(0.0, abs=0.1)
    assert found["measured"]["allocated"] > found["measured"]["weights"] > 120e6
