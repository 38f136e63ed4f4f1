# SPDX-License-Identifier: Apache-2.0
"""Which device a build of torch is for, and whether the machine has it."""

import pytest
from finetree_cli.doctor.finding import Level
from finetree_cli.doctor.gpus import Gpu, parsed
from finetree_cli.doctor.packages import cuda_of, torch_finding

CARD = Gpu("NVIDIA H100 80GB HBM3", "570.86.15", 81559, 4)


@pytest.mark.parametrize(
    ("version", "requires", "cuda"),
    [
        ("2.13.0+cpu", ["nvidia-cublas-cu12==12.8"], 0),
        ("2.13.0+cu128", [], 12),
        ("2.13.0", ['nvidia-cublas-cu12==12.8.4.1; platform_system == "Linux"', "sympy"], 12),
        ("2.13.0", ['cuda-toolkit[cublas]==13.0.2; platform_system == "Linux"'], 13),
        ("2.13.0", ["sympy"], 0),
    ],
)
def test_a_build_says_what_it_is_for(version, requires, cuda):
    assert cuda_of(version, requires) == cuda


@pytest.mark.parametrize(
    ("version", "cards", "level", "said"),
    [
        ("2.13.0+cpu", [], Level.OK, "no NVIDIA GPU"),
        ("2.13.0+cpu", [CARD], Level.PROBLEM, "would not use it"),
        ("2.13.0+cu128", [], Level.WARNING, "runs on the CPU"),
        ("2.13.0+cu128", [CARD], Level.OK, "driver 570.86.15"),
        ("2.13.0+cu130", [CARD], Level.PROBLEM, "too old"),
    ],
)
def test_torch_and_the_machine_must_fit(version, cards, level, said):
    found = torch_finding(version, [], cards)
    assert found.level is level
    assert said in found.found
    assert bool(found.remedy) == bool(level)


def test_a_card_that_does_not_tell_its_memory_is_read_all_the_same():
    assert parsed("NVIDIA GB10, 580.95.05, [N/A], [N/A]") == Gpu("NVIDIA GB10", "580.95.05", 0, 0)
