# SPDX-License-Identifier: Apache-2.0
"""Options that describe model, hardware, data and ownership."""

from functools import partial
from typing import Any

import pytest
from finetree_api.trainer.v1 import trainer_pb2
from finetree_api.types.v1 import run_spec_pb2 as rs
from finetree_cli.errors import BadInput
from finetree_cli.options import spec as spec_flags


@pytest.mark.parametrize(
    ("name", "source", "revision"),
    [("llama-3.1-8b", "name", ""), ("org/model", "hub", ""), ("org/model@v2", "hub", "v2")],
)
def test_a_model_is_named_by_catalogue_or_hub(name, source, revision):
    model = spec_flags.model_source(name)
    assert model.WhichOneof("source") == source
    assert model.hub.revision == revision


@pytest.mark.parametrize(
    ("flags", "option"),
    [
        ({"count": 4}, "--gpus"),
        ({"cpu": True, "count": 4}, "--gpus"),
        ({"cores": 8, "memory_gb": 64}, "--cores and --memory-gb"),
        ({"gpu": "t4", "memory_gb": 64}, "--memory-gb"),
        ({"tokens": 9}, "--tokens needs --examples"),
        ({"target_fraction": 0.5}, "--target-fraction needs --examples"),
        ({"currency": "EUR"}, "--currency needs --tariff"),
    ],
)
def test_an_option_without_effect_is_refused(flags, option):
    nobody: Any = None  # no server is asked
    if "currency" in flags:
        read = partial(spec_flags.ownership, spec_flags.OwnershipFlags(**flags))
    elif flags.keys() & {"tokens", "target_fraction"}:
        read = partial(spec_flags.data, spec_flags.DataFlags(**flags), nobody)
    else:
        read = partial(spec_flags.hardware, spec_flags.HardwareFlags(**flags), nobody)
    with pytest.raises(BadInput, match=option):
        read()


def capacity(bf16: float, **device: str) -> trainer_pb2.GetCapacityResponse:
    hardware = rs.Hardware(**(device or {"cpu": rs.CpuDevice(cores=2)}))
    return trainer_pb2.GetCapacityResponse(
        devices=[trainer_pb2.Device(hardware=hardware)], host_bf16_flops_per_second=bf16, host_cpu_name="A CPU"
    )


def test_this_machine_is_its_gpu_or_its_cpu_with_the_measured_rates():
    found = spec_flags.machine_hardware(capacity(3e12))
    assert (found.cpu.cores, found.cpu.bf16_flops_per_second, found.cpu.model_name) == (2, 3e12, "A CPU")
    both = capacity(3e12)
    both.devices.add().hardware.accelerator = "rtx-4090"
    assert spec_flags.machine_hardware(both).accelerator == "rtx-4090"
