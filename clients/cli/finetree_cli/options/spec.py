# SPDX-License-Identifier: Apache-2.0
"""Flags that describe a model, hardware, data and ownership, and the messages that they become."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, TypeVar

import click

from finetree_cli.errors import BadInput
from finetree_cli.options.model_folder import model_folder
from finetree_cli.options.types import MOST, Amount, Whole

if TYPE_CHECKING:
    from finetree import Client
    from finetree_api.trainer.v1 import trainer_pb2
    from finetree_api.types.v1 import run_spec_pb2

F = TypeVar("F", bound=Callable[..., Any])

RATE_WAIT_SECONDS = 30.0
"""How long to wait for a host's matrix rate to be measured (the contract's limit; a measurement takes about 10 s)."""


@dataclass(frozen=True, slots=True)
class HardwareFlags:
    """What to train on; a GPU, a CPU or this machine."""

    gpu: str | None = None
    gpu_memory: float | None = None
    cpu: bool = False
    this_machine: bool = False
    count: int | None = None
    cores: int = 0
    memory_gb: float = 0.0

    @classmethod
    def take(cls, flags: dict[str, Any]) -> "HardwareFlags":
        """Move these flags out of a command's keyword arguments."""
        return cls(**{item.name: flags.pop(item.name) for item in fields(cls)})


@dataclass(frozen=True, slots=True)
class DataFlags:
    """What is known of the data."""

    dataset: str | None = None
    eval_dataset: str | None = None
    examples: int | None = None
    tokens: int = 0
    target_fraction: float = 0.0

    @classmethod
    def take(cls, flags: dict[str, Any]) -> "DataFlags":
        """Move these flags out of a command's keyword arguments."""
        return cls(**{item.name: flags.pop(item.name) for item in fields(cls)})


def hardware_options(command: F) -> F:
    """Add the flags of `HardwareFlags`."""
    return _add(
        command,
        click.option("--gpu", metavar="NAME", help="A GPU of `finetree gpus`, such as rtx-4090."),
        click.option("--gpu-memory", type=float, metavar="GB", help="Its memory, trusted over its name."),
        click.option("--cpu", is_flag=True, help="A machine without a GPU."),
        click.option(
            "--this-machine", is_flag=True, help="What the trainer finds on its machine, with measured rates."
        ),
        click.option("--gpus", "count", type=Whole(1), metavar="N", help="Number of GPUs. [default: 1]"),
        click.option("--cores", type=Whole(), default=0, metavar="N", help="Cores of a machine without a GPU."),
        click.option("--memory-gb", type=Amount(MOST / 1e9), default=0.0, metavar="GB", help="Its memory."),
    )


def data_options(command: F) -> F:
    """Add the flags of `DataFlags`."""
    return _add(
        command,
        click.option("--dataset", metavar="NAME", help="A dataset of `finetree datasets list`."),
        click.option("--eval-dataset", metavar="NAME", help="A held-out dataset to evaluate on."),
        click.option("--examples", type=Whole(), metavar="N", help="Rows, where there is no dataset yet."),
        click.option("--tokens", type=Whole(), default=0, metavar="N", help="Tokens of all rows."),
        click.option("--target-fraction", type=float, default=0.0, metavar="0..1", help="Share that is learned."),
    )


def ownership_options(command: F) -> F:
    """Add the flags of ownership."""
    return _add(
        command,
        click.option("--price", metavar="ID", help="Rented at this price; '' takes the cheapest."),
        click.option("--tariff", type=float, metavar="PER_KWH", help="Owned: price of a kilowatt-hour."),
        click.option("--watts", type=float, default=0.0, help="Power of the owned machine under load."),
        click.option("--currency", default="", metavar="CODE", help="Currency of the tariff. [default: USD]"),
    )


def model_source(name: str) -> "run_spec_pb2.ModelSource":
    """A model by its catalogue name, its hub id ("organisation/name" with an optional "@revision"), or its folder."""
    from finetree_api.types.v1 import run_spec_pb2

    if (folder := model_folder(name)) is not None:
        return run_spec_pb2.ModelSource(path=folder.name)
    if "/" not in name:
        return run_spec_pb2.ModelSource(name=name)
    hub, _, revision = name.partition("@")
    return run_spec_pb2.ModelSource(hub=run_spec_pb2.HubModel(id=hub, revision=revision))


def hardware(flags: HardwareFlags, client: "Client") -> "run_spec_pb2.Hardware | None":
    """The hardware that the flags describe; None when they say nothing. Asks the trainer for --this-machine."""
    from finetree_api.types.v1 import run_spec_pb2 as rs

    given = {
        "--gpu": flags.gpu is not None or flags.gpu_memory is not None,
        "--cpu": flags.cpu,
        "--this-machine": flags.this_machine,
    }
    chosen = [name for name, there in given.items() if there]
    if len(chosen) > 1:
        raise BadInput(f"{' and '.join(chosen)} exclude each other", remedy="keep one of them")
    _check_beside(flags, chosen)
    if flags.this_machine:
        return machine_hardware(client.capacity(wait_for_rate=RATE_WAIT_SECONDS))
    if flags.gpu_memory is not None:
        unknown = rs.UnknownAccelerator(marketed_memory_gb=flags.gpu_memory, name=flags.gpu or "")
        return rs.Hardware(unknown_accelerator=unknown, count=flags.count or 0)
    if flags.gpu is not None:
        return rs.Hardware(accelerator=flags.gpu, count=flags.count or 0)
    if flags.cpu:
        memory = round(flags.memory_gb * 1e9)
        return rs.Hardware(cpu=rs.CpuDevice(cores=flags.cores, memory_bytes=memory))
    return None


def _check_beside(flags: HardwareFlags, chosen: list[str]) -> None:
    """Refuse numbers of what was not named: they would be passed over without a word."""
    if flags.count and chosen != ["--gpu"]:
        raise BadInput("--gpus says how many of a GPU there are", remedy="name it: --gpu NAME or --gpu-memory GB")
    stray = [flag for flag, value in (("--cores", flags.cores), ("--memory-gb", flags.memory_gb)) if value]
    if stray and chosen != ["--cpu"]:
        what = f"{' and '.join(stray)} describe{'s' if len(stray) == 1 else ''} a machine without a GPU"
        raise BadInput(what, remedy="add --cpu, or for the memory of a GPU say --gpu-memory GB")


def machine_hardware(capacity: "trainer_pb2.GetCapacityResponse") -> "run_spec_pb2.Hardware":
    """The device of the trainer that a job would take: a GPU where there is one, else the CPU with its rates."""
    from finetree_api.types.v1 import run_spec_pb2 as rs

    if not capacity.devices:
        raise BadInput("the trainer has no device to train on", reason="NO_SUCH_DEVICE")
    best = min(capacity.devices, key=lambda device: device.hardware.WhichOneof("device") == "cpu")
    found = rs.Hardware()
    found.CopyFrom(best.hardware)
    if found.WhichOneof("device") == "cpu":
        cpu = found.cpu
        cpu.bf16_flops_per_second = cpu.bf16_flops_per_second or capacity.host_bf16_flops_per_second
        cpu.fp32_flops_per_second = cpu.fp32_flops_per_second or capacity.host_fp32_flops_per_second
        cpu.model_name = cpu.model_name or capacity.host_cpu_name
    return found


@dataclass(frozen=True, slots=True)
class Data:
    """What a request says of the data; None is not said."""

    dataset: "run_spec_pb2.DatasetSource | None" = None
    profile: "run_spec_pb2.DatasetProfile | None" = None
    evaluation: "run_spec_pb2.Evaluation | None" = None
    evaluation_profile: "run_spec_pb2.DatasetProfile | None" = None


def data(flags: DataFlags, client: "Client") -> Data:
    """The data that the flags describe; profiles of named datasets come from the trainer."""
    from finetree_api.types.v1 import run_spec_pb2 as rs

    if flags.dataset and flags.examples is not None:
        raise BadInput("--dataset and --examples exclude each other", remedy="keep one of them")
    if flags.examples is None and (flags.tokens or flags.target_fraction):
        stray = "--tokens" if flags.tokens else "--target-fraction"
        raise BadInput(f"{stray} goes with --examples", remedy="say how many rows there are: --examples N")
    dataset = profile = evaluation = evaluation_profile = None
    if flags.dataset:
        found = client.get_dataset(flags.dataset)
        dataset, profile = rs.DatasetSource(name=found.name), found.profile
    elif flags.examples is not None:
        profile = rs.DatasetProfile(
            examples=flags.examples, total_tokens=flags.tokens, target_fraction=flags.target_fraction
        )
    if flags.eval_dataset:
        held_out = client.get_dataset(flags.eval_dataset)
        evaluation = rs.Evaluation(dataset=rs.DatasetSource(name=held_out.name), before_training=True)
        evaluation_profile = held_out.profile
    return Data(dataset, profile, evaluation, evaluation_profile)


def ownership(price: str | None, tariff: float | None, watts: float, currency: str) -> "run_spec_pb2.Ownership | None":
    """Who owns the hardware; None when the flags say nothing."""
    from finetree_api.types.v1 import run_spec_pb2 as rs

    if price is not None and tariff is not None:
        raise BadInput("--price and --tariff exclude each other", remedy="rented hardware has no tariff")
    if currency and tariff is None:
        raise BadInput("--currency is that of --tariff", remedy="give the price of a kilowatt-hour, or leave it out")
    if price is not None:
        return rs.Ownership(rented=rs.RentedHardware(price_id=price))
    if tariff is not None or watts:
        owned = rs.OwnedHardware(tariff_per_kwh=tariff or 0.0, watts=watts, currency_code=currency)
        return rs.Ownership(owned=owned)
    return None


def choice(flag: str, values: Mapping[str, int], text: str) -> Callable[[F], F]:
    """An option whose words stand for an enum's numbers; `enum_value` turns them back."""
    return click.option(flag, type=click.Choice(sorted(values, key=values.__getitem__)), help=text)


def enum_value(values: Mapping[str, int], word: str | None) -> Any:
    """The number of an option's word; 0, not stated, without one."""
    return values[word] if word is not None else 0


def _add(command: F, *options: Callable[[F], F]) -> F:
    for option in reversed(options):
        command = option(command)
    return command
