# SPDX-License-Identifier: Apache-2.0
"""Options for the settings of a run that change what it takes, and the fields that they become."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from finetree_cli.errors import BadInput
from finetree_cli.options.spec import choice, enum_value
from finetree_cli.options.types import Whole

if TYPE_CHECKING:
    from finetree_api.types.v1 import run_spec_pb2

F = TypeVar("F", bound=Callable[..., Any])

# The numbers are those of the contract's enums; a test compares them.
TARGETS = {"all-linear": 1, "attention": 2, "query-value": 3, "mlp": 4}
PLACEMENTS = {"pfeiffer": 1, "houlsby": 2, "parallel": 3}
QUANTIZATIONS = {"nf4": 1, "fp4": 2, "int8": 3, "gptq-int4": 4}
PACKING = {"on": 1, "off": 2}
PRECISIONS = {"bf16": 1, "bf16-mixed": 2, "fp32": 3, "fp16-mixed": 4}
OPTIMIZERS = {"adamw": 1, "adamw-8bit": 2, "paged-adamw-8bit": 3, "adafactor": 4, "sgd": 5}
ATTENTION = {"sdpa": 1, "flash": 2, "eager": 3}
CHECKPOINTING = {"off": 1, "on": 2, "offloaded": 3}
LOSS_KERNELS = {"full-logits": 1, "chunked": 2, "fused": 3, "completion-only": 4, "in-place": 5}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFlags:
    """Settings of a run; None leaves the spec's own value."""

    rank: int | None = None
    dropout: float | None = None
    targets: str | None = None
    quantization: str | None = None
    virtual_tokens: int | None = None
    bottleneck: int | None = None
    placement: str | None = None
    epochs: float | None = None
    steps: int | None = None
    batch: int | None = None
    micro_batch: int | None = None
    sequence_length: int | None = None
    packing: str | None = None
    precision: str | None = None
    optimizer: str | None = None
    attention: str | None = None
    checkpointing: str | None = None
    loss_kernel: str | None = None


def run_options(command: F) -> F:
    """Add the options of `RunFlags`."""
    options = (
        click.option("--rank", type=Whole(), help="Rank of LoRA or QLoRA."),
        click.option(
            "--dropout", type=float, metavar="SHARE", help="Dropout of LoRA's or QLoRA's inputs, from 0 to below 1."
        ),
        choice("--targets", TARGETS, "Layers that get a LoRA adapter."),
        choice("--quantization", QUANTIZATIONS, "How QLoRA stores the base."),
        click.option("--virtual-tokens", type=Whole(1), metavar="N", help="Length of the prefix of prefix tuning."),
        click.option("--bottleneck", type=Whole(1), metavar="N", help="Width of adapter layers."),
        choice("--placement", PLACEMENTS, "Adapter layers: after the MLP, after attention too, or beside the MLP."),
        click.option("--epochs", type=float, help="Number of epochs."),
        click.option("--steps", type=Whole(), help="Number of optimizer steps, in place of --epochs."),
        click.option("--batch", type=Whole(), help="Rows in an optimizer step (effective batch size)."),
        click.option("--micro-batch", type=Whole(), help="Rows in a forward pass of one device (micro-batch size)."),
        click.option("--sequence-length", type=Whole(), help="Longest row in tokens."),
        choice("--packing", PACKING, "Whether rows share a sequence, or are padded."),
        choice("--precision", PRECISIONS, "Number formats of weights and compute."),
        choice("--optimizer", OPTIMIZERS, "Update rule, and how its states are stored."),
        choice("--attention", ATTENTION, "How attention is computed."),
        choice("--checkpointing", CHECKPOINTING, "Gradient checkpointing; offloaded: layer inputs in host memory."),
        choice("--loss-kernel", LOSS_KERNELS, "How logits and loss are computed."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def set_run(spec: "run_spec_pb2.RunSpec", flags: RunFlags) -> None:
    """Set the given flags in a spec that has its method. Raises BadInput."""
    _set_method(spec, flags)
    if flags.epochs is not None and flags.steps is not None:
        raise BadInput("--epochs and --steps exclude each other", remedy="keep one of them")
    numbers = {
        "epochs": flags.epochs,
        "max_steps": flags.steps,
        "effective_batch_size": flags.batch,
        "micro_batch_size": flags.micro_batch,
        "sequence_length": flags.sequence_length,
    }
    for name, value in numbers.items():
        if value is not None:
            setattr(spec.training, name, value)
    if flags.packing:
        spec.training.packing = enum_value(PACKING, flags.packing)
    if flags.precision:
        spec.precision = enum_value(PRECISIONS, flags.precision)
    if flags.optimizer:
        spec.optimizer = enum_value(OPTIMIZERS, flags.optimizer)
    if flags.attention:
        spec.attention = enum_value(ATTENTION, flags.attention)
    if flags.checkpointing:
        spec.gradient_checkpointing = enum_value(CHECKPOINTING, flags.checkpointing)
    if flags.loss_kernel:
        spec.loss_kernel = enum_value(LOSS_KERNELS, flags.loss_kernel)


def _set_method(spec: "run_spec_pb2.RunSpec", flags: RunFlags) -> None:
    """Set the flags of one method, and refuse those of others: they would have no effect."""
    method = spec.WhichOneof("method")
    of_method = (
        ("--rank", flags.rank, ("lora", "qlora")),
        ("--dropout", flags.dropout, ("lora", "qlora")),
        ("--targets", flags.targets, ("lora", "qlora")),
        ("--quantization", flags.quantization, ("qlora",)),
        ("--virtual-tokens", flags.virtual_tokens, ("prefix",)),
        ("--bottleneck", flags.bottleneck, ("adapter",)),
        ("--placement", flags.placement, ("adapter",)),
    )
    for flag, value, methods in of_method:
        if value is not None and method not in methods:
            raise BadInput(f"{flag} needs --method {' or '.join(methods)}")
    lora = spec.qlora.lora if method == "qlora" else spec.lora
    if flags.rank is not None:
        lora.rank = flags.rank
    if flags.dropout is not None:
        lora.dropout = flags.dropout
    if flags.targets:
        lora.ClearField("target_modules")
        lora.targets = enum_value(TARGETS, flags.targets)
    if flags.quantization:
        spec.qlora.quantization = enum_value(QUANTIZATIONS, flags.quantization)
    if flags.virtual_tokens is not None:
        spec.prefix.virtual_tokens = flags.virtual_tokens
    if flags.bottleneck is not None:
        spec.adapter.bottleneck_size = flags.bottleneck
    if flags.placement:
        spec.adapter.placement = enum_value(PLACEMENTS, flags.placement)
