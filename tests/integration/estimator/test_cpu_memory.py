# SPDX-License-Identifier: Apache-2.0
"""What the estimator says of the worker's memory on this machine's CPU, against the worker itself."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from finetree_estimator import constants
from finetree_estimator.memory import cpu, cpu_tensors
from finetree_worker.models.families import FAMILIES
from finetree_worker.training import loss
from finetree_worker.training.fused import causal_attention, cross_entropy

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


def test_the_counts_figures_are_the_workers_own() -> None:
    assert cpu.LOGITS_BLOCK == cross_entropy.CPU_BLOCK_BYTES
    assert constants.CHUNK_TOKENS == loss.CHUNK_TARGETS
    assert constants.SHORT_ROW_TOKENS == causal_attention.SHORT_TOKENS
    assert cpu_tensors.QUERY_BLOCK == causal_attention._SHORT_BLOCK
    assert cpu_tensors.NORMS_BY_HAND - {""} == FAMILIES
