# SPDX-License-Identifier: Apache-2.0
"""The measured rates of a job file's CPU: the trainer's own, or none."""

from types import SimpleNamespace

import finetree
import pytest
from finetree_api.estimator.v1 import estimate_pb2
from finetree_api.trainer.v1 import capacity_pb2
from finetree_api.types.v1 import hardware_pb2, run_spec_pb2
from finetree_cli.options.measured_rates import add_measured_rates, may_be_measured
from finetree_cli.output import Output

CPU = hardware_pb2.CpuDevice(cores=2, memory_bytes=8 << 30, model_name="A CPU")
RATES = hardware_pb2.MatrixRates(bf16_flops_per_second=3e12)


def run_on(cpu: hardware_pb2.CpuDevice) -> estimate_pb2.EstimateRunRequest:
    hardware = hardware_pb2.Hardware(cpu=cpu, count=1)
    return estimate_pb2.EstimateRunRequest(spec=run_spec_pb2.RunSpec(hardware=hardware))


class Trainer:
    """A trainer of one CPU, whose rates are there once somebody waits for them, or from the start."""

    def __init__(self, *, measured: bool = True) -> None:
        self.measured = measured
        self.waits = list[float]()

    def capacity(self, *, wait_for_rate: float = 0.0) -> capacity_pb2.GetCapacityResponse:
        self.waits.append(wait_for_rate)
        rates = RATES if self.measured or wait_for_rate else None
        devices = [
            capacity_pb2.Device(hardware=hardware_pb2.Hardware(accelerator="t4")),
            capacity_pb2.Device(hardware=hardware_pb2.Hardware(cpu=CPU)),
        ]
        return capacity_pb2.GetCapacityResponse(nodes=[capacity_pb2.Node(devices=devices, matrix_rates=rates)])


@pytest.mark.parametrize(("measured", "waits"), [(True, [0.0]), (False, [0.0, 30.0])])
def test_the_trainers_own_cpu_has_its_rates_and_they_are_waited_for(capsys, measured, waits):
    trainer, request = Trainer(measured=measured), run_on(CPU)
    assert may_be_measured(request)
    add_measured_rates(request, trainer, Output())
    assert request.matrix_rates == RATES
    assert trainer.waits == waits
    assert "the CPU is the trainer's" in capsys.readouterr().err


@pytest.mark.parametrize("cores", [0, 4])
def test_another_cpu_has_none_and_is_not_waited_for(capsys, cores):
    trainer, request = Trainer(measured=False), run_on(hardware_pb2.CpuDevice(cores=cores, model_name="A CPU"))
    add_measured_rates(request, trainer, Output())
    assert not request.HasField("matrix_rates")
    assert trainer.waits == [0.0]
    assert capsys.readouterr().err == ""


def test_a_trainer_that_gives_no_answer_is_said_and_no_error(capsys):
    def refuse(**_: float) -> None:
        raise finetree.Unavailable("nothing listens there")

    request = run_on(CPU)
    add_measured_rates(request, SimpleNamespace(capacity=refuse), Output())
    assert not request.HasField("matrix_rates")
    assert "speed is assumed: the trainer's measured rates cannot be read: nothing listens" in capsys.readouterr().err


def test_nobody_is_asked_about_a_gpu_about_any_cpu_or_where_rates_are_given():
    gpu = estimate_pb2.EstimateRunRequest(spec=run_spec_pb2.RunSpec(hardware=hardware_pb2.Hardware(accelerator="t4")))
    given = run_on(CPU)
    given.matrix_rates.CopyFrom(RATES)
    for request in (gpu, given, run_on(hardware_pb2.CpuDevice()), estimate_pb2.EstimateRunRequest()):
        assert not may_be_measured(request)
