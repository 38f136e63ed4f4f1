# SPDX-License-Identifier: Apache-2.0
"""Options that describe model, hardware, data and ownership."""

from functools import partial
from types import SimpleNamespace
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
        ({"count": 4}, "--devices needs a device"),
        ({"cores": 8, "memory_gb": 64}, "--cores and --memory-gb"),
        ({"gpu": "t4", "memory_gb": 64}, "--memory-gb"),
        ({"gpu": None, "sharding": "fsdp"}, "--sharding needs a device"),
        ({"cpu": True, "nodes": 2}, "--nodes needs GPUs"),
        ({"network": 400.0}, "--network needs GPUs"),
        ({"tokens": 9}, "--tokens needs --examples"),
        ({"tokens_per_example": 9}, "--tokens-per-example needs --examples"),
        ({"examples": 5, "tokens": 50, "tokens_per_example": 9}, "exclude each other"),
        ({"target_fraction": 0.5}, "--target-fraction needs --examples"),
    ],
)
def test_an_option_without_effect_is_refused(flags, option):
    if flags.keys() & {"tokens", "tokens_per_example", "target_fraction"}:
        read = partial(spec_flags.data, spec_flags.DataFlags(**flags), NOBODY)
    else:
        read = partial(spec_flags.hardware, spec_flags.HardwareFlags(**flags), NOBODY)
    with pytest.raises(BadInput, match=option):
        read()


def test_rows_are_described_by_all_tokens_or_by_those_of_an_average_row():
    both = [spec_flags.DataFlags(examples=5_000, tokens=2_000_000)]
    both.append(spec_flags.DataFlags(examples=5_000, tokens_per_example=400))
    first, second = (spec_flags.data(flags, NOBODY).profile for flags in both)
    assert first == second == training_data_pb2.DatasetProfile(examples=5_000, total_tokens=2_000_000)


def test_the_tokens_of_a_job_files_rows_can_be_said_without_their_number():
    job = training_data_pb2.DatasetProfile(examples=5_000, target_fraction=0.5)
    for flags, rows in (
        (spec_flags.DataFlags(tokens_per_example=400), {"total_tokens": 2_000_000, "target_fraction": 0.5}),
        (spec_flags.DataFlags(tokens=5_000), {"total_tokens": 5_000, "target_fraction": 0.5}),
        (spec_flags.DataFlags(target_fraction=0.25), {"target_fraction": 0.25}),
    ):
        found = spec_flags.data(flags, NOBODY, job).profile
        assert found == training_data_pb2.DatasetProfile(examples=5_000, **rows)
    assert spec_flags.data(spec_flags.DataFlags(), NOBODY, job).profile is None
    with pytest.raises(BadInput, match="less than one token for each of 5,000 rows"):
        spec_flags.data(spec_flags.DataFlags(tokens=400), NOBODY, job)


def test_fewer_tokens_than_rows_are_refused_with_what_was_meant():
    with pytest.raises(BadInput, match=r"less than one token for each of 5,000 rows") as caught:
        spec_flags.data(spec_flags.DataFlags(examples=5_000, tokens=400), NOBODY)
    assert "--tokens-per-example 400, or --tokens 2000000" in caught.value.remedy


def test_sharding_has_the_words_of_the_field():
    assert set(spec_flags.SHARDING.values()) == {value for value in hardware_pb2.Sharding.values() if value}
    flags = spec_flags.HardwareFlags(gpu="a100-80gb", count=8, sharding="fsdp")
    machine = spec_flags.hardware(flags, NOBODY)
    assert machine is not None
    assert (machine.hardware.count, machine.hardware.sharding) == (8, hardware_pb2.SHARDING_FULL)


def test_machines_and_their_network_are_said_with_gpus_or_of_a_job_file():
    said = {"nodes": 2, "network": 400.0}
    found = spec_flags.hardware(spec_flags.HardwareFlags(gpu="a100-80gb", count=16, **said), NOBODY).hardware
    base = hardware_pb2.Hardware(accelerator="h100", count=16)
    changed = spec_flags.hardware(spec_flags.HardwareFlags(**said), NOBODY, base=base).hardware

    assert (found.nodes, found.network_gbits_per_second) == (2, 400)
    assert (changed.count, changed.nodes, changed.network_gbits_per_second) == (16, 2, 400)


def test_the_number_of_gpus_and_their_sharding_change_the_hardware_of_a_job_file():
    base = hardware_pb2.Hardware(accelerator="t4", count=2)
    machine = spec_flags.hardware(spec_flags.HardwareFlags(count=4, sharding="zero-2"), NOBODY, base=base)
    assert machine is not None
    assert machine.hardware == hardware_pb2.Hardware(
        accelerator="t4", count=4, sharding=hardware_pb2.SHARDING_GRADIENTS
    )
    assert spec_flags.hardware(spec_flags.HardwareFlags(), NOBODY, base=base) is None
    assert base.count == 2


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


def test_devices_of_a_cpu_are_processes_also_on_this_machine_and_of_a_job_file():
    flags = {"count": 2, "sharding": "fsdp"}
    said = spec_flags.hardware(spec_flags.HardwareFlags(cpu=True, cores=4, **flags), NOBODY).hardware
    base = hardware_pb2.Hardware(cpu=hardware_pb2.CpuDevice(cores=4))
    changed = spec_flags.hardware(spec_flags.HardwareFlags(**flags), NOBODY, base=base).hardware
    here = SimpleNamespace(capacity=lambda **_: capacity())
    found = spec_flags.hardware(spec_flags.HardwareFlags(this_machine=True, **flags), here)

    for hardware in (said, changed, found.hardware):
        assert hardware.WhichOneof("device") == "cpu"
        assert (hardware.count, hardware.sharding) == (2, hardware_pb2.SHARDING_FULL)
    assert found.matrix_rates.bf16_flops_per_second == 3e12
