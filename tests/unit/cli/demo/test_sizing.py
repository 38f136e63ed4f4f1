# SPDX-License-Identifier: Apache-2.0
"""The size of the demo's dataset."""

import pytest
from finetree_api.trainer.v1 import trainer_pb2
from finetree_api.types.v1 import run_spec_pb2 as rs
from finetree_cli.demo import dataset, sizing


def capacity(bf16: float, **device: str) -> trainer_pb2.GetCapacityResponse:
    hardware = rs.Hardware(**(device or {"cpu": rs.CpuDevice(cores=2)}))
    return trainer_pb2.GetCapacityResponse(
        devices=[trainer_pb2.Device(hardware=hardware)], host_bf16_flops_per_second=bf16, host_cpu_name="A CPU"
    )


@pytest.mark.parametrize(
    ("rate", "countries"), [(0, 60), (0.5e12, 60), (2e12, 60), (4e12, 120), (100e12, len(dataset.available()))]
)
def test_the_demo_grows_with_the_machine(rate, countries):
    assert sizing.choose(capacity(rate), None).countries == countries


def test_a_gpu_takes_every_country_and_a_wish_wins():
    gpu = capacity(1e12, accelerator="rtx-4090")
    assert sizing.choose(gpu, None).countries == len(dataset.available())
    assert sizing.choose(gpu, 61).countries == 61
