# SPDX-License-Identifier: Apache-2.0
"""The size of the demo's dataset."""

import pytest
from finetree_api.trainer.v1 import capacity_pb2
from finetree_api.types.v1 import hardware_pb2
from finetree_cli.demo import dataset, sizing


def capacity(bf16: float, **device: str) -> capacity_pb2.GetCapacityResponse:
    hardware = hardware_pb2.Hardware(**(device or {"cpu": hardware_pb2.CpuDevice(cores=2)}))
    rates = hardware_pb2.MatrixRates(bf16_flops_per_second=bf16 or None)
    node = capacity_pb2.Node(devices=[capacity_pb2.Device(hardware=hardware)], matrix_rates=rates)
    return capacity_pb2.GetCapacityResponse(nodes=[node])


@pytest.mark.parametrize(
    ("rate", "countries"), [(0, 60), (0.5e12, 60), (2e12, 60), (4e12, 120), (100e12, len(dataset.available()))]
)
def test_the_demo_grows_with_the_machine(rate, countries):
    assert sizing.choose(capacity(rate), None).countries == countries


def test_a_gpu_takes_every_country_and_a_wish_wins():
    gpu = capacity(1e12, accelerator="rtx-4090")
    assert sizing.choose(gpu, None).countries == len(dataset.available())
    assert sizing.choose(gpu, 61).countries == 61
