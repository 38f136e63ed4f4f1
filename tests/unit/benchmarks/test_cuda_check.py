# SPDX-License-Identifier: Apache-2.0
"""The check on a GPU, as far as it goes without one: its runs are runs of the suite, and what counts as wrong."""

import math
import sys
from pathlib import Path

import pytest
from finetree_api.types.v1 import run_spec_pb2
from finetree_runtime.runspec.conflicts import combination_problem
from finetree_runtime.runspec.resolve import resolve_spec
from finetree_trainer.jobs import capabilities
from google.protobuf import json_format

FOLDER = str(Path(__file__).parents[3] / "benchmarks" / "worker")
if FOLDER not in sys.path:
    sys.path.insert(0, FOLDER)

import cuda_check  # noqa: E402 - a script, found where it lies

ROWS = {
    "examples": 32,
    "total_tokens": 3200,
    "target_fraction": 0.2,
    "token_lengths": [{"upper_bound": 128, "count": 32}],
}
GPU = {"accelerator": "h100-sxm"}


@pytest.mark.parametrize("case", cuda_check.CASES, ids=lambda case: case.name)
def test_each_case_is_a_run_that_the_trainer_takes_and_the_estimator_prices(case):
    spec = resolve_spec(json_format.ParseDict(case.spec(GPU, 6), run_spec_pb2.RunSpec())).spec
    capabilities.require_method(spec)
    capabilities.require_settings(spec)
    assert combination_problem(spec) is None
    said = cuda_check.predicted(case, ROWS, GPU, 6)
    assert 0 < said["allocated"] <= said["reserved"] <= said["device"]


def test_all_five_methods_are_among_the_cases():
    assert {next(iter(case.method)) for case in cuda_check.CASES} == set(capabilities.methods())


@pytest.mark.parametrize(
    ("seen", "on_cpu", "wrong"),
    [
        ({"losses": [3.0, 2.0]}, None, ""),
        ({"losses": [3.0, 3.0]}, None, "did not fall"),
        ({"losses": [3.0, None]}, None, "no number"),
        ({"losses": [math.nan]}, None, "no number"),
        ({"losses": []}, None, "no number"),
        ({"error": "RuntimeError: broken"}, None, "broken"),
        ({"losses": [3.0, 2.0]}, {"losses": [3.001, 2.0]}, ""),
        ({"losses": [3.0, 2.0]}, {"losses": [3.0, 2.1]}, "differ"),
        ({"losses": [3.0, 2.0]}, {"error": "no cpu"}, "differ"),
    ],
)
def test_what_counts_as_wrong(seen, on_cpu, wrong):
    found = cuda_check.judged(seen, on_cpu)
    assert (wrong in found[0]) if wrong else not found


def test_without_a_gpu_it_says_so_and_is_told_from_a_failure(monkeypatch, capsys):
    monkeypatch.setattr(cuda_check, "device_facts", lambda: None)
    monkeypatch.setattr(sys, "argv", ["cuda_check.py"])
    assert cuda_check.main() == cuda_check.NO_DEVICE == 2
    assert "no CUDA device here" in capsys.readouterr().err
