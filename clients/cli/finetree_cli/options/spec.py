# SPDX-License-Identifier: Apache-2.0
"""Options that describe model, hardware, data and ownership, and the messages that they become."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
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
"""Longest wait for the host's matrix rate to be measured (the contract's limit; it takes about 10 s)."""


@dataclass(frozen=True, slots=True)
class HardwareFlags:
    """Hardware: a GPU, a CPU or this machine."""

    gpu: str | None = None
    gpu_memory: float | None = None
    cpu: bool = False
    this_machine: bool = False
    count: int | None = None
    cores: int = 0
    memory_gb: float = 0.0


@dataclass(frozen=True, slots=True)
class DataFlags:
    """Data: datasets by name, or numbers of rows and tokens."""

    dataset: str | None = None
    eval_dataset: str | None = None
    examples: int | None = None
    tokens: int = 0
    target_fraction: float = 0.0


@dataclass(frozen=True, slots=True)
class OwnershipFlags:
    """Ownership: hardware rented at a price, or owned with a tariff and a power."""

    price: str | None = None
    tariff: float | None = None
    watts: float = 0.0
    currency: str = ""


def hardware_options(command: F) -> F:
    """Add the options of `HardwareFlags`."""
    return _add(
        command,
        click.option("--gpu", metavar="NAME", help="A name of `finetree gpus`, such as rtx-4090."),
        click.option("--gpu-memory", type=float, metavar="GB", help="Memory of the GPU; overrides the name's."),
        click.option("--cpu", is_flag=True, help="A machine without a GPU."),
        click.option("--this-machine", is_flag=True, help="The trainer's machine, with measured matrix rates."),
        click.option("--gpus", "count", type=Whole(1), metavar="N", help="Number of GPUs. [default: 1]"),
        click.option("--cores", type=Whole(), default=0, metavar="N", help="With --cpu: number of cores."),
        click.option(
            "--memory-gb", type=Amount(MOST / 1e9), default=0.0, metavar="GB", help="With --cpu: memory of the machine."
        ),
    )


def data_options(command: F) -> F:
    """Add the options of `DataFlags`."""
    return _add(
        command,
        click.option("--dataset", metavar="NAME", help="A dataset of `finetree datasets list`."),
        click.option("--eval-dataset", metavar="NAME", help="A held-out dataset to evaluate on."),
        click.option("--examples", type=Whole(), metavar="N", help="Number of rows, where there is no dataset yet."),
        click.option("--tokens", type=Whole(), default=0, metavar="N", help="With --examples: tokens of all rows."),
        click.option(
            "--target-fraction",
            type=float,
            default=0.0,
            metavar="0..1",
            help="With --examples: share of the tokens that enter the loss.",
        ),
    )


def ownership_options(command: F) -> F:
    """Add the options of `OwnershipFlags`."""
    return _add(
        command,
        click.option("--price", metavar="ID", help="Rented at this price of `finetree prices list`; '': the cheapest."),
        click.option("--tariff", type=float, metavar="PER_KWH", help="Owned: price of a kilowatt-hour."),
        click.option("--watts", type=float, default=0.0, help="Owned: power of the machine under load."),
        click.option("--currency", default="", metavar="CODE", help="Currency of --tariff. [default: USD]"),
    )


def model_source(name: str) -> "run_spec_pb2.ModelSource":
    """Convert --model: a catalogue name, a hub id ("organisation/name" with an optional "@revision"), or a folder."""
    from finetree_api.types.v1 import run_spec_pb2

    if (folder := model_folder(name)) is not None:
        return run_spec_pb2.ModelSource(path=folder.name)
    if "/" not in name:
        return run_spec_pb2.ModelSource(name=name)
    hub, _, revision = name.partition("@")
    return run_spec_pb2.ModelSource(hub=run_spec_pb2.HubModel(id=hub, revision=revision))


def hardware(flags: HardwareFlags, client: "Client") -> "run_spec_pb2.Hardware | None":
    """Convert the hardware flags; None without any. Asks the trainer for --this-machine. Raises BadInput."""
    from finetree_api.types.v1 import run_spec_pb2 as rs

    given = {
        "--gpu": flags.gpu is not None or flags.gpu_memory is not None,
        "--cpu": flags.cpu,
        "--this-machine": flags.this_machine,
    }
    chosen = [name for name, there in given.items() if there]
    if len(chosen) > 1:
        raise BadInput(f"{' and '.join(chosen)} exclude each other", remedy="keep one of them")
    _refuse_unused(flags, chosen)
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


def _refuse_unused(flags: HardwareFlags, chosen: list[str]) -> None:
    """Refuse flags of hardware that is not given: they would have no effect."""
    if flags.count and chosen != ["--gpu"]:
        raise BadInput("--gpus needs a GPU", remedy="name it: --gpu NAME or --gpu-memory GB")
    stray = [flag for flag, value in (("--cores", flags.cores), ("--memory-gb", flags.memory_gb)) if value]
    if stray and chosen != ["--cpu"]:
        text = f"{' and '.join(stray)} need{'s' if len(stray) == 1 else ''} --cpu"
        raise BadInput(text, remedy="add --cpu, or give the memory of a GPU with --gpu-memory GB")


def machine_hardware(capacity: "trainer_pb2.GetCapacityResponse") -> "run_spec_pb2.Hardware":
    """Return the trainer's device that a job would take: a GPU if there is one, else the CPU with measured rates."""
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
    """Data of a request; None is not given."""

    dataset: "run_spec_pb2.DatasetSource | None" = None
    profile: "run_spec_pb2.DatasetProfile | None" = None
    evaluation: "run_spec_pb2.Evaluation | None" = None
    evaluation_profile: "run_spec_pb2.DatasetProfile | None" = None


def data(flags: DataFlags, client: "Client") -> Data:
    """Convert the data flags; the trainer gives the profiles of named datasets. Raises BadInput."""
    from finetree_api.types.v1 import run_spec_pb2 as rs

    if flags.dataset and flags.examples is not None:
        raise BadInput("--dataset and --examples exclude each other", remedy="keep one of them")
    if flags.examples is None and (flags.tokens or flags.target_fraction):
        stray = "--tokens" if flags.tokens else "--target-fraction"
        raise BadInput(f"{stray} needs --examples", remedy="give the number of rows: --examples N")
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


def ownership(flags: OwnershipFlags) -> "run_spec_pb2.Ownership | None":
    """Convert the ownership flags; None without any. Raises BadInput."""
    from finetree_api.types.v1 import run_spec_pb2 as rs

    if flags.price is not None and flags.tariff is not None:
        raise BadInput(
            "--price and --tariff exclude each other", remedy="--price is for rented hardware, --tariff for owned"
        )
    if flags.currency and flags.tariff is None:
        raise BadInput("--currency needs --tariff", remedy="give the price of a kilowatt-hour, or leave --currency out")
    if flags.price is not None:
        return rs.Ownership(rented=rs.RentedHardware(price_id=flags.price))
    if flags.tariff is not None or flags.watts:
        owned = rs.OwnedHardware(tariff_per_kwh=flags.tariff or 0.0, watts=flags.watts, currency_code=flags.currency)
        return rs.Ownership(owned=owned)
    return None


def choice(flag: str, values: Mapping[str, int], text: str) -> Callable[[F], F]:
    """Create an option whose words stand for an enum's numbers; `enum_value` converts them."""
    return click.option(flag, type=click.Choice(sorted(values, key=values.__getitem__)), help=text)


def enum_value(values: Mapping[str, int], word: str | None) -> Any:
    """Return the enum's number of an option's word; 0 (UNSPECIFIED) without one."""
    return values[word] if word is not None else 0


def _add(command: F, *options: Callable[[F], F]) -> F:
    for option in reversed(options):
        command = option(command)
    return command
