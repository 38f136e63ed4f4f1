# SPDX-License-Identifier: Apache-2.0
"""What a process takes of a GPU outside its allocator, by what the GPU is built for."""

import pytest
from finetree_estimator.catalog import devices
from finetree_estimator.catalog.accelerators import accelerator

MIB = 2**20


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [
        ("t4", 141 * MIB, 250 * MIB),
        ("rtx-3090", 256 * MIB, 700 * MIB),
        ("rtx-6000-ada", 426 * MIB, 700 * MIB),
        ("a100-80gb", 1370 * MIB, 1630 * MIB),
        ("h100-sxm", 1370 * MIB, 1630 * MIB),
    ],
)
def test_the_context_is_at_least_what_was_seen_on_the_card_and_not_much_more(name, least, most):
    assert least <= devices.known(accelerator(name), fp32=False).context_bytes <= most


def test_an_unknown_card_has_the_larger_context():
    assert devices.by_memory_class(24).context_bytes >= devices.known(accelerator("rtx-4090"), fp32=False).context_bytes


def test_a_process_has_its_part_of_a_cpu_and_threads_that_no_process_gets_compute_nothing():
    whole = devices.processor(cores=5, memory_bytes=16 * 1024 * MIB, measured_flops=1e12)
    half = devices.part_of(whole, 2)

    assert devices.part_of(whole, 1) == whole
    assert half.cores == 2
    assert half.usable_bytes == whole.usable_bytes // 2
    assert 2 * half.watts == whole.watts
    assert 2 * half.training_flops == pytest.approx(4 / 5 * whole.training_flops)
