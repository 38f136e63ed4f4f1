# SPDX-License-Identifier: Apache-2.0
"""What the estimator says of the worker's memory on this machine's CPU, against the worker itself."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[3] / "benchmarks" / "estimator" / "cpu_memory.py"
pytestmark = [pytest.mark.slow(49), pytest.mark.timeout(240)]


@pytest.mark.parametrize(
    ("name", "peaks"),
    [
        # One process, whose tensors are counted; what it takes as a whole includes the profiler's records.
        ("smollm2-135m lora fp32 64", ["allocated"]),
        ("smollm2-135m full fp32 64", ["allocated", "process"]),
    ],
)
def test_the_predicted_peaks_are_within_a_tenth_of_what_the_worker_needs(
    name: str, peaks: list[str], smollm2: Path, tmp_path: Path
) -> None:
    target = tmp_path / "found.json"
    command = [sys.executable, str(BENCHMARK), f"--only={name}", f"--models={smollm2.parent}", f"--output={target}"]
    command += [] if "process" in peaks else ["--quick"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert target.exists(), done.stderr
    (found,) = json.loads(target.read_text())["cases"]
    assert found["case"] == name
    assert [found["error"][peak] for peak in peaks] == pytest.approx([0.0] * len(peaks), abs=0.1)
    assert found["measured"]["allocated"] > found["measured"]["weights"] > 500e6
