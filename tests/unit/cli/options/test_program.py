# SPDX-License-Identifier: Apache-2.0
"""Options for the training program and the fields that they become."""

from typing import Any

import click
import pytest
from click.testing import CliRunner
from finetree_api.estimator.v1 import estimator_pb2 as pb
from finetree_cli.options import program
from finetree_cli.options.command import take_flags
from finetree_cli.options.program import ProgramFlags, program_options, set_program


def asked(*words: str) -> pb.EstimateRunRequest:
    request = pb.EstimateRunRequest()

    @click.command()
    @program_options
    def command(**flags: Any) -> None:
        set_program(request, take_flags(ProgramFlags, flags))

    result = CliRunner().invoke(command, list(words))
    assert result.exit_code == 0, result.output
    return request


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        (program.PROGRAMS, pb.TrainingProgram),
        (program.LIBRARIES, pb.ShardingLibrary),
        (program.CACHES, pb.AllocatorCache),
    ],
)
def test_each_choice_of_the_contract_has_a_word(words, kind):
    prefix = kind.Name(0).removesuffix("UNSPECIFIED")
    names = {name.removeprefix(prefix).lower().replace("_", "-") for name, _ in kind.items()}

    assert set(words) == names - {"unspecified"}


def test_flags_become_fields_of_the_request():
    request = asked(
        "--program", "llm-foundry", "--compiled", "--sharding-library", "fsdp2", "--allocator-cache", "kept"
    )

    assert request == pb.EstimateRunRequest(
        program=pb.TRAINING_PROGRAM_LLM_FOUNDRY,
        compiled=True,
        sharding_library=pb.SHARDING_LIBRARY_FSDP2,
        allocator_cache=pb.ALLOCATOR_CACHE_KEPT,
    )


def test_without_flags_the_request_is_unchanged():
    assert asked() == pb.EstimateRunRequest()
