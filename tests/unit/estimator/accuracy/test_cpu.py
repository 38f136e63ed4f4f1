# SPDX-License-Identifier: Apache-2.0
"""The formulas against runs of the suite's own worker on one core of an AMD EPYC (2026-11-25, torch 2.13).

SmolLM2-135M-Instruct, rank 8 on all linears with dropout 0.1; 30 % of the tokens are learned. Seconds are CPU time of
forward and backward of one micro-batch, the best of three; `rate` is the same core's matrix rate in FLOP/s.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from finetree_api.estimator.v1 import estimate_pb2
from finetree_estimator.catalog.devices import processor
from finetree_estimator.catalog.models import model
from finetree_estimator.catalog.price_book import packaged
from finetree_estimator.memory import peak as memory
from finetree_estimator.methods.full import Full
from finetree_estimator.methods.lora import Lora
from finetree_estimator.methods.targets import PRESETS
from finetree_estimator.run import EvaluationPlan, Rows
from finetree_estimator.spec.parse import parse_request
from finetree_estimator.spec.resolve import Knowledge
from finetree_estimator.timing import phases
from google.protobuf import json_format

CPU_MEMORY = Path(__file__).parents[4] / "benchmarks" / "results" / "estimator" / "cpu_memory.json"


@dataclass(frozen=True)
class Measured:
    method: str
    fp32: bool
    length: int
    tokens: int
    checkpointing: bool
    rate: float
    seconds: float


RUNS = [
    Measured("lora", False, 40, 240, False, 0.203e12, 1.23),
    Measured("lora", False, 40, 2040, False, 0.201e12, 8.06),
    Measured("lora", False, 256, 2048, False, 0.208e12, 9.24),
    Measured("full", False, 40, 240, False, 0.190e12, 1.45),
    Measured("lora", True, 40, 240, False, 0.0805e12, 2.12),
    Measured("lora", False, 40, 480, True, 0.198e12, 3.00),
]


def name(run: Measured) -> str:
    number = "fp32" if run.fp32 else "bf16"
    return f"{run.method}-{number}-{run.tokens}x{run.length}{'-checkpointing' if run.checkpointing else ''}"


@pytest.fixture(params=RUNS, ids=name)
def pair(request, make_run):
    """A measured run, and the same as the formulas see it."""
    measured = request.param
    size = 4 if measured.fp32 else 2
    count = measured.tokens // measured.length
    run = make_run(
        shape=model("smollm2-135m-instruct").shape,
        method=Full() if measured.method == "full" else Lora(8, PRESETS["all-linear"], 0.1),
        device=processor(cores=1, measured_flops=measured.rate),
        micro_batch=count,
        batch=count,
        sequence_length=measured.length,
        packing=True,
        rows=Rows(
            count=count,
            mean=measured.length,
            mean_square=measured.length**2,
            longest=measured.length,
            target_fraction=0.3,
        ),
        weight_bytes=size,
        compute_bytes=size,
        master_bytes=size if measured.method == "full" else 4,
        checkpointing=measured.checkpointing,
    )
    return measured, run


def test_time_of_a_step_on_a_cpu(pair):
    measured, run = pair
    step = phases.estimate(run).step

    assert step.expected == pytest.approx(measured.seconds, rel=0.2)
    assert step.low <= measured.seconds <= step.high


def test_time_of_an_answer_on_a_cpu(make_run):
    """40 questions at once took 1.065 s for 8 tokens, prompts left out."""
    run = make_run(shape=model("smollm2-135m-instruct").shape, device=processor(cores=1, measured_flops=0.2e12))
    rows = Rows(count=40, mean=24.0, mean_square=576.0, longest=24, target_fraction=0.0001)
    one, nine = (
        phases.evaluation_seconds(run, EvaluationPlan(rows=rows, generate=True, max_new_tokens=n, before=1))
        for n in (1, 9)
    )

    assert nine - one == pytest.approx(1.065, rel=0.15)


def test_every_peak_of_the_committed_measurements_comes_out():
    """35 runs of the worker on a CPU: methods, precisions, row lengths, checkpointing, evaluations."""
    wrong = {}
    for case in json.loads(CPU_MEMORY.read_text())["cases"]:
        request, measured = estimate_pb2.EstimateRunRequest(), case["measured"]
        json_format.ParseDict({"spec": case["spec"], "dataset_profile": measured["rows"]}, request)
        found = memory.estimate(parse_request(request, Knowledge(packaged())).run)
        allocated, process = found.allocated.expected, found.device
        if (
            allocated != pytest.approx(measured["allocated"], rel=0.05)
            or process.expected != pytest.approx(measured["process"], rel=0.1)
            or not process.low <= measured["process"] <= process.high
        ):
            wrong[case["case"]] = (allocated / measured["allocated"], process.expected / measured["process"])

    assert not wrong
