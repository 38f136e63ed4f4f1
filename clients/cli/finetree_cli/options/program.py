# SPDX-License-Identifier: Apache-2.0
"""Flags that say which program trains, where it is not this suite's worker, and how it was started."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from finetree_api.estimator.v1 import estimator_pb2

F = TypeVar("F", bound=Callable[..., Any])

PROGRAMS = ("finetree", "transformers", "axolotl", "unsloth", "torchtune", "litgpt", "llm-foundry", "pytorch")
"""TrainingProgram of the contract; llama-factory is read as axolotl, trl and peft as transformers."""
LIBRARIES = ("fsdp", "fsdp2", "deepspeed")
"""ShardingLibrary of the contract."""
CACHES = ("kept", "emptied", "expandable")
"""AllocatorCache of the contract."""


def program_options(command: F) -> F:
    """Add the flags that `say_program` takes."""
    options = (
        click.option(
            "--program",
            type=click.Choice(PROGRAMS),
            help="What trains: transformers for its Trainer, TRL and PEFT; axolotl for LLaMA-Factory, too. [default: "
            "finetree]",
        ),
        click.option("--compiled", is_flag=True, help="That program compiles its layers (torch.compile)."),
        click.option("--sharding-library", type=click.Choice(LIBRARIES), help="What spreads its weights over GPUs."),
        click.option(
            "--allocator-cache", type=click.Choice(CACHES), help="What becomes of memory that its allocator holds."
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def say_program(request: "estimator_pb2.EstimateRunRequest", flags: Mapping[str, Any]) -> None:
    """Put what the flags say of the program into a request; what they leave open stays as it is."""
    from finetree_api.estimator.v1 import estimator_pb2 as pb

    if flags["program"]:
        request.program = pb.TrainingProgram.Value(_name("TRAINING_PROGRAM", flags["program"]))
    if flags["compiled"]:
        request.compiled = True
    if flags["sharding_library"]:
        request.sharding_library = pb.ShardingLibrary.Value(_name("SHARDING_LIBRARY", flags["sharding_library"]))
    if flags["allocator_cache"]:
        request.allocator_cache = pb.AllocatorCache.Value(_name("ALLOCATOR_CACHE", flags["allocator_cache"]))


def _name(prefix: str, word: str) -> str:
    """The contract's name of a choice."""
    return f"{prefix}_{word.upper().replace('-', '_')}"
