# SPDX-License-Identifier: Apache-2.0
"""Options for the training program and the fields that they become."""

from typing import Any

import click
import pytest
from click.testing import CliRunner
from finetree_api.types.v1 import run_spec_pb2, training_pb2
from finetree_cli.options import program
from finetree_cli.options.command import take_flags
from finetree_cli.options.program import ProgramFlags, program_options, set_program


def asked(*words: str) -> run_spec_pb2.RunSpec:
    spec = run_spec_pb2.RunSpec()

    @click.command()
    @program_options
    def command(**flags: Any) -> None:
        set_program(spec, take_flags(ProgramFlags, flags))

    result = CliRunner().invoke(command, list(words))
    assert result.exit_code == 0, result.output
    return spec


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        (program.PROGRAMS, training_pb2.TrainingProgram),
        (program.LIBRARIES, training_pb2.ShardingLibrary),
        (program.CACHES, training_pb2.AllocatorCache),
        (program.EXPERTS, training_pb2.ExpertProducts),
        (program.LAYER_KERNELS, training_pb2.LayerKernels),
    ],
)
def test_each_choice_of_the_contract_has_a_word(words, kind):
    prefix = kind.Name(0).removesuffix("UNSPECIFIED")
    names = {name.removeprefix(prefix).lower().replace("_", "-") for name, _ in kind.items()}

    assert set(words) == names - {"unspecified"}


def test_flags_become_the_programs_settings():
    names = ("--program", "llm-foundry", "--compile", "--sharding-library", "fsdp2", "--allocator-cache", "kept")
    spec = asked(*names, "--experts", "in-turn", "--layer-kernels", "fused")

    assert spec.program == training_pb2.ProgramSettings(
        program=training_pb2.TRAINING_PROGRAM_LLM_FOUNDRY,
        compile=True,
        sharding_library=training_pb2.SHARDING_LIBRARY_FSDP2,
        allocator_cache=training_pb2.ALLOCATOR_CACHE_KEPT,
        experts=training_pb2.EXPERT_PRODUCTS_IN_TURN,
        layer_kernels=training_pb2.LAYER_KERNELS_FUSED,
    )


def test_without_flags_the_spec_is_unchanged():
    assert asked() == run_spec_pb2.RunSpec()
