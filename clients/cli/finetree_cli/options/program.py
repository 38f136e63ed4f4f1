# SPDX-License-Identifier: Apache-2.0
"""Options for the training program, where it is not this suite's worker, and how it is started."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from finetree_api.types.v1 import run_spec_pb2

F = TypeVar("F", bound=Callable[..., Any])

PROGRAMS = ("finetree", "transformers", "axolotl", "unsloth", "torchtune", "litgpt", "llm-foundry", "pytorch")
"""Names of the contract's TrainingProgram; axolotl covers LLaMA-Factory, transformers covers TRL and PEFT."""
LIBRARIES = ("fsdp", "fsdp2", "deepspeed")
"""Names of the contract's ShardingLibrary."""
CACHES = ("kept", "emptied", "expandable")
"""Names of the contract's AllocatorCache."""

EXPERTS = ("grouped", "in-turn")
"""Names of the contract's ExpertProducts."""
LAYER_KERNELS = ("plain", "fused-norms", "fused")
"""Names of the contract's LayerKernels."""


@dataclass(frozen=True, slots=True)
class ProgramFlags:
    """The training program; None and False leave the spec's own value."""

    program: str | None = None
    compile: bool = False
    sharding_library: str | None = None
    allocator_cache: str | None = None
    experts: str | None = None
    layer_kernels: str | None = None
    fused_kernels: bool = False


def program_options(command: F) -> F:
    """Add the options of `ProgramFlags`."""
    options = (
        click.option(
            "--program",
            type=click.Choice(PROGRAMS),
            help="Training program: transformers also for its Trainer, TRL and PEFT; axolotl also for LLaMA-Factory. "
            "[default: finetree]",
        ),
        click.option("--compile", is_flag=True, help="The program compiles its layers (torch.compile)."),
        click.option("--sharding-library", type=click.Choice(LIBRARIES), help="What shards the weights over GPUs."),
        click.option(
            "--allocator-cache",
            type=click.Choice(CACHES),
            help="PyTorch's cache of freed memory: kept, emptied after each step, or in expandable segments.",
        ),
        click.option(
            "--experts",
            type=click.Choice(EXPERTS),
            help="A mixture's experts: in grouped products (transformers 5), or in turn (transformers 4).",
        ),
        click.option(
            "--fused-kernels",
            is_flag=True,
            help="Norms, rotary embedding and activation are one kernel each, as Liger's.",
        ),
        click.option(
            "--layer-kernels",
            type=click.Choice(LAYER_KERNELS),
            help="Fused kernels in the layers: none, of norms and rotary embedding, or of the activation too (Liger).",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def set_program(spec: "run_spec_pb2.RunSpec", flags: ProgramFlags) -> None:
    """Set the given flags in a spec."""
    from finetree_api.types.v1 import training_pb2 as tr

    if flags.program:
        spec.program.program = tr.TrainingProgram.Value(_name("TRAINING_PROGRAM", flags.program))
    if flags.compile:
        spec.program.compile = True
    if flags.sharding_library:
        spec.program.sharding_library = tr.ShardingLibrary.Value(_name("SHARDING_LIBRARY", flags.sharding_library))
    if flags.allocator_cache:
        spec.program.allocator_cache = tr.AllocatorCache.Value(_name("ALLOCATOR_CACHE", flags.allocator_cache))
    if flags.layer_kernels:
        spec.program.layer_kernels = tr.LayerKernels.Value(_name("LAYER_KERNELS", flags.layer_kernels))
    if flags.experts:
        spec.program.experts = tr.ExpertProducts.Value(_name("EXPERT_PRODUCTS", flags.experts))


def _name(prefix: str, word: str) -> str:
    """Return the contract's name of a flag's value."""
    return f"{prefix}_{word.upper().replace('-', '_')}"
