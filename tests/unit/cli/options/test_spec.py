# SPDX-License-Identifier: Apache-2.0
"""Options that describe model, hardware, data and ownership."""

from functools import partial
from typing import Any

import pytest
from finetree_api.trainer.v1 import capacity_pb2
from finetree_api.types.v1 import hardware_pb2, training_data_pb2
from finetree_cli.errors import BadInput
from finetree_cli.options import spec as spec_flags
from finetree_cli.options.types import MoneyAmount
from google.type import money_pb2

NOBODY: Any = None
"""Client of options that ask no server."""


@pytest.mark.parametrize(
    ("name", "source", "revision"),
    [("llama-3.1-8b", "name", ""), ("org/model", "hub", ""), ("org/model@v2", "hub", "v2")],
)
def test_a_model_is_named_by_catalog_or_hub(name, source, revision):
    model = spec_flags.model_source(name)
    assert model.WhichOneof("source") == source
    assert model.hub.revision == revision


@pytest.mark.parametrize(
    ("flags", "option"),
    [
        ({"count": 4}, "--gpus"),
        ({"cpu": True, "count": 4}, "--gpus"),
        ({"gpu": "t4", "sharding": "full"}, "--sharding needs several GPUs"),
        ({"cores": 8, "memory_gb": 64}, "--cores and --memory-gb"),
        ({"gpu": "t4", "memory_gb": 64}, "--memory-gb"),
        ({"tokens": 9}, "--tokens needs --examples"),
        ({"target_fraction": 0.5}, "--target-fraction needs --examples"),
    ],
)
def test_an_option_without_effect_is_refused(flags, option):
    if flags.keys() & {"tokens", "target_fraction"}:
        read = partial(spec_flags.data, spec_flags.DataFlags(**flags), NOBODY)
    else:
        read = partial(spec_flags.hardware, spec_flags.HardwareFlags(**flags), NOBODY)
    with pytest.raises(BadInput, match=option):
        read()


def test_electricity_is_money_and_us_dollars_without_a_currency():
    convert = MoneyAmount().convert
    owned = spec_flags.ownership(spec_flags.OwnershipFlags(price_per_kwh=convert("0.30 EUR", None, None), watts=500))
    assert owned is not None
    assert owned.owned.price_per_kwh == money_pb2.Money(currency_code="EUR", nanos=300_000_000)
    assert owned.owned.watts == 500
    assert convert("0.12", None, None).currency_code == "USD"


def test_what_is_not_given_stays_unset():
    machine = spec_flags.hardware(spec_flags.HardwareFlags(cpu=True), NOBODY)
    assert machine is not None
    assert machine.hardware == hardware_pb2.Hardware(cpu=hardware_pb2.CpuDevice())
    profile = spec_flags.data(spec_flags.DataFlags(examples=5), NOBODY).profile
    assert profile == training_data_pb2.DatasetProfile(examples=5)


def test_number_and_sharding_change_a_job_files_gpus():
    job = hardware_pb2.Hardware(accelerator="h100", count=4)
    flags = spec_flags.HardwareFlags(sharding="full")
    machine = spec_flags.hardware(flags, NOBODY, of_job=job)
    assert machine is not None
    assert machine.hardware == hardware_pb2.Hardware(accelerator="h100", count=4, sharding=hardware_pb2.SHARDING_FULL)
    assert spec_flags.hardware(spec_flags.HardwareFlags(), NOBODY, of_job=job) is None
    with pytest.raises(BadInput, match="--gpus needs a GPU"):
        spec_flags.hardware(
            spec_flags.HardwareFlags(count=2), NOBODY, of_job=hardware_pb2.Hardware(cpu=hardware_pb2.CpuDevice())
        )


def capacity(**device: str) -> capacity_pb2.GetCapacityResponse:
    hardware = hardware_pb2.Hardware(**(device or {"cpu": hardware_pb2.CpuDevice(cores=2, model_name="A CPU")}))
    rates = hardware_pb2.MatrixRates(bf16_flops_per_second=3e12)
    node = capacity_pb2.Node(devices=[capacity_pb2.Device(hardware=hardware)], matrix_rates=rates)
    return capacity_pb2.GetCapacityResponse(nodes=[node])


def test_this_machine_is_its_gpu_or_its_cpu_with_the_measured_rates():
    found = spec_flags.this_machine(capacity())
    assert (found.hardware.cpu.cores, found.hardware.cpu.model_name) == (2, "A CPU")
    assert found.matrix_rates is not None
    assert found.matrix_rates.bf16_flops_per_second == 3e12
    both = capacity()
    both.nodes[0].devices.add().hardware.accelerator = "rtx-4090"
    found = spec_flags.this_machine(both)
    assert (found.hardware.accelerator, found.matrix_rates) == ("rtx-4090", None)


def test_a_trainer_without_a_device_is_refused():
    with pytest.raises(BadInput) as caught:
        spec_flags.this_machine(capacity_pb2.GetCapacityResponse())
    assert caught.value.reason == "NO_SUCH_DEVICE"
