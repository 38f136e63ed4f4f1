# SPDX-License-Identifier: Apache-2.0
"""Options for the training program, where it is not this suite's worker, and how it is started."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from finetree_api.estimator.v1 import estimator_pb2

F = TypeVar("F", bound=Callable[..., Any])

PROGRAMS = ("finetree", "transformers", "axolotl", "unsloth", "torchtune", "litgpt", "llm-foundry", "pytorch")
"""Names of the contract's TrainingProgram; axolotl covers LLaMA-Factory, transformers covers TRL and PEFT."""
LIBRARIES = ("fsdp", "fsdp2", "deepspeed")
"""Names of the contract's ShardingLibrary."""
CACHES = ("kept", "emptied", "expandable")
"""Names of the contract's AllocatorCache."""


@dataclass(frozen=True, slots=True)
class ProgramFlags:
    """The training program; None and False leave the request's own value."""

    program: str | None = None
    compiled: bool = False
    sharding_library: str | None = None
    allocator_cache: str | None = None


def program_options(command: F) -> F:
    """Add the options of `ProgramFlags`."""
    options = (
        click.option(
            "--program",
            type=click.Choice(PROGRAMS),
            help="Training program: transformers also for its Trainer, TRL and PEFT; axolotl also for LLaMA-Factory. "
            "[default: finetree]",
        ),
        click.option("--compiled", is_flag=True, help="The program compiles its layers (torch.compile)."),
        click.option("--sharding-library", type=click.Choice(LIBRARIES), help="What shards the weights over GPUs."),
        click.option(
            "--allocator-cache",
            type=click.Choice(CACHES),
            help="PyTorch's cache of freed memory: kept, emptied between steps, or in expandable segments.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def set_program(request: "estimator_pb2.EstimateRunRequest", flags: ProgramFlags) -> None:
    """Set the given flags in a request."""
    from finetree_api.estimator.v1 import estimator_pb2 as pb

    if flags.program:
        request.program = pb.TrainingProgram.Value(_name("TRAINING_PROGRAM", flags.program))
    if flags.compiled:
        request.compiled = True
    if flags.sharding_library:
        request.sharding_library = pb.ShardingLibrary.Value(_name("SHARDING_LIBRARY", flags.sharding_library))
    if flags.allocator_cache:
        request.allocator_cache = pb.AllocatorCache.Value(_name("ALLOCATOR_CACHE", flags.allocator_cache))


def _name(prefix: str, word: str) -> str:
    """Return the contract's name of a flag's value."""
    return f"{prefix}_{word.upper().replace('-', '_')}"
