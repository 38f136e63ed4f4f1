# SPDX-License-Identifier: Apache-2.0
"""Options that describe model, hardware, data and ownership, and the messages that they become."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import click

from finetree_cli.errors import BadInput
from finetree_cli.options.model_folder import model_folder
from finetree_cli.options.types import MOST, Amount, MoneyAmount, Whole

if TYPE_CHECKING:
    from finetree import Client
    from finetree_api.trainer.v1 import capacity_pb2, dataset_pb2
    from finetree_api.types.v1 import hardware_pb2, model_pb2, training_data_pb2, training_pb2
    from google.type import money_pb2

F = TypeVar("F", bound=Callable[..., Any])

# The numbers are those of the contract's enum; a test compares them.
SHARDING = {"ddp": 1, "zero-1": 2, "zero-2": 3, "fsdp": 4, "zero-3": 4}

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
    sharding: str | None = None
    nodes: int | None = None
    network: float | None = None
    cores: int | None = None
    memory_gb: float | None = None


@dataclass(frozen=True, slots=True)
class DataFlags:
    """Data: datasets by name, or numbers of rows and tokens."""

    dataset: str | None = None
    eval_dataset: str | None = None
    examples: int | None = None
    tokens: int | None = None
    tokens_per_example: int | None = None
    target_fraction: float | None = None


@dataclass(frozen=True, slots=True)
class OwnershipFlags:
    """Ownership: hardware rented at a price, or owned with a price of electricity and a power."""

    price: str | None = None
    price_per_kwh: "money_pb2.Money | None" = None
    watts: float | None = None


def choice(flag: str, values: Mapping[str, int], text: str) -> Callable[[F], F]:
    """Create an option whose words stand for an enum's numbers; `enum_value` converts them."""
    return click.option(flag, type=click.Choice(sorted(values, key=values.__getitem__)), help=text)


sharding_option = choice(
    "--sharding",
    SHARDING,
    "What is divided over the devices: nothing (ddp: each has a full copy), optimizer states (zero-1), gradients too "
    "(zero-2), or all (fsdp, zero-3). [default: ddp, or as the job file says]",
)
"""How several devices share the model."""
devices_option = click.option(
    "--devices",
    "count",
    type=Whole(1),
    metavar="N",
    help="Number of GPUs; on a CPU, of processes that share its cores. [default: 1, or as the job file says]",
)
"""How many devices."""


def token_options(command: F) -> F:
    """Add what is known of the rows besides their number."""
    return _add(
        command,
        click.option(
            "--tokens",
            type=Whole(1),
            metavar="N",
            help="With --examples, or a job file that has them: tokens of all rows together.",
        ),
        click.option(
            "--tokens-per-example",
            type=Whole(1),
            metavar="N",
            help="Average tokens of a row, in place of --tokens.",
        ),
        click.option(
            "--target-fraction",
            type=Amount(1),
            metavar="0..1",
            help="With --examples: share of the tokens that enter the loss.",
        ),
    )


def hardware_options(command: F) -> F:
    """Add the options of `HardwareFlags`."""
    return _add(
        command,
        click.option("--gpu", metavar="NAME", help="A name of `finetree gpus`, such as rtx-4090."),
        click.option("--gpu-memory", type=float, metavar="GB", help="Memory of the GPU; overrides the name's."),
        click.option("--cpu", is_flag=True, help="A machine without a GPU."),
        click.option("--this-machine", is_flag=True, help="The trainer's machine, with measured matrix rates."),
        devices_option,
        sharding_option,
        click.option(
            "--nodes", type=Whole(1), metavar="N", help="Machines that the GPUs are spread over. [default: 1]"
        ),
        click.option(
            "--network",
            type=Amount(1e6),
            metavar="GBIT/S",
            help="With --nodes: rate of each machine's network, one way. [default: as such machines have]",
        ),
        click.option("--cores", type=Whole(1), metavar="N", help="With --cpu: number of cores."),
        click.option("--memory-gb", type=Amount(MOST / 1e9), metavar="GB", help="With --cpu: memory of the machine."),
    )


def data_options(command: F) -> F:
    """Add the options of `DataFlags`."""
    return _add(
        token_options(command),
        click.option("--dataset", metavar="NAME", help="A dataset of `finetree datasets list`."),
        click.option("--eval-dataset", metavar="NAME", help="A held-out dataset to evaluate on."),
        click.option("--examples", type=Whole(), metavar="N", help="Number of rows, where there is no dataset yet."),
    )


def ownership_options(command: F) -> F:
    """Add the options of `OwnershipFlags`."""
    return _add(
        command,
        click.option("--price", metavar="ID", help="Rented at this price of `finetree prices list`; '': the cheapest."),
        click.option(
            "--price-per-kwh",
            type=MoneyAmount(),
            metavar="AMOUNT",
            help="Owned: price of a kilowatt-hour, such as '0.30 EUR'; US dollars without a currency.",
        ),
        click.option("--watts", type=Amount(), help="Owned: power of the whole machine under load."),
    )


def model_source(name: str) -> "model_pb2.ModelSource":
    """Convert --model: a catalog name, a hub id ("organization/name" with an optional "@revision"), or a folder."""
    from finetree_api.types.v1 import model_pb2

    if (folder := model_folder(name)) is not None:
        return model_pb2.ModelSource(path=folder.name)
    if "/" not in name:
        return model_pb2.ModelSource(name=name)
    hub, _, revision = name.partition("@")
    return model_pb2.ModelSource(hub=model_pb2.HubModel(id=hub, revision=revision))


@dataclass(frozen=True, slots=True)
class Machine:
    """Hardware of a request, and the measured rates that go with it."""

    hardware: "hardware_pb2.Hardware"
    matrix_rates: "hardware_pb2.MatrixRates | None" = None


def hardware(flags: HardwareFlags, client: "Client", *, base: "hardware_pb2.Hardware | None" = None) -> Machine | None:
    """Convert the hardware flags; None without any. Asks the trainer for --this-machine. Raises BadInput.

    `base` is the hardware of a job file, of which --devices, --sharding, --nodes and --network change what they say
    alone.
    """
    given = {
        "--gpu": flags.gpu is not None or flags.gpu_memory is not None,
        "--cpu": flags.cpu,
        "--this-machine": flags.this_machine,
    }
    chosen = [name for name, there in given.items() if there]
    if len(chosen) > 1:
        raise BadInput(f"{' and '.join(chosen)} exclude each other", remedy="keep one of them")
    file_device = None if chosen or base is None else base.WhichOneof("device")
    based = file_device in ("accelerator", "unknown_accelerator")
    _refuse_unused(flags, chosen, on_gpu=chosen == ["--gpu"] or based, on_any=bool(chosen or file_device))
    if flags.this_machine:
        machine = this_machine(client.capacity(wait_for_rate=RATE_WAIT_SECONDS))
        divide(machine.hardware, count=flags.count, sharding=flags.sharding)
        return machine
    found = _device(flags)
    divided = (flags.count, flags.sharding, flags.nodes, flags.network)
    if found is None and base is not None and any(each is not None for each in divided):
        found = type(base)()
        found.CopyFrom(base)
    if found is None:
        return None
    divide(found, count=flags.count, sharding=flags.sharding)
    if flags.nodes is not None:
        found.nodes = flags.nodes
    if flags.network is not None:
        found.network_gbits_per_second = flags.network
    return Machine(found)


def _device(flags: HardwareFlags) -> "hardware_pb2.Hardware | None":
    from finetree_api.types.v1 import hardware_pb2 as hw

    if flags.gpu_memory is not None:
        unknown = hw.UnknownAccelerator(marketed_memory_gb=flags.gpu_memory, name=flags.gpu or "")
        return hw.Hardware(unknown_accelerator=unknown)
    if flags.gpu is not None:
        return hw.Hardware(accelerator=flags.gpu)
    if flags.cpu:
        memory = round(flags.memory_gb * 1e9) if flags.memory_gb is not None else None
        return hw.Hardware(cpu=hw.CpuDevice(cores=flags.cores, memory_bytes=memory))
    return None


def divide(found: "hardware_pb2.Hardware", *, count: int | None, sharding: str | None) -> None:
    """Set how many devices there are and what is divided over them; None leaves what is there."""
    if count is not None:
        found.count = count
    if sharding is not None:
        found.sharding = enum_value(SHARDING, sharding)


def _refuse_unused(flags: HardwareFlags, chosen: list[str], *, on_gpu: bool, on_any: bool) -> None:
    """Refuse flags of hardware that is not given: they would have no effect."""
    for flag, given in (("--devices", flags.count), ("--sharding", flags.sharding)):
        if given and not on_any:
            raise BadInput(f"{flag} needs a device", remedy="name it: --gpu NAME, --gpu-memory GB, --cpu")
    for flag, value in (("--nodes", flags.nodes), ("--network", flags.network)):
        if value is not None and not on_gpu:
            raise BadInput(f"{flag} needs GPUs", remedy="name them: --gpu NAME --devices N")
    stray = [flag for flag, value in (("--cores", flags.cores), ("--memory-gb", flags.memory_gb)) if value is not None]
    if stray and chosen != ["--cpu"]:
        text = f"{' and '.join(stray)} need{'s' if len(stray) == 1 else ''} --cpu"
        raise BadInput(text, remedy="add --cpu, or give the memory of a GPU with --gpu-memory GB")


def this_machine(capacity: "capacity_pb2.GetCapacityResponse") -> Machine:
    """Return the trainer's device that a job would take: a GPU if there is one, else a CPU with its measured rates."""
    devices = [(device, node) for node in capacity.nodes for device in node.devices]
    if not devices:
        raise BadInput("the trainer has no device to train on", reason="NO_SUCH_DEVICE")
    device, node = min(devices, key=lambda pair: pair[0].hardware.WhichOneof("device") == "cpu")
    is_cpu = device.hardware.WhichOneof("device") == "cpu"
    return Machine(device.hardware, node.matrix_rates if is_cpu and node.HasField("matrix_rates") else None)


@dataclass(frozen=True, slots=True)
class Data:
    """Data of a request; None is not given."""

    dataset: "training_data_pb2.DatasetSource | None" = None
    profile: "training_data_pb2.DatasetProfile | None" = None
    evaluation: "training_pb2.Evaluation | None" = None
    evaluation_profile: "training_data_pb2.DatasetProfile | None" = None


def source_of(dataset: "dataset_pb2.Dataset") -> "training_data_pb2.DatasetSource":
    """Name a dataset and how it is read, as the trainer resolves it: a plan with it is approved as it will run."""
    from finetree_api.types.v1 import training_data_pb2

    reading = dataset.reading if dataset.HasField("reading") else None
    return training_data_pb2.DatasetSource(name=dataset.name, reading=reading)


def data(flags: DataFlags, client: "Client", job: "training_data_pb2.DatasetProfile | None" = None) -> Data:
    """Convert the data flags; the trainer gives the profiles of named datasets; `job` is a file's. Raises BadInput."""
    from finetree_api.types.v1 import training_pb2

    if flags.dataset and flags.examples is not None:
        raise BadInput("--dataset and --examples exclude each other", remedy="keep one of them")
    dataset = evaluation = evaluation_profile = None
    profile = given_rows(flags, None if flags.dataset else job)
    if flags.dataset:
        found = client.get_dataset(flags.dataset)
        dataset, profile = source_of(found), found.profile
    if flags.eval_dataset:
        held_out = client.get_dataset(flags.eval_dataset)
        evaluation = training_pb2.Evaluation(dataset=source_of(held_out), before_training=True)
        evaluation_profile = held_out.profile
    return Data(dataset, profile, evaluation, evaluation_profile)


class RowFlags(Protocol):
    """Options that describe rows; None is not given."""

    @property
    def examples(self) -> int | None:
        """Number of rows."""

    @property
    def tokens(self) -> int | None:
        """Of all rows together."""

    @property
    def tokens_per_example(self) -> int | None:
        """Of an average row."""

    @property
    def target_fraction(self) -> float | None:
        """Share of the tokens that enter the loss."""


def given_rows(
    flags: RowFlags, job: "training_data_pb2.DatasetProfile | None" = None
) -> "training_data_pb2.DatasetProfile | None":
    """Describe rows by their number and their tokens, of all or of an average one; None where no option is given.

    Without --examples the other options describe the rows of a job file's profile, whose other values are kept.

    Raises:
        BadInput: The options exclude each other, or describe rows whose number is not given.
    """
    from finetree_api.types.v1 import training_data_pb2

    described = {
        "--tokens": flags.tokens,
        "--tokens-per-example": flags.tokens_per_example,
        "--target-fraction": flags.target_fraction,
    }
    stray = next((flag for flag, value in described.items() if value is not None), "")
    if flags.examples is not None:
        found = training_data_pb2.DatasetProfile(examples=flags.examples)
    elif not stray:
        return None
    elif job is None or not job.examples:
        raise BadInput(f"{stray} needs --examples", remedy="give the number of rows: --examples N")
    else:
        found = training_data_pb2.DatasetProfile(examples=job.examples)
        if job.HasField("total_tokens"):
            found.total_tokens = job.total_tokens
        if job.HasField("target_fraction"):
            found.target_fraction = job.target_fraction
    tokens = _tokens(found.examples, flags)
    if tokens is not None:
        found.total_tokens = tokens
    if flags.target_fraction is not None:
        found.target_fraction = flags.target_fraction
    return found


def _tokens(examples: int, flags: RowFlags) -> int | None:
    """Tokens of all rows together. Raises BadInput."""
    tokens = flags.tokens
    if tokens is not None and flags.tokens_per_example is not None:
        raise BadInput("--tokens and --tokens-per-example exclude each other", remedy="keep one of them")
    if tokens is not None and tokens < examples:
        text = f"--tokens {tokens:,} is less than one token for each of {examples:,} rows: it counts all rows together"
        remedy = f"for rows of {tokens:,} tokens give --tokens-per-example {tokens}, or --tokens {tokens * examples}"
        raise BadInput(text, remedy=remedy)
    if flags.tokens_per_example is not None:
        tokens = flags.tokens_per_example * examples
        if tokens > MOST:
            raise BadInput(f"--tokens-per-example: {examples:,} such rows have more than {MOST:,} tokens")
    return tokens


def ownership(flags: OwnershipFlags) -> "hardware_pb2.Ownership | None":
    """Convert the ownership flags; None without any. Raises BadInput."""
    from finetree_api.types.v1 import hardware_pb2 as hw

    if flags.price is not None and flags.price_per_kwh is not None:
        remedy = "--price is for rented hardware, --price-per-kwh for owned"
        raise BadInput("--price and --price-per-kwh exclude each other", remedy=remedy)
    if flags.price is not None:
        return hw.Ownership(rented=hw.RentedHardware(price_id=flags.price))
    if flags.price_per_kwh is not None or flags.watts is not None:
        return hw.Ownership(owned=hw.OwnedHardware(price_per_kwh=flags.price_per_kwh, watts=flags.watts))
    return None


def enum_value(values: Mapping[str, int], word: str | None) -> Any:
    """Return the enum's number of an option's word; 0 (UNSPECIFIED) without one."""
    return values[word] if word is not None else 0


def _add(command: F, *options: Callable[[F], F]) -> F:
    for option in reversed(options):
        command = option(command)
    return command
